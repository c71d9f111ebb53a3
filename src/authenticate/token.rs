//! A token's text becomes its parts: header, claims, signed text, signature. Nothing is trusted yet.
//!
//! 1. Exactly three parts, none empty (RFC 7515 §3.1): no JSON serialization, no JWE, no `none`.
//! 2. The header is strict JSON; `alg` is one that is known, spelt exactly so.
//! 3. `crit`, `b64`, `zip` and `enc` are refused (RFC 7515 §4.1.11: what is not understood must not
//!    be passed over; nothing that would need them is offered).
//! 4. `typ`, if there, is `JWT` or `at+jwt` (RFC 9068 §2.1), with or without `application/`.
//! 5. `kid`, if there, is text of at most 256 bytes. `jku`, `x5u`, `jwk` and `x5c` are not looked at.
//! 6. The claims are strict JSON.
//!
//! A header that was just taken apart is known: an issuer writes the same one into every token that it signs with one key.
//!
//! Sources: RFC 7515, RFC 7519 §7.2, RFC 8725.

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::bearer::Bearer;
use super::claims::Claims;
use super::json;
use crate::denial::Denial;

/// Longest `kid`, in bytes.
const MAX_KID: usize = 256;
/// Headers that a thread knows, and the longest, in bytes.
const KNOWN: usize = 8;
const MAX_KNOWN: usize = 512;

thread_local! {
    static HEADERS: RefCell<Vec<KnownHeader>> = const { RefCell::new(Vec::new()) };
}

/// A token taken apart. Its claims are only claims until the signature has been verified.
#[derive(Debug)]
pub struct UnverifiedToken<'t> {
    /// The algorithm that the token says it is signed with.
    pub algorithm: Algorithm,
    /// The key that it says it is signed with.
    pub kid: Option<Arc<str>>,
    /// What it says of the caller.
    pub claims: Claims,
    /// What is signed: `header.payload` as it was sent.
    pub signed: &'t str,
    /// The signature, still encoded.
    pub signature: &'t str,
}

impl<'t> UnverifiedToken<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// `MalformedToken`, `UnsupportedToken`, or `AlgorithmNotAllowed` for an `alg` that is not known.
    pub fn parse(bearer: Bearer<'t>) -> Result<Self, Denial> {
        Self::parse_as(bearer, Expects::AccessToken)
    }

    /// The same where another kind of token is expected.
    ///
    /// # Errors
    /// As [`UnverifiedToken::parse`].
    pub fn parse_as(bearer: Bearer<'t>, expects: Expects) -> Result<Self, Denial> {
        let text = bearer.text()?;
        let (signed, signature) = text.rsplit_once('.').ok_or(Denial::MalformedToken)?;
        let (header, payload) = signed.split_once('.').ok_or(Denial::MalformedToken)?;
        if header.is_empty() || payload.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(Denial::MalformedToken);
        }
        let header = Header::of(header, expects)?;
        let claims = json::object(&decode(payload)?).map(Claims::new).ok_or(Denial::MalformedToken)?;
        Ok(Self { algorithm: header.algorithm, kid: header.kid, claims, signed, signature })
    }
}

#[derive(Clone)]
struct Header {
    algorithm: Algorithm,
    kid: Option<Arc<str>>,
}

/// A header by its text. It says of a token what the token says of itself: nothing is believed sooner.
struct KnownHeader {
    text: Box<str>,
    expects: Expects,
    header: Header,
}

impl Header {
    /// What a header says, which may be known.
    fn of(text: &str, expects: Expects) -> Result<Self, Denial> {
        let is_it = |known: &KnownHeader| *known.text == *text && known.expects == expects;
        let known = HEADERS.with_borrow(|all| all.iter().find(|known| is_it(known)).map(|known| known.header.clone()));
        if let Some(header) = known {
            return Ok(header);
        }
        let header = Self::parse(&decode(text)?, expects)?;
        if text.len() <= MAX_KNOWN {
            HEADERS.with_borrow_mut(|all| {
                // The oldest makes room.
                if all.len() >= KNOWN {
                    all.remove(0);
                }
                all.push(KnownHeader { text: text.into(), expects, header: header.clone() });
            });
        }
        Ok(header)
    }

    fn parse(bytes: &[u8], expects: Expects) -> Result<Self, Denial> {
        let members = json::object(bytes).ok_or(Denial::MalformedToken)?;
        if ["crit", "b64", "zip", "enc"].iter().any(|&name| members.contains_key(name)) {
            return Err(Denial::UnsupportedToken);
        }
        match members.get("typ") {
            None => {}
            Some(Value::String(typ)) if expects.takes(typ) => {}
            Some(_) => return Err(Denial::UnsupportedToken),
        }
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.as_str().into()),
            Some(_) => return Err(Denial::MalformedToken),
        };
        let algorithm = members.get("alg").and_then(Value::as_str).ok_or(Denial::AlgorithmNotAllowed)?;
        let algorithm = algorithm_named(algorithm).ok_or(Denial::AlgorithmNotAllowed)?;
        Ok(Self { algorithm, kid })
    }
}

/// The algorithm of an exact name; `none` is not one.
#[must_use]
pub fn algorithm_named(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// Every algorithm that can be pinned, by its name in RFC 7518 §3.1 and RFC 8037 §3.1.
pub const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// Which kind of token is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    /// One that says who calls (RFC 9068).
    AccessToken,
    /// One that says that a login has ended (OpenID Connect Back-Channel Logout 1.0 §2.4).
    LogoutToken,
}

impl Expects {
    /// Whether it may be of this type: none is the other (RFC 8725 §3.11).
    fn takes(self, typ: &str) -> bool {
        let short = match typ.split_at_checked(12) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
            _ => typ,
        };
        let own = match self {
            Self::AccessToken => "at+jwt",
            Self::LogoutToken => "logout+jwt",
        };
        short.eq_ignore_ascii_case("jwt") || short.eq_ignore_ascii_case(own)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Denial> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Denial::MalformedToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, rest: &str) -> Result<Algorithm, Denial> {
        let token = format!("{}{rest}", URL_SAFE_NO_PAD.encode(header));
        UnverifiedToken::parse(Bearer::from_text(&token)?).map(|token| token.algorithm)
    }

    #[test]
    fn a_header_that_is_known_says_what_it_said_and_of_one_kind_of_token_alone() {
        let text = |header: &str| URL_SAFE_NO_PAD.encode(header);
        let logout = text(r#"{"alg":"RS256","typ":"logout+jwt","kid":"1"}"#);
        for _ in 0..2 {
            let taken = Header::of(&logout, Expects::LogoutToken).expect("a header");
            assert_eq!((taken.algorithm, taken.kid.as_deref()), (Algorithm::RS256, Some("1")));
            assert_eq!(Header::of(&logout, Expects::AccessToken).err(), Some(Denial::UnsupportedToken));
        }
        // More of them than are known, each twice, and what is refused is refused again.
        for number in (0..3 * KNOWN).chain(0..3 * KNOWN) {
            let taken = Header::of(&text(&format!(r#"{{"alg":"ES256","kid":"{number}"}}"#)), Expects::AccessToken);
            assert_eq!(taken.expect("a header").kid.as_deref(), Some(&*number.to_string()));
            assert_eq!(Header::of(&text("{}"), Expects::AccessToken).err(), Some(Denial::AlgorithmNotAllowed));
        }
        assert!(HEADERS.with_borrow(Vec::len) <= KNOWN);
    }

    #[test]
    fn only_a_strict_compact_token_is_taken_apart() {
        let good = ".e30.c2ln";
        let cases = [
            (r#"{"alg":"RS256"}"#, good, Ok(Algorithm::RS256)),
            (r#"{"alg":"RS256","typ":"at+JWT","kid":"1"}"#, good, Ok(Algorithm::RS256)),
            (r#"{"alg":"RS256","typ":"application/at+jwt"}"#, good, Ok(Algorithm::RS256)),
            (r#"{"alg":"RS256","typ":"dpop+jwt"}"#, good, Err(Denial::UnsupportedToken)),
            (r#"{"alg":"RS256","typ":1}"#, good, Err(Denial::UnsupportedToken)),
            (r#"{"alg":"RS256","crit":[]}"#, good, Err(Denial::UnsupportedToken)),
            (r#"{"alg":"RS256","b64":true}"#, good, Err(Denial::UnsupportedToken)),
            (r#"{"alg":"RS256","kid":1}"#, good, Err(Denial::MalformedToken)),
            (r#"{"alg":"rs256"}"#, good, Err(Denial::AlgorithmNotAllowed)),
            (r#"{"alg":"RS256 "}"#, good, Err(Denial::AlgorithmNotAllowed)),
            (r#"{"alg":"none"}"#, good, Err(Denial::AlgorithmNotAllowed)),
            (r#"{"alg":["RS256"]}"#, good, Err(Denial::AlgorithmNotAllowed)),
            ("{}", good, Err(Denial::AlgorithmNotAllowed)),
            (r#"{"alg":"RS256","alg":"HS256"}"#, good, Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e30.", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e30", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, "..c2ln", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e30.c2ln.c2ln", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e30=.c2ln", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".W10.c2ln", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e3 0.c2ln", Err(Denial::MalformedToken)),
            (r#"{"alg":"RS256"}"#, ".e30,e30.c2ln", Err(Denial::MalformedToken)),
        ];
        for (header, rest, expected) in cases {
            assert_eq!(parse(header, rest), expected, "{header} {rest}");
        }
    }
}
