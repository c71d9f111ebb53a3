//! Who a caller would be whose credential said this.
//!
//! 1. What it says is judged as if it had been proved: by the same checks, in the same order, signatures aside.
//! 2. What every credential of its kind has is there unless it is said otherwise (`said`).
//! 3. It comes alone: a request that shows another one beside it is refused as such a request is.
//! 4. It is asked whether it was taken back in a store of its own, which knows of nothing else.
//!
//! SECURITY: nothing is proved here. It answers questions about a configuration (`bearward explain`, `bearward test`) and
//! serves no request: `tests/architecture.rs` holds who may name it.

mod said;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::{Map, Value};

use self::said::ID;
use super::bearer::Bearer;
use super::session::Sessions;
use super::{Authenticator, Caller, Identity};
use crate::admit::Admitted;
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::route::{Proof, Route, Rule};
use crate::store::{Asker, Mark, Memory, Store};

/// What is written of it stays for a minute, in milliseconds.
const KEPT: u64 = 60_000;

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
        self.comes_alone(assumed.by, route, request)?;
        self.is_looked_at(assumed, route, now.unix)?;
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
                if claims.text("iss")? != Some(&*issuer.issuer) {
                    return Err(Denial::WrongIssuer);
                }
                let valid = issuer.check_claims(&claims, now.unix)?;
                self.memory.identity(issuer.proven(place, None, valid, claims), None)?
            }
            Proof::Opaque(place) => {
                let asked = self.introspectors.get(place).ok_or(Denial::InactiveToken)?;
                if !matches!(assumed.claims.get("active"), None | Some(Value::Bool(true))) {
                    return Err(Denial::InactiveToken);
                }
                let proven = asked.prove(place, asked.usual(assumed.claims.clone(), now.unix), now.unix)?;
                self.memory.identity(proven, None)?
            }
            Proof::Certificate(place) => {
                let trusted = self.certificates.get(place).ok_or(Denial::MissingCertificate)?;
                let certificate = trusted.assumed(&assumed.claims, now.unix);
                self.memory.identity(trusted.prove(place, &certificate, now.unix)?, None)?
            }
        };
        if assumed.is_revoked && identity.vouch.proof.is_certificate() && identity.vouch.standing_keys.is_empty() {
            // What its authorities have taken back is no certificate of theirs.
            return self.of_certificate(None, route, now.unix).map(Caller::Known);
        }
        Self::take_back(&identity, assumed, now, &store).await?;
        Self::is_taken(&identity, route, request)?;
        // No certificate is shown beside it.
        identity.vouch.bound.holder(None)?;
        identity.vouch.check(route.revocation, now, &asker).await?;
        Ok(Caller::Known(Arc::new(identity)))
    }

    /// Whether a request shows no credential of its own beside the one that is assumed.
    fn comes_alone(&self, by: Proof, route: &Route, request: &Parts) -> Result<(), Denial> {
        let cookie = if route.auth.takes_sessions { self.cookie(route, request)? } else { None };
        match (Bearer::of(request), cookie) {
            (Err(Denial::MissingToken), None) if !request.headers.contains_key(AUTHORIZATION) => Ok(()),
            // Beside credentials of another scheme a certificate is not looked at.
            (Err(Denial::MissingToken), None) if by.is_certificate() => self.of_certificate(None, route, 0).map(drop),
            (Err(Denial::MissingToken) | Ok(_), _) => Err(Denial::DuplicateCredentials),
            (Err(denial), _) => Err(denial),
        }
    }

    /// Whether a route looks at credentials of this kind: what it says of them where it does not.
    fn is_looked_at(&self, assumed: &Assumed, route: &Route, now: i64) -> Result<(), Denial> {
        let takes_issuers = route.auth.issuers().next().is_some();
        if let (Proof::Issuer(place), true) = (assumed.by, takes_issuers) {
            // Whose it is is asked before whether those are taken.
            let issuer = self.issuers.get(place).ok_or(Denial::WrongIssuer)?;
            let claims = issuer.usual(assumed.claims.clone(), now);
            claims.text("iss")?.ok_or_else(|| Denial::MissingClaim("iss".into()))?;
        }
        match assumed.by {
            by if route.auth.takes(by) => Ok(()),
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
        let key: Arc<str> = sessions.key.of(ID).into();
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
        let ends = clock::unix_millis(now.wall).saturating_add(KEPT);
        // Whenever it says that it was issued.
        let at = now.unix.max(keys.issued_at);
        let present = keys.present.iter().map(|key| (key, Mark::Presence));
        let times = keys.times.iter().map(|key| (key, Mark::NotBefore(at)));
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
