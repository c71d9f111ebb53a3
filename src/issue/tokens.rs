//! Access tokens of the gateway's own (RFC 9068), and the keys that they are verified with.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::Value;

use super::family::{Login, Turning, random};
use crate::cookie::SetCookie;
use crate::denial::Denial;
use crate::route::Origin;
use crate::signer::Signer;

/// Claims that say who vouches for a token, until when, and which one it is: they are the gateway's to say.
pub const OWN_CLAIMS: [&str; 11] =
    ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "cnf", "auth_time"];

/// An issuer that the gateway is itself.
#[derive(Debug)]
pub struct TokenIssuer {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `aud`.
    pub audiences: Vec<String>,
    /// Signs.
    pub signer: Signer,
    /// The set of its public keys, as it is published.
    pub published: Bytes,
    /// How long an access token lives, in seconds.
    pub access_ttl: i64,
    /// How logins go on; nothing: they end with their access token.
    pub refresh: Option<Refresh>,
}

/// How a login goes on.
#[derive(Debug)]
pub struct Refresh {
    /// How long a refresh token lives, in milliseconds.
    pub ttl: u64,
    /// How long a login lives at the most, in seconds; nothing: as long as it is refreshed.
    pub max_life: Option<i64>,
    /// What becomes of a token.
    pub turning: Turning,
    /// Whether a token that is used again ends its login.
    pub reuse_ends: bool,
    /// The cookie that a browser may have it in, and the pages that may send that.
    pub cookie: Option<(SetCookie, Vec<Origin>)>,
}

impl Refresh {
    /// When a login that began then is over at the latest, in unix seconds.
    #[must_use]
    pub fn ends(&self, began: i64) -> Option<i64> {
        self.max_life.map(|longest| began.saturating_add(longest))
    }

    /// How long a token lives that a login of then gets now, in seconds.
    #[must_use]
    pub fn life_at(&self, began: i64, now: i64) -> u64 {
        let left = self.ends(began).map(|ends| ends.saturating_sub(now));
        let left = left.map_or(u64::MAX, |left| u64::try_from(left).unwrap_or(0));
        left.min(self.ttl / 1000)
    }
}

/// Which login an access token is of.
#[derive(Clone, Copy, Debug)]
pub struct Which<'l> {
    /// `sid`.
    pub sid: &'l str,
    /// `client_id`.
    pub client: &'l str,
    /// `iat`.
    pub issued_at: i64,
    /// When its login is over at the latest, in unix seconds.
    pub until: Option<i64>,
}

impl TokenIssuer {
    /// When an access token ends: with its login, if that comes first.
    fn ends(&self, which: Which<'_>) -> i64 {
        let ends = which.issued_at.saturating_add(self.access_ttl);
        which.until.map_or(ends, |until| ends.min(until))
    }

    /// For how many seconds it is good.
    #[must_use]
    pub fn life(&self, which: Which<'_>) -> i64 {
        self.ends(which).saturating_sub(which.issued_at)
    }

    /// An access token.
    ///
    /// # Errors
    /// `KeysUnavailable`, when it cannot be signed.
    pub fn access_token(&self, login: &Login, which: Which<'_>) -> Result<String, Denial> {
        let jti = random::<16>().ok_or(Denial::KeysUnavailable)?;
        // What is the gateway's to say comes last, whatever a store or a service says.
        let mut claims = login.claims.clone();
        claims.insert("iss".to_owned(), self.issuer.as_ref().into());
        claims.insert("sub".to_owned(), login.subject.as_str().into());
        claims.insert(
            "aud".to_owned(),
            match self.audiences.as_slice() {
                [only] => only.as_str().into(),
                several => several.into(),
            },
        );
        claims.insert("exp".to_owned(), self.ends(which).into());
        claims.insert("iat".to_owned(), which.issued_at.into());
        claims.insert("jti".to_owned(), URL_SAFE_NO_PAD.encode(jti).into());
        claims.insert("sid".to_owned(), which.sid.into());
        claims.insert("client_id".to_owned(), which.client.into());
        self.signer.sign(&Value::Object(claims)).map_err(|error| {
            tracing::error!(issuer = &*self.name, %error, "an access token cannot be signed");
            Denial::KeysUnavailable
        })
    }
}
