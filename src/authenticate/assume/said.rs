//! What a credential says that is only thought of: what every one of its kind has (`iss`, `aud`, `iat`, `exp`, `jti`) is there
//! unless it is said otherwise, and `null` is not there.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::authenticate::certificate::{ClientCertificates, Subject};
use crate::authenticate::claims::{ClaimPath, Claims};
use crate::authenticate::issuer::Issuer;
use crate::authenticate::opaque::Introspector;
use crate::authenticate::session::{Sessions, Writing};
use crate::certificate::ClientCertificate;
use crate::store::RecordForm;

/// How long it lives, in seconds, where its kind may live that long.
const LIFE: i64 = 300;
/// What it is called: a token, a certificate, a session.
pub(super) const ID: &str = "assumed";

/// Adds what is not there, and takes away what is said not to be.
fn completed<const N: usize>(mut claims: Map<String, Value>, usual: [(&str, Option<Value>); N]) -> Map<String, Value> {
    for (name, value) in usual {
        if let Some(value) = value
            && !claims.contains_key(name)
        {
            claims.insert(name.to_owned(), value);
        }
    }
    claims.retain(|_, value| !value.is_null());
    claims
}

impl Issuer {
    /// The claims of a token of this issuer that says this.
    pub(super) fn usual(&self, claims: Map<String, Value>, now: i64) -> Claims {
        let issued = claims.get("iat").and_then(Value::as_i64).unwrap_or(now);
        let usual = [
            ("iss", Some(Value::from(&*self.issuer))),
            ("aud", self.audiences.first().map(|audience| Value::from(audience.as_str()))),
            ("iat", Some(now.into())),
            ("exp", Some(issued.saturating_add(LIFE.min(self.max_lifetime)).into())),
            ("jti", Some(ID.into())),
        ];
        Claims::new(completed(claims, usual))
    }
}

impl Introspector {
    /// What is said of a token that is active.
    pub(super) fn usual(&self, mut claims: Map<String, Value>, now: i64) -> Claims {
        claims.remove("active");
        let usual = [
            ("aud", self.judges.audiences.first().map(|audience| Value::from(audience.as_str()))),
            ("iat", Some(now.into())),
            ("exp", Some(now.saturating_add(LIFE).into())),
            ("jti", Some(ID.into())),
        ];
        Claims::new(completed(claims, usual))
    }
}

impl ClientCertificates {
    /// A certificate of theirs in which this stands: what is called `sub` stands where they name its owner.
    pub(super) fn assumed(&self, claims: &Map<String, Value>, now: i64) -> ClientCertificate {
        let claims = Claims::new(claims.clone());
        let list = |name: &str, subject: Subject| -> Vec<String> {
            let texts = |name: &str| {
                let path = ClaimPath::parse(name);
                path.and_then(|path| claims.texts(&path).ok())
                    .unwrap_or_default()
                    .into_iter()
                    .map(str::to_owned)
                    .collect()
            };
            let own: Vec<String> = texts(name);
            if own.is_empty() && self.subject == subject { texts("sub") } else { own }
        };
        let time = |name: &str, usual: i64| claims.member(name).and_then(Value::as_i64).unwrap_or(usual);
        let id = claims.text("jti").ok().flatten().unwrap_or(ID).to_owned();
        let not_before = time("iat", now.saturating_sub(1));
        ClientCertificate {
            authority: self.authority.clone(),
            chain: Vec::new(),
            thumbprint: claims.text("x5t#S256").ok().flatten().unwrap_or(ID).to_owned(),
            id,
            subject: list("subject", Subject::Dn).concat(),
            common_names: list("cn", Subject::CommonName),
            dns: list("dns", Subject::Dns),
            uris: list("uri", Subject::Uri),
            emails: list("email", Subject::Email),
            not_before,
            not_after: time("exp", not_before.saturating_add(LIFE.min(self.max_lifetime))),
        }
    }
}

impl Sessions {
    /// The record of a session that says this, as an embedded store has it.
    pub(super) fn written(&self, members: Map<String, Value>, now: i64) -> String {
        let mut members = members;
        let mapped = self.claims.iter().find(|(claim, _)| &**claim == "iat").map(|(_, path)| path);
        let is_mapped = mapped.is_some();
        if let Some(path) = mapped.filter(|path| Claims::new(members.clone()).at(path).is_none()) {
            put(&mut members, path.as_str(), now.into());
        }
        let spring = |value: i64| (self.writing == Writing::Spring).then(|| Value::from(value));
        let usual = [
            ("iat", (!is_mapped).then(|| Value::from(now))),
            ("lastAccessedTime", spring(now)),
            ("maxInactiveInterval", spring(LIFE)),
        ];
        let members = completed(members, usual);
        match self.form {
            RecordForm::Text => Value::Object(members).to_string(),
            RecordForm::Hash => {
                let fields = members.into_iter().map(|(name, value)| (name, self.field(&value)));
                Value::from_iter(fields.collect::<BTreeMap<_, _>>()).to_string()
            }
        }
    }

    /// A field of a hash.
    fn field(&self, value: &Value) -> String {
        match (self.writing, value) {
            (Writing::Text, Value::String(text)) => text.clone(),
            (Writing::Text, Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            (Writing::Text | Writing::Json | Writing::Spring, _) => value.to_string(),
        }
    }
}

/// Puts a value where a path finds it.
fn put(members: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            members.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let below = members.entry(first).or_insert_with(|| Map::new().into());
            if let Value::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}
