//! The key names under which other services already write revocations.
//!
//! A pattern is text with its own placeholder in it, and may name the issuer as well where several
//! issuers share a key space: `blacklist:{jti}`, `{iss}:logout:{sub}`.

use std::fmt;
use std::sync::Arc;

use super::record::RecordKey;

/// What a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One token, by its `jti`: the key's presence kills it.
    Jti,
    /// One login, by its `sid`: the key's presence kills all its tokens.
    Sid,
    /// One subject: the key's value is a unix time, tokens issued at or before it are dead.
    Sub,
    /// One issuer, in the same way.
    Iss,
    /// Everybody, in the same way.
    All,
}

impl Kind {
    /// Every kind, the narrowest first.
    pub const ALL: [Self; 5] = [Self::Jti, Self::Sid, Self::Sub, Self::Iss, Self::All];

    /// Its name in the configuration; of all but `all` also the claim, and the placeholder, that it goes by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sid => "sid",
            Self::Sub => "sub",
            Self::Iss => "iss",
            Self::All => "all",
        }
    }

    /// Whether the key's value is a time, and not its presence what counts.
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Sub | Self::Iss | Self::All)
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
                name if name == kind.name() && kind != Kind::All => Piece::Claim,
                "iss" if kind != Kind::All => Piece::Issuer,
                other => return Err(PatternFault::UnknownPlaceholder(other.to_owned())),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let is_whole = if kind == Kind::All { !pieces.is_empty() } else { pieces.contains(&Piece::Claim) };
        if !is_whole {
            return Err(PatternFault::NoPlaceholder);
        }
        Ok(Self { kind, pieces })
    }

    /// The key for one claim value of one issuer; `all` has neither.
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

    /// The keys that it can give, as a glob of Redis: `blacklist:*`.
    #[must_use]
    pub fn glob(&self) -> String {
        self.pieces.iter().fold(String::new(), |mut glob, piece| {
            match piece {
                Piece::Text(text) => text.chars().for_each(|c| {
                    if "*?[]^\\".contains(c) {
                        glob.push('\\');
                    }
                    glob.push(c);
                }),
                Piece::Claim | Piece::Issuer => glob.push('*'),
            }
            glob
        })
    }

    /// Whether it can give this key.
    #[must_use]
    pub fn gives(&self, key: &str) -> bool {
        let mut rest = key;
        let mut is_open = false;
        for (place, piece) in self.pieces.iter().enumerate() {
            let Piece::Text(text) = piece else {
                is_open = true;
                continue;
            };
            let is_last = place + 1 == self.pieces.len();
            let found = match (is_open, is_last) {
                (false, _) => rest.strip_prefix(&**text),
                (true, true) => rest.strip_suffix(&**text).map(|_| ""),
                (true, false) => rest.split_once(&**text).map(|(_, rest)| rest),
            };
            match found {
                Some(after) => rest = after,
                None => return false,
            }
            is_open = false;
        }
        is_open || rest.is_empty()
    }

    /// Whether the key says which issuer's it is.
    #[must_use]
    pub fn names_issuer(&self) -> bool {
        self.pieces.contains(&Piece::Issuer)
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key(&format!("{{{}}}", self.kind.name()), "{iss}"))
    }
}

/// The key patterns of a configuration; an absent one is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPatterns {
    /// Present = this token is dead.
    pub jti: Option<KeyPattern>,
    /// Value = unix time; tokens issued at or before it are dead.
    pub sub: Option<KeyPattern>,
    /// Present = every token of this login is dead.
    pub sid: Option<KeyPattern>,
    /// Value = unix time; tokens of this issuer issued at or before it are dead.
    pub iss: Option<KeyPattern>,
    /// Value = unix time; all tokens issued at or before it are dead.
    pub all: Option<KeyPattern>,
}

impl KeyPatterns {
    /// The pattern for one kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Option<&KeyPattern> {
        match kind {
            Kind::Jti => self.jti.as_ref(),
            Kind::Sid => self.sid.as_ref(),
            Kind::Sub => self.sub.as_ref(),
            Kind::Iss => self.iss.as_ref(),
            Kind::All => self.all.as_ref(),
        }
    }

    /// The keys whose times take back what was issued to a subject by an issuer.
    #[must_use]
    pub fn times(&self, subject: &str, issuer: &str) -> Vec<Arc<str>> {
        let values = [(&self.sub, subject), (&self.iss, issuer), (&self.all, "")];
        let given = values.into_iter().filter_map(|(pattern, value)| pattern.as_ref().zip(Some(value)));
        given.map(|(pattern, value)| pattern.key(value, issuer).into()).collect()
    }

    /// What would be asked for a token that does not exist: tells whether the store lets us ask.
    #[must_use]
    pub fn probe(&self) -> StandingKeys {
        let key = |pattern: &KeyPattern| Arc::from(pattern.key("bearward-probe", "bearward-probe"));
        StandingKeys {
            present: self.jti.iter().chain(&self.sid).map(key).collect(),
            times: self.sub.iter().chain(&self.iss).chain(&self.all).map(key).collect(),
            issued_at: i64::MAX,
            record: None,
        }
    }
}

/// All that the store has to be asked about one credential; made once, when that is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingKeys {
    /// Keys whose presence, with any value of any type, kills the token.
    pub present: Vec<Arc<str>>,
    /// Keys whose value, a unix time, kills the token if its `iat` is at or before it.
    pub times: Vec<Arc<str>>,
    /// The token's `iat` in whole seconds, rounded down.
    pub issued_at: i64,
    /// The record that has to be there, as it was: of a session, not of a token.
    pub record: Option<RecordKey>,
}

impl StandingKeys {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present.len() + self.times.len() + usize::from(self.record.is_some())
    }

    /// The name of every key.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.present.iter().chain(&self.times).chain(self.record.iter().map(|record| &record.name))
    }

    /// Each key by itself.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        let issued_at = self.issued_at;
        let none = move || Self { issued_at, ..Self::default() };
        let present = self.present.iter().map(move |key| Self { present: vec![Arc::clone(key)], ..none() });
        let times = self.times.iter().map(move |key| Self { times: vec![Arc::clone(key)], ..none() });
        let record = self.record.iter().map(move |record| Self { record: Some(record.clone()), ..none() });
        present.chain(times).chain(record)
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.present.is_empty() && self.times.is_empty() && self.record.is_none()
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
        let pattern = KeyPattern::parse(Kind::Sub, "{iss}|out*:{sub}!").expect("a good pattern");
        assert_eq!(pattern.glob(), "*|out\\*:*!");
        assert!(pattern.gives("https://i|out*:kim!") && pattern.gives("|out*:!"));
        for other in ["https://i|out*:kim", "https://i|outx:kim!", "", "!"] {
            assert!(!pattern.gives(other), "{other}");
        }
        let pattern = KeyPattern::parse(Kind::Iss, "logout-issuer:{iss}").expect("a good pattern");
        assert_eq!(pattern.key("https://i", "https://i"), "logout-issuer:https://i");
        assert_eq!(KeyPattern::parse(Kind::Iss, "logout"), Err(PatternFault::NoPlaceholder));
        assert_eq!(KeyPattern::parse(Kind::All, "logout-all").expect("a good pattern").key("", ""), "logout-all");
        assert_eq!(KeyPattern::parse(Kind::All, ""), Err(PatternFault::NoPlaceholder));
        for name in ["iss", "all"] {
            let fault = PatternFault::UnknownPlaceholder(name.to_owned());
            assert_eq!(KeyPattern::parse(Kind::All, &format!("x{{{name}}}")), Err(fault));
        }
    }
}
