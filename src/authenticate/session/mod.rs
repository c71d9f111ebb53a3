//! A cookie becomes an identity: by the record that the store has of a session.
//!
//! 1. The cookie is there once. A request that could change something says which page of ours it comes from
//!    (`Origin`, or `Sec-Fetch-Site`): a browser sends cookies with what other pages ask, too.
//! 2. The cookie's value becomes the session's id, in the form that its maker writes.
//! 3. The record at the id's key becomes claims; it is read once and then watched (`store`): what is changed, ended
//!    or deleted there counts with the next request.
//! 4. A session ends when nobody has used it for `idle_timeout`, and `absolute_timeout` after it began.
//!
//! Always strict: a store that is silent is 503, whatever the route says.

mod caller;
mod life;
mod record;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::Method;
use http::header::{HeaderMap, UPGRADE};
use http::request::Parts;

pub use self::life::Life;
pub use self::record::{MAX_RECORD, Writing};
use self::record::{seconds, springs_end};
use super::cache::IdentityCache;
use super::claims::ClaimPath;
use super::proven::{Bound, Proven};
use crate::clock::Moment;
use crate::cookie;
use crate::denial::Denial;
use crate::origin::is_from;
use crate::percent;
use crate::route::{Origin, Proof};
use crate::store::{Record, RecordForm, RecordKey};

/// Longest id, in bytes.
const MAX_ID: usize = 256;
/// How far clocks may differ, in seconds.
const FUTURE: i64 = 60;

/// Sessions of one kind.
#[derive(Debug)]
pub struct Sessions {
    /// Their name in the configuration.
    pub name: Arc<str>,
    /// The cookie's name.
    pub cookie: Box<str>,
    /// How its value holds the id.
    pub encoding: CookieEncoding,
    /// Where the record is.
    pub key: SessionKey,
    /// How it is kept.
    pub form: RecordForm,
    /// How its members are written.
    pub writing: Writing,
    /// What keys of the store have in the place of an issuer.
    pub issuer: Arc<str>,
    /// What tells it from others: a digest of all that it is made of.
    pub shape: [u8; 32],
    /// What identities hold of it: set when it is not taken any more.
    pub retired: Arc<AtomicBool>,
    /// Claims that are elsewhere in it, by their names.
    pub claims: Vec<(Box<str>, ClaimPath)>,
    /// Where roles are.
    pub roles: ClaimPath,
    /// Where scopes are.
    pub scopes: ClaimPath,
    /// How long it lives when nobody uses it, in milliseconds; nothing: as long as its maker says.
    pub idle_timeout: Option<u64>,
    /// How long it lives at the most, in seconds, from its `iat` on.
    pub absolute_timeout: Option<i64>,
    /// Pages that may send what could change something.
    pub allowed_origins: Vec<Origin>,
    /// By the cookie's value.
    pub known: IdentityCache,
}

/// How a cookie's value holds the session's id.
#[derive(Debug)]
pub enum CookieEncoding {
    /// It is the id.
    Plain,
    /// It is the id in base64 (Spring Session).
    Base64,
    /// `s:` id `.` signature, percent-encoded (express-session), signed with this secret.
    Express(Box<hmac::Key>),
}

/// A key with a hole for an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKey {
    before: String,
    after: String,
    is_digest: bool,
}

impl SessionKey {
    /// Reads `session:{id}`, or `session:{sha256}`: then the store has the id's SHA-256, in base64url, and not the id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let holes = [("{id}", false), ("{sha256}", true)];
        let (before, after, is_digest) = holes.into_iter().find_map(|(hole, is_digest)| {
            let (before, after) = text.split_once(hole)?;
            Some((before, after, is_digest))
        })?;
        let is_plain = |text: &str| !text.contains("{id}") && !text.contains("{sha256}");
        // Without a word before it a cookie would name any key.
        (!before.is_empty() && is_plain(before) && is_plain(after)).then(|| Self {
            before: before.into(),
            after: after.into(),
            is_digest,
        })
    }

    /// Whether it has an id's digest, and not the id.
    #[must_use]
    pub const fn is_digest(&self) -> bool {
        self.is_digest
    }

    /// The key of the session with this id.
    #[must_use]
    pub fn of(&self, id: &str) -> String {
        let hidden = self.is_digest.then(|| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, id.as_bytes())));
        format!("{}{}{}", self.before, hidden.as_deref().unwrap_or(id), self.after)
    }
}

impl Sessions {
    /// The cookie's value, if it is there.
    ///
    /// # Errors
    /// `DuplicateCredentials` where it is there twice, `UnknownSession` where it is none.
    pub(super) fn value<'r>(&self, headers: &'r HeaderMap) -> Result<Option<&'r str>, Denial> {
        // Why not by the iterator alone: nearly every call of an API has no cookies.
        if !headers.contains_key(http::header::COOKIE) {
            return Ok(None);
        }
        let mut values = cookie::values(headers, &self.cookie);
        let value = values.next();
        if values.next().is_some() {
            return Err(Denial::DuplicateCredentials);
        }
        value.map(|value| std::str::from_utf8(value).map_err(|_| Denial::UnknownSession)).transpose()
    }

    /// Whether a request may be sent with the cookie from where it comes.
    ///
    /// # Errors
    /// `CrossSite`.
    pub(super) fn check_origin(&self, request: &Parts) -> Result<(), Denial> {
        if is_safe(request) {
            return Ok(());
        }
        is_from(&request.headers, &self.allowed_origins).then_some(()).ok_or(Denial::CrossSite)
    }

    /// The key of the record of the session that a cookie names.
    ///
    /// # Errors
    /// `UnknownSession`.
    pub(super) fn record_key(&self, value: &str) -> Result<Arc<str>, Denial> {
        let id = match &self.encoding {
            CookieEncoding::Plain => Some(value.to_owned()),
            CookieEncoding::Base64 => {
                let bytes = STANDARD.decode(value).or_else(|_| STANDARD_NO_PAD.decode(value)).ok();
                bytes.and_then(|bytes| String::from_utf8(bytes).ok())
            }
            CookieEncoding::Express(key) => signed(value, key),
        };
        // SECURITY: what parts the names of keys is in no id: `SID=pending:7` would name another kind of record.
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte);
        let is_id = |id: &String| !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(is_fit);
        id.filter(is_id).map(|id| self.key.of(&id).into()).ok_or(Denial::UnknownSession)
    }

    /// What a record proves; `place` is the sessions' among all.
    ///
    /// # Errors
    /// `MalformedSession`, `MissingClaim`, `UnknownSession` where it has ended.
    pub(super) fn prove(
        &self,
        place: usize,
        (key, record): (Arc<str>, Record),
        now: Moment,
    ) -> Result<(Proven<'_>, Life), Denial> {
        let fingerprint = record.value.fingerprint();
        let claims = self.read(record.value).ok_or(Denial::MalformedSession)?;
        let subject = claims.text("sub")?.ok_or_else(|| Denial::MissingClaim("sub".into()))?;
        let began = claims.date("iat")?.map(seconds);
        // One that begins in the future, or in another unit, would never end.
        if began.is_some_and(|began| began > now.unix.saturating_add(FUTURE)) {
            return Err(Denial::MalformedSession);
        }
        let expires_at = match (self.absolute_timeout, began) {
            (None, _) => i64::MAX,
            (Some(_), None) => return Err(Denial::MissingClaim("iat".into())),
            (Some(longest), Some(began)) => began.saturating_add(longest),
        };
        let expires_at = match self.writing {
            Writing::Spring => expires_at.min(springs_end(&claims)?),
            Writing::Json | Writing::Text => expires_at,
        };
        if now.unix >= expires_at {
            return Err(Denial::UnknownSession);
        }
        let life = Life::new(Arc::clone(&key), record.remaining, self.idle_timeout, now);
        let proven = Proven {
            proof: Proof::Session(place),
            issuer: &self.issuer,
            roles: Some(&self.roles),
            scopes: Some(&self.scopes),
            key: None,
            retired: Some(Arc::clone(&self.retired)),
            subject: subject.into(),
            // Of one that does not say when it began any logout is later.
            issued_at: Some(began.unwrap_or(0)),
            expires_at,
            bound: Bound::Free,
            record: Some(RecordKey { name: key, form: self.form, fingerprint }),
            claims,
        };
        Ok((proven, life))
    }
}

/// Whether a request changes nothing, whoever sends it.
pub(super) fn is_safe(request: &Parts) -> bool {
    // SECURITY: a WebSocket begins with a GET that any page may send, and reads what it likes from then on.
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method) && !request.headers.contains_key(UPGRADE)
}

/// The id of a cookie that express-session has signed.
fn signed(value: &str, key: &hmac::Key) -> Option<String> {
    let text = percent::decode(value);
    // In the one spelling that its maker writes.
    if percent::encode(&text) != value {
        return None;
    }
    let (id, signature) = text.strip_prefix("s:")?.rsplit_once('.')?;
    let signature = STANDARD_NO_PAD.decode(signature).ok()?;
    hmac::verify(key, id.as_bytes(), &signature).ok()?;
    Some(id.to_owned())
}
