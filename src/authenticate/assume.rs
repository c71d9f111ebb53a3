//! Who a caller would be whose credential said this.
//!
//! 1. What it says is judged as if it had been proved: by the same checks, in the same order, signatures aside.
//! 2. What every credential of its kind has (`iss`, `aud`, `iat`, `exp`, `jti`) is there unless it is said otherwise; `null`
//!    is not there.
//! 3. It is asked whether it was taken back in a store of its own, which knows of nothing else.
//!
//! SECURITY: nothing is proved here. It answers questions about a configuration (`bearward explain`, `bearward test`) and
//! serves no request: `tests/architecture.rs` holds who may name it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::request::Parts;
use serde_json::{Map, Value};

use super::certificate::{ClientCertificates, Subject};
use super::claims::{ClaimPath, Claims};
use super::issuer::Issuer;
use super::opaque::Introspector;
use super::session::{Sessions, Writing};
use super::{Authenticator, Caller, Identity};
use crate::admit::Admitted;
use crate::certificate::ClientCertificate;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::route::{Proof, Route, Rule};
use crate::store::{Asker, Mark, Memory, RecordForm, Store};

/// How long what is assumed lives, in seconds, where its kind may live that long.
const LIFE: i64 = 300;
/// What is written of it stays for a minute, in milliseconds.
const KEPT: u64 = 60_000;
/// The id of a session that is assumed.
const SESSION: &str = "assumed";

/// A caller that is only thought of.
#[derive(Clone, Debug)]
pub struct Assumed {
    /// What would prove who it is.
    pub by: Proof,
    /// What that says: the claims of a token, the members of a session's record or of an answer about a token, what stands
    /// in a certificate.
    pub claims: Map<String, Value>,
    /// Whether it has been taken back.
    pub is_revoked: bool,
}

impl Authenticator {
    /// Who a request would be from, if it came with such a credential; as [`Authenticator::identify`].
    ///
    /// # Errors
    /// As [`Authenticator::identify`].
    pub async fn assume(
        &self,
        admitted: &Admitted<'_>,
        request: &Parts,
        assumed: &Assumed,
        now: Moment,
    ) -> Result<Caller, Denial> {
        let route = admitted.route;
        if matches!(route.rule, Rule::Public) {
            return Ok(Caller::Anonymous);
        }
        self.is_looked_at(assumed.by, route)?;
        let store = Arc::new(Memory::default());
        let asker = Asker::Memory(Arc::clone(&store));
        let store = Store::Memory(store);
        let identity = match assumed.by {
            Proof::Session(place) => {
                let sessions = self.sessions.get(place).ok_or(Denial::UnknownSession)?;
                sessions.check_origin(request)?;
                let identity = self.of_assumed_session((place, sessions), assumed, now, &asker).await?;
                Self::take_back(&identity, assumed, now, &store).await?;
                identity.vouch.check(route.revocation, now, &asker).await?;
                return Ok(Caller::Known(identity));
            }
            Proof::Issuer(place) => {
                let issuer = self.issuers.get(place).ok_or(Denial::WrongIssuer)?;
                let claims = issuer.usual(assumed.claims.clone(), now.unix);
                if claims.text("iss")?.is_some_and(|iss| *iss != *issuer.issuer) {
                    return Err(Denial::WrongIssuer);
                }
                let holding = issuer.check_claims(&claims, now.unix)?;
                self.memory.identity(issuer.proven(place, None, holding, claims), None)?
            }
            Proof::Opaque(place) => {
                let asked = self.introspectors.get(place).ok_or(Denial::InactiveToken)?;
                let proven = asked.prove(place, asked.usual(assumed.claims.clone(), now.unix), now.unix)?;
                self.memory.identity(proven, None)?
            }
            Proof::Certificate(place) => {
                let trusted = self.certificates.get(place).ok_or(Denial::MissingCertificate)?;
                let certificate = trusted.assumed(&assumed.claims, now.unix);
                self.memory.identity(trusted.prove(place, &certificate, now.unix)?, None)?
            }
        };
        Self::take_back(&identity, assumed, now, &store).await?;
        Self::is_taken(&identity, route, request)?;
        // No certificate is shown beside it.
        identity.vouch.bound.holder(None)?;
        identity.vouch.check(route.revocation, now, &asker).await?;
        Ok(Caller::Known(Arc::new(identity)))
    }

    /// Whether a route looks at credentials of this kind: what it says of them where it does not.
    fn is_looked_at(&self, by: Proof, route: &Route) -> Result<(), Denial> {
        let takes_issuers = route.auth.issuers().next().is_some();
        match by {
            _ if route.auth.takes(by) => Ok(()),
            // It is not read.
            Proof::Session(_) | Proof::Certificate(_) => self.of_certificate(None, route, 0).map(drop),
            // The others do not know it.
            Proof::Opaque(_) if route.auth.takes_opaque => Err(Denial::InactiveToken),
            Proof::Opaque(_) if takes_issuers => Err(Denial::MalformedToken),
            Proof::Issuer(_) if takes_issuers || route.auth.takes_opaque => Err(Denial::WrongIssuer),
            Proof::Opaque(_) | Proof::Issuer(_) => Err(Denial::DuplicateCredentials),
        }
    }

    /// Who the cookie of such a session is of.
    async fn of_assumed_session(
        &self,
        (place, sessions): (usize, &Sessions),
        assumed: &Assumed,
        now: Moment,
        store: &Asker,
    ) -> Result<Arc<Identity>, Denial> {
        let key: Arc<str> = sessions.key.of(SESSION).into();
        let text = sessions.written(assumed.claims.clone(), now.unix);
        let unknown = |_| Denial::StandingUnknown;
        store.put(&key, &text, KEPT).await.map_err(unknown)?;
        let record = store.record(&key, sessions.form).await.map_err(unknown)?.ok_or(Denial::MalformedSession)?;
        let (proven, life) = sessions.prove(place, (key, record), now)?;
        self.memory.identity(proven, Some(life)).map(Arc::new)
    }

    /// Has it taken back, if that is what is assumed.
    async fn take_back(identity: &Identity, assumed: &Assumed, now: Moment, store: &Store) -> Result<(), Denial> {
        if !assumed.is_revoked {
            return Ok(());
        }
        let keys = &identity.vouch.standing_keys;
        let ends = crate::clock::unix_millis(now.wall).saturating_add(KEPT);
        let present = keys.present.iter().map(|key| (key, Mark::Presence));
        let times = keys.times.iter().map(|key| (key, Mark::NotBefore(now.unix)));
        for (key, mark) in present.chain(times) {
            store.mark(key, mark, ends).await.map_err(|_| Denial::StandingUnknown)?;
        }
        match &keys.record {
            // A session is taken back with its record.
            Some(_) => Err(Denial::UnknownSession),
            None => Ok(()),
        }
    }
}

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
    fn usual(&self, claims: Map<String, Value>, now: i64) -> Claims {
        let issued = claims.get("iat").and_then(Value::as_i64).unwrap_or(now);
        let usual = [
            ("iss", Some(Value::from(&*self.issuer))),
            ("aud", self.audiences.first().map(|audience| Value::from(audience.as_str()))),
            ("iat", Some(now.into())),
            ("exp", Some(issued.saturating_add(LIFE.min(self.max_lifetime)).into())),
            ("jti", Some(SESSION.into())),
        ];
        Claims::new(completed(claims, usual))
    }
}

impl Introspector {
    /// What is said of a token that is active.
    fn usual(&self, mut claims: Map<String, Value>, now: i64) -> Claims {
        claims.remove("active");
        let usual = [
            ("aud", self.judges.audiences.first().map(|audience| Value::from(audience.as_str()))),
            ("iat", Some(now.into())),
            ("exp", Some(now.saturating_add(LIFE).into())),
            ("jti", Some(SESSION.into())),
        ];
        Claims::new(completed(claims, usual))
    }
}

impl ClientCertificates {
    /// A certificate of theirs in which this stands: what is called `sub` stands where they name its owner.
    fn assumed(&self, claims: &Map<String, Value>, now: i64) -> ClientCertificate {
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
        let id = claims.text("jti").ok().flatten().unwrap_or(SESSION).to_owned();
        let not_before = time("iat", now.saturating_sub(1));
        ClientCertificate {
            authority: self.authority.clone(),
            chain: Vec::new(),
            thumbprint: claims.text("x5t#S256").ok().flatten().unwrap_or(SESSION).to_owned(),
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
    fn written(&self, members: Map<String, Value>, now: i64) -> String {
        let mut members = members;
        // Who thinks of claims may say them by their own names.
        for (claim, path) in &self.claims {
            let usual = (&**claim == "iat").then(|| Value::from(now));
            if let Some(value) = members.remove(&**claim).or(usual)
                && Claims::new(members.clone()).at(path).is_none()
            {
                put(&mut members, path.as_str(), value);
            }
        }
        let is_mapped = self.claims.iter().any(|(claim, _)| &**claim == "iat");
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
