//! The refresh tokens of one login: which of them is good, and what it becomes.
//!
//! 1. A token is `base64url( sid secret tag )`: 16 bytes that name the login, 32 that nobody can guess, and 16 that
//!    prove that the login has had it ([`Family::has_had`]), so that a made-up token ends no login.
//! 2. The store has digests of tokens, never a token. What follows a token is made of its secret and of a salt in the
//!    store: neither who has read the store nor who has an old token can make it, and a request that is sent
//!    again gets the same.
//! 3. The current token is turned on. One that was turned on less than `reuse_grace` ago becomes what it has become since:
//!    two tabs, or an answer that was lost. Any other that the login has had is a copy in the wrong hands.
//! 4. Pure: the family that comes after is for the caller to put into the store in the place of this one, in one step.
//!
//! Source: RFC 9700 §4.14.2.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const SID: usize = 16;
const SECRET: usize = 32;
const TAG: usize = 16;
/// Turns within one grace that are remembered.
const TURNS: usize = 16;

/// What a client refreshes with.
pub struct RefreshToken {
    sid: [u8; SID],
    secret: [u8; SECRET],
    tag: [u8; TAG],
}

/// One login, as the store has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// Whose tokens they are (`iss`).
    pub issuer: String,
    /// Who logged in (`sub`).
    pub subject: String,
    /// What else access tokens say.
    pub claims: Map<String, Value>,
    /// Which application it was (`client_id`).
    pub client: String,
    /// When it began, in unix seconds.
    pub began: i64,
    /// The key of the session's record that began with it.
    pub session: Option<String>,
    /// Proves that a token was one of this login's; 32 bytes.
    key: String,
    /// The digest of the token that is good now.
    current: String,
    /// Since when it is, in unix milliseconds by the store's clock.
    since: u64,
    /// The tokens before it, the latest last.
    turned: Vec<Turned>,
}

/// A token that has been turned on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Turned {
    digest: String,
    salt: String,
    /// In unix milliseconds, by the store's clock.
    at: u64,
}

/// What may become of a token.
#[derive(Clone, Copy, Debug)]
pub struct Turning {
    /// Whether it becomes another one.
    pub rotate: bool,
    /// For how long it still becomes the one that is good, in milliseconds.
    pub grace: u64,
}

/// What becomes of a token.
pub enum Turn {
    /// The next one, once this family is in the place of the other.
    Rotated(Box<Family>, RefreshToken),
    /// What has become of it before, and is good now.
    Again(RefreshToken),
    /// It stays, once this family is in the place of the other.
    Kept(Box<Family>),
    /// It is none of this login's.
    Unknown,
    /// It was this login's, and somebody has used it since.
    Reused,
}

/// Who logged in, and what is said of them.
#[derive(Clone, Debug)]
pub struct Login {
    /// `sub`.
    pub subject: String,
    /// What else is said.
    pub claims: Map<String, Value>,
}

impl RefreshToken {
    /// Reads a token, in the one spelling that it has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (sid, rest) = bytes.split_first_chunk::<SID>()?;
        let (secret, rest) = rest.split_first_chunk::<SECRET>()?;
        let tag = <[u8; TAG]>::try_from(rest).ok()?;
        Some(Self { sid: *sid, secret: *secret, tag })
    }

    /// As the client has it.
    #[must_use]
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes())
    }

    /// The login that it names.
    #[must_use]
    pub fn sid(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.sid)
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.sid[..], &self.secret[..], &self.tag[..]].concat()
    }

    fn digest(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.bytes()))
    }
}

impl Family {
    /// A login that begins, its `sid` and its first token.
    ///
    /// # Errors
    /// `None` without randomness.
    #[must_use]
    pub fn begin(login: &Login, issuer: &str, client: &str, began: i64) -> Option<(Self, RefreshToken)> {
        let (sid, secret, key) = (random::<SID>()?, random::<SECRET>()?, random::<SECRET>()?);
        let first = RefreshToken { sid, secret, tag: tag(&key, &sid, &secret) };
        let family = Self {
            issuer: issuer.to_owned(),
            subject: login.subject.clone(),
            claims: login.claims.clone(),
            client: client.to_owned(),
            began,
            session: None,
            key: URL_SAFE_NO_PAD.encode(key),
            current: first.digest(),
            since: u64::try_from(began).unwrap_or(0).saturating_mul(1000),
            turned: Vec::new(),
        };
        Some((family, first))
    }

    /// Reads what the store has.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What the store is to have.
    ///
    /// # Errors
    /// `None` never, for what can be read.
    #[must_use]
    pub fn write(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// Who logged in.
    #[must_use]
    pub fn login(&self) -> Login {
        Login { subject: self.subject.clone(), claims: self.claims.clone() }
    }

    /// Whether a token is, or was, one of this login's.
    #[must_use]
    pub fn has_had(&self, token: &RefreshToken) -> bool {
        let key = URL_SAFE_NO_PAD.decode(&self.key).unwrap_or_default();
        key.len() == SECRET && are_same(&tag(&key, &token.sid, &token.secret), &token.tag)
    }

    /// Whether it has ended by itself at `now`, in unix milliseconds: nobody has refreshed it for `ttl` milliseconds, or it is
    /// older than `max_life` seconds.
    #[must_use]
    pub fn is_over(&self, now: u64, ttl: u64, max_life: Option<i64>) -> bool {
        let seconds = i64::try_from(now / 1000).unwrap_or(i64::MAX);
        let is_old = max_life.is_some_and(|longest| seconds >= self.began.saturating_add(longest));
        is_old || now.saturating_sub(self.since) >= ttl
    }

    /// What becomes of a token at `now`, in unix milliseconds by the store's clock.
    #[must_use]
    pub fn turn(&self, token: &RefreshToken, now: u64, turning: Turning) -> Turn {
        if !self.has_had(token) {
            return Turn::Unknown;
        }
        let digest = token.digest();
        if are_same(digest.as_bytes(), self.current.as_bytes()) {
            if turning.rotate {
                return self.rotated(token, digest, now, turning);
            }
            return Turn::Kept(Box::new(Self { since: now, ..self.clone() }));
        }
        // A clock that was put back makes no token older than it is.
        let before = self.turned.iter().find(|turned| are_same(turned.digest.as_bytes(), digest.as_bytes()));
        match before.filter(|turned| now.saturating_sub(turned.at) < turning.grace) {
            Some(turned) => self.latest(token, turned).map_or(Turn::Unknown, Turn::Again),
            None => Turn::Reused,
        }
    }

    /// What has become of a token that was turned on: the one that is good now. One in between would be a copy
    /// a moment later, in the hands of who has done nothing wrong.
    fn latest(&self, token: &RefreshToken, turned: &Turned) -> Option<RefreshToken> {
        let mut next = self.following(token, &turned.salt)?;
        for _ in 0..TURNS {
            let digest = next.digest();
            let is_this = |turned: &&Turned| are_same(turned.digest.as_bytes(), digest.as_bytes());
            let Some(turned) = self.turned.iter().find(is_this) else { break };
            next = self.following(&next, &turned.salt)?;
        }
        are_same(next.digest().as_bytes(), self.current.as_bytes()).then_some(next)
    }

    fn rotated(&self, token: &RefreshToken, digest: String, now: u64, turning: Turning) -> Turn {
        let Some(salt) = random::<SECRET>().map(|salt| URL_SAFE_NO_PAD.encode(salt)) else { return Turn::Unknown };
        let Some(next) = self.following(token, &salt) else { return Turn::Unknown };
        let mut family = self.clone();
        family.current = next.digest();
        family.since = now;
        family.turned.retain(|turned| now.saturating_sub(turned.at) < turning.grace);
        if family.turned.len() >= TURNS {
            family.turned.remove(0);
        }
        family.turned.push(Turned { digest, salt, at: now });
        Turn::Rotated(Box::new(family), next)
    }

    fn following(&self, token: &RefreshToken, salt: &str) -> Option<RefreshToken> {
        let key = URL_SAFE_NO_PAD.decode(&self.key).ok()?;
        let salt = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(salt).ok()?);
        let secret = <[u8; SECRET]>::try_from(hmac::sign(&salt, &token.secret).as_ref()).ok()?;
        Some(RefreshToken { sid: token.sid, secret, tag: tag(&key, &token.sid, &secret) })
    }
}

/// What only who has the login's key can make.
fn tag(key: &[u8], sid: &[u8], secret: &[u8]) -> [u8; TAG] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let made = hmac::sign(&key, &[b"tag", sid, secret].concat());
    let mut tag = [0; TAG];
    tag.iter_mut().zip(made.as_ref()).for_each(|(to, from)| *to = *from);
    tag
}

fn are_same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Bytes that nobody can guess.
#[must_use]
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNING: Turning = Turning { rotate: true, grace: 10_000 };

    fn begin() -> (Family, RefreshToken) {
        let login = Login { subject: "kim".to_owned(), claims: Map::new() };
        Family::begin(&login, "https://i", "shop", 100).expect("randomness")
    }

    fn rotate(family: &Family, token: &RefreshToken, now: u64) -> (Family, RefreshToken) {
        let Turn::Rotated(next, token) = family.turn(token, now, TURNING) else { panic!("it is the current one") };
        (*next, token)
    }

    #[test]
    fn a_token_is_turned_on_once_and_again_to_the_same_within_the_grace_and_then_it_is_a_copy() {
        let (family, first) = begin();
        assert_eq!(RefreshToken::parse(&first.text()).map(|token| token.text()), Some(first.text()));
        let (family, second) = rotate(&family, &first, 1_000);
        assert_ne!(first.text(), second.text());
        let (family, third) = rotate(&family, &second, 2_000);
        for (token, now) in [(&first, 10_999), (&second, 11_999)] {
            assert!(matches!(family.turn(token, now, TURNING), Turn::Again(next) if next.text() == third.text()));
            assert!(matches!(family.turn(token, now + 1, TURNING), Turn::Reused));
        }
        assert!(matches!(family.turn(&third, 99_000, Turning { rotate: false, ..TURNING }), Turn::Kept(_)));
        let read = Family::read(&family.write().expect("JSON")).expect("a family");
        assert_eq!(read, family);
        assert!(!family.is_over(2_000 + 999, 1_000, None) && family.is_over(3_000, 1_000, None));
        assert!(!family.is_over(2_000, u64::MAX, None) && family.is_over(110_000, u64::MAX, Some(10)));
        // What is over leaves; what was never there is nobody's.
        let (later, _) = rotate(&family, &third, 90_000);
        assert_eq!(later.turned.len(), 1);
        assert!(matches!(later.turn(&first, 90_000, TURNING), Turn::Reused));
    }

    #[test]
    fn a_made_up_token_ends_no_login() {
        let (family, first) = begin();
        let (_, stranger) = begin();
        let forged = |change: fn(&mut RefreshToken)| {
            let mut token = RefreshToken::parse(&first.text()).expect("a token");
            change(&mut token);
            token
        };
        for token in [
            forged(|token| token.secret[0] ^= 1),
            forged(|token| token.tag[15] ^= 1),
            forged(|token| token.tag = [0; TAG]),
            RefreshToken { sid: first.sid, secret: stranger.secret, tag: stranger.tag },
        ] {
            assert!(matches!(family.turn(&token, 0, TURNING), Turn::Unknown));
        }
        for text in ["", "a", &first.text().split_off(1), &format!("{}=", first.text()), &format!("{}A", first.text())]
        {
            assert!(RefreshToken::parse(text).is_none(), "{text}");
        }
        // The store alone makes no token: neither key nor salt nor digest is in one.
        let (family, second) = rotate(&family, &first, 0);
        let written = family.write().expect("JSON");
        assert!(!written.contains(&first.text()) && !written.contains(&second.text()));
        for part in [&first.secret, &second.secret] {
            assert!(!written.contains(&URL_SAFE_NO_PAD.encode(part)));
        }
    }

    #[test]
    fn a_login_remembers_a_bounded_number_of_turns() {
        let (mut family, mut token) = begin();
        let mut all = Vec::new();
        for _ in 0..100 {
            (family, token) = rotate(&family, &token, 5);
            all.push(RefreshToken::parse(&token.text()).expect("a token"));
        }
        assert_eq!(family.turned.len(), TURNS);
        // Each of them leads to the one that is good now.
        for old in all.iter().rev().skip(1).take(TURNS) {
            assert!(matches!(family.turn(old, 6, TURNING), Turn::Again(next) if next.text() == token.text()));
        }
    }
}
