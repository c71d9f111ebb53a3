//! A login becomes a session: a record in the store, and a cookie that names it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde_json::Value;

use super::family::{Login, random};
use crate::authenticate::session::SessionKey;
use crate::cookie::{self, SetCookie};
use crate::origin::Origin;

/// Longest value of a cookie that is looked up.
const MAX_ID: usize = 256;

/// Makes sessions of one kind.
#[derive(Debug)]
pub struct SessionMaker {
    /// Their name in the configuration.
    pub name: Arc<str>,
    /// The cookie.
    pub cookie: SetCookie,
    /// Where records are; by the digest of the id.
    pub key: SessionKey,
    /// What keys of the store have in the place of an issuer.
    pub issuer: Arc<str>,
    /// Pages that may have somebody logged in with it.
    pub allowed_origins: Vec<Origin>,
    /// How long a record lives that nobody uses, in milliseconds.
    pub life: u64,
}

/// A session that is to be.
pub struct NewSession {
    /// The cookie's value: 256 bits that nobody can guess.
    pub id: String,
    /// The key of its record.
    pub key: String,
    /// The record.
    pub record: String,
}

impl SessionMaker {
    /// A session that begins.
    ///
    /// # Errors
    /// `None` without randomness.
    #[must_use]
    pub fn begin(&self, login: &Login, sid: &str, began: i64) -> Option<NewSession> {
        let id = URL_SAFE_NO_PAD.encode(random::<32>()?);
        let mut record = login.claims.clone();
        record.insert("sub".to_owned(), login.subject.as_str().into());
        record.insert("iat".to_owned(), began.into());
        record.insert("sid".to_owned(), sid.into());
        Some(NewSession { key: self.key.of(&id), id, record: Value::Object(record).to_string() })
    }

    /// Whether a request has its cookie, whatever that is.
    #[must_use]
    pub fn is_shown(&self, head: &Parts) -> bool {
        cookie::values(&head.headers, &self.cookie.name).next().is_some()
    }

    /// The key of the record that a request's cookie names: what a login leaves behind.
    #[must_use]
    pub fn left_behind(&self, head: &Parts) -> Option<String> {
        let mut values = cookie::values(&head.headers, &self.cookie.name);
        let value = std::str::from_utf8(values.next()?).ok()?;
        let is_id = !value.is_empty() && value.len() <= MAX_ID && values.next().is_none();
        is_id.then(|| self.key.of(value))
    }
}
