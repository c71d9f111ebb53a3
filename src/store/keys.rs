//! The key names under which other services already write revocations.
//!
//! A pattern is text with its own placeholder in it, and may name the issuer as well where several
//! issuers share a key space: `blacklist:{jti}`, `{iss}:logout:{sub}`.

use std::fmt;
use std::sync::Arc;

/// What a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One token, by its `jti`: the key's presence kills it.
    Jti,
    /// One login, by its `sid`: the key's presence kills all its tokens.
    Sid,
    /// One subject: the key's value is a unix time, tokens issued at or before it are dead.
    Sub,
}

impl Kind {
    /// The claim, and the placeholder, that it goes by.
    #[must_use]
    pub const fn claim(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sid => "sid",
            Self::Sub => "sub",
        }
    }
}

/// A key name with a hole for a claim, such as `blacklist:{jti}`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPattern {
    kind: Kind,
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Claim,
    Issuer,
}

/// Why a text is no key pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternFault {
    /// It lacks its own placeholder, so that every token would share one key.
    NoPlaceholder,
    /// A placeholder that means nothing here.
    UnknownPlaceholder(String),
    /// `{` without `}`.
    Unclosed,
}

impl KeyPattern {
    /// Reads `text`, for example `blacklist:{jti}`.
    ///
    /// # Errors
    /// [`PatternFault`], when the placeholder for `kind` is absent or another one is unknown.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, PatternFault> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, tail) = after.split_once('}').ok_or(PatternFault::Unclosed)?;
            pieces.push(match name {
                name if name == kind.claim() => Piece::Claim,
                "iss" => Piece::Issuer,
                other => return Err(PatternFault::UnknownPlaceholder(other.to_owned())),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if !pieces.contains(&Piece::Claim) {
            return Err(PatternFault::NoPlaceholder);
        }
        Ok(Self { kind, pieces })
    }

    /// The key for one claim value of one issuer.
    #[must_use]
    pub fn key(&self, claim: &str, issuer: &str) -> String {
        self.pieces.iter().fold(String::new(), |mut key, piece| {
            key.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Claim => claim,
                Piece::Issuer => issuer,
            });
            key
        })
    }

    /// Whether the key says which issuer's it is.
    #[must_use]
    pub fn names_issuer(&self) -> bool {
        self.pieces.contains(&Piece::Issuer)
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key(&format!("{{{}}}", self.kind.claim()), "{iss}"))
    }
}

/// The key patterns of a configuration; an absent one is not asked.
#[derive(Clone, Debug, Default)]
pub struct KeyPatterns {
    /// Present = this token is dead.
    pub jti: Option<KeyPattern>,
    /// Value = unix time; tokens issued at or before it are dead.
    pub sub: Option<KeyPattern>,
    /// Present = every token of this login is dead.
    pub sid: Option<KeyPattern>,
}

impl KeyPatterns {
    /// The pattern for one kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Option<&KeyPattern> {
        match kind {
            Kind::Jti => self.jti.as_ref(),
            Kind::Sid => self.sid.as_ref(),
            Kind::Sub => self.sub.as_ref(),
        }
    }

    /// What would be asked for a token that does not exist: tells whether the store lets us ask.
    #[must_use]
    pub fn probe(&self) -> StandingKeys {
        let key = |pattern: &KeyPattern| Arc::from(pattern.key("bearward-probe", "bearward-probe"));
        StandingKeys {
            present: self.jti.iter().chain(&self.sid).map(key).collect(),
            not_before: self.sub.as_ref().map(|pattern| NotBefore { key: key(pattern), issued_at: i64::MAX }),
        }
    }
}

/// All that the store has to be asked about one token; made once, when the token is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingKeys {
    /// Keys whose presence, with any value of any type, kills the token.
    pub present: Vec<Arc<str>>,
    /// A key whose value, a unix time, kills the token if `iat` is at or before it.
    pub not_before: Option<NotBefore>,
}

/// A not-before key and the token's `iat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotBefore {
    /// The key.
    pub key: Arc<str>,
    /// The token's `iat` in whole seconds, rounded down.
    pub issued_at: i64,
}

impl StandingKeys {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present.len() + usize::from(self.not_before.is_some())
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.present.is_empty() && self.not_before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_needs_its_own_placeholder_and_knows_no_other_but_the_issuer() {
        let pattern = KeyPattern::parse(Kind::Jti, "blacklist:{jti}").expect("a good pattern");
        assert_eq!(pattern.key("a1", "x"), "blacklist:a1");
        let pattern = KeyPattern::parse(Kind::Sub, "{iss}:logout:{sub}!").expect("a good pattern");
        assert_eq!(pattern.key("kim", "https://i"), "https://i:logout:kim!");
        assert!(pattern.names_issuer());
        for (text, fault) in [
            ("blacklist", PatternFault::NoPlaceholder),
            ("", PatternFault::NoPlaceholder),
            ("b:{iss}", PatternFault::NoPlaceholder),
            ("b:{sub}", PatternFault::UnknownPlaceholder("sub".to_owned())),
            ("b:{jti", PatternFault::Unclosed),
        ] {
            assert_eq!(KeyPattern::parse(Kind::Jti, text), Err(fault), "{text}");
        }
    }
}
