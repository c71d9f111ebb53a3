//! Why an identity may be believed, and what takes that back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Identity;
use super::keys::Key;
use super::opaque::Asked;
use super::proven::Bound;
use super::session::Life;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::late::Late;
use crate::route::{Proof, RevocationMode, RevocationPolicy, WhenUnavailable};
use crate::store::{Asker, Slot, Standing, StandingKeys};

/// The credential behind an identity, as far as it is looked at with every request.
#[derive(Debug)]
pub struct Vouch {
    /// In which way it was proved.
    pub(super) proof: Proof,
    /// Who vouches for it, as keys of the store spell it.
    pub(super) issuer: Arc<str>,
    /// The key that its signature was checked with, where that can be withdrawn.
    pub(super) key: Option<Arc<Key>>,
    /// The same of the authorities of a certificate.
    pub(super) retired: Option<Arc<AtomicBool>>,
    /// Whose hands it has to come from.
    pub(super) bound: Bound,
    /// Who that is, once it has: its end is that of the token.
    pub(super) holder: Late<Identity>,
    /// Unix seconds, with leeway.
    pub(super) expires_at: i64,
    pub(super) has_jti: bool,
    pub(super) has_iat: bool,
    /// Whether the configuration names a key by `jti`.
    pub(super) needs_jti: bool,
    pub(super) standing_keys: Arc<StandingKeys>,
    /// What the store said of them; leaves with the token.
    pub(super) slot: Slot,
    /// What was said of it, where somebody was asked.
    pub(super) asked: Option<Asked>,
    /// How long it lives, where it is a session.
    pub(super) life: Option<Life>,
    /// About how many bytes of memory the identity takes.
    pub(super) weight: u64,
}

impl Vouch {
    /// Whether its key has left its issuer's set, or its authorities are not believed any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.is_retired())
            || self.retired.as_ref().is_some_and(|retired| retired.load(Ordering::Acquire))
    }

    /// Whether what was said of it is believed at `now`.
    pub(super) fn is_believed(&self, now: Moment) -> bool {
        self.asked.as_ref().is_none_or(|asked| asked.is_believed(now))
    }

    /// Whether it holds at `now`: its key is in use, its time is not over, nobody took it back.
    ///
    /// # Errors
    /// `UnknownKey`, `Expired`, `Revoked`, `MissingClaim`, `StandingUnknown`.
    pub(super) async fn check(&self, policy: RevocationPolicy, now: Moment, store: &Asker) -> Result<(), Denial> {
        if self.is_withdrawn() {
            return Err(Denial::UnknownKey);
        }
        if now.latest >= self.expires_at {
            return Err(Denial::Expired);
        }
        let policy = if self.life.is_some() { policy.strict() } else { policy };
        if policy.mode == RevocationMode::Off {
            return Ok(());
        }
        match self.proof {
            Proof::Issuer(_) => self.can_be_taken_back()?,
            // Lists of its authorities take it back.
            Proof::Certificate(_) if self.standing_keys.is_empty() => return Ok(()),
            // What the configured keys cannot name could never be taken back.
            Proof::Opaque(_) if self.standing_keys.is_empty() => return Err(Denial::MissingClaim("jti".into())),
            Proof::Certificate(_) | Proof::Session(_) | Proof::Opaque(_) => {}
        }
        let standing = match policy.mode {
            RevocationMode::Off => return Ok(()),
            RevocationMode::Lookup => store.standing(&self.standing_keys).await,
            RevocationMode::Tracked => store.tracked(&self.standing_keys, &self.slot, now.monotonic).await,
        };
        match (standing, policy.when_unavailable) {
            (Standing::Clear, _) | (Standing::Unknown, WhenUnavailable::Allow) => Ok(()),
            (Standing::Revoked, _) => Err(Denial::Revoked),
            (Standing::Unknown, WhenUnavailable::Deny) => Err(Denial::StandingUnknown),
        }
    }

    /// A token that the configured keys cannot name could never be taken back.
    pub(super) fn can_be_taken_back(&self) -> Result<(), Denial> {
        if self.needs_jti && !self.has_jti {
            return Err(Denial::MissingClaim("jti".into()));
        }
        // Without it nobody knows how long its revocation has to live, nor whether it was before a logout.
        if !self.has_iat {
            return Err(Denial::MissingClaim("iat".into()));
        }
        let is_named = !self.standing_keys.is_empty();
        is_named.then_some(()).ok_or_else(|| Denial::MissingClaim("sid".into()))
    }

    /// A vouch of nobody, for tests of what comes after.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self {
            proof: Proof::Issuer(0),
            issuer: "".into(),
            key: None,
            retired: None,
            bound: Bound::Free,
            holder: Late::default(),
            expires_at: i64::MAX,
            has_jti: true,
            has_iat: true,
            needs_jti: false,
            standing_keys: Arc::default(),
            slot: Slot::default(),
            asked: None,
            life: None,
            weight: 0,
        }
    }
}
