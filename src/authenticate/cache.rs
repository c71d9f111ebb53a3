//! Credentials that were verified before, so that a signature is checked once and not per request.
//!
//! 1. The key is the whole token; two tokens that differ in one byte are two entries.
//! 2. An entry says who the caller is, never what was allowed: expiry, route, standing and rule are
//!    looked at on every request, after the cache.
//! 3. An entry whose key has left its issuer's set is not used.
//! 4. Bounded by bytes; what is used stays, what is not used makes room. Trade-off: a token that was
//!    pushed out is verified again.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Identity;

/// Bytes of tokens and claims that are kept at the most.
const CAPACITY: u64 = 64 * 1024 * 1024;
/// How many tokens that is, roughly.
const TOKENS: usize = 65_536;

/// Identities by the text of what proved them, shared by all workers.
pub struct IdentityCache(Cache<Box<[u8]>, Arc<Identity>, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Box<[u8]>, Arc<Identity>> for Bytes {
    fn weight(&self, token: &Box<[u8]>, identity: &Arc<Identity>) -> u64 {
        token.len() as u64 + identity.vouch.weight
    }
}

impl IdentityCache {
    /// An empty cache of tokens.
    #[must_use]
    pub fn of_tokens() -> Self {
        Self(Cache::with_weighter(TOKENS, CAPACITY, Bytes))
    }

    /// An empty cache of certificates.
    #[must_use]
    pub fn of_certificates() -> Self {
        Self(Cache::with_weighter(TOKENS / 16, CAPACITY / 16, Bytes))
    }

    pub(super) fn find(&self, token: &[u8]) -> Option<Arc<Identity>> {
        let known = self.0.get(token)?;
        known.fetch();
        Some(known).filter(|known| !known.vouch.is_withdrawn())
    }

    pub(super) fn keep(&self, token: &[u8], caller: Arc<Identity>) {
        self.0.insert(token.into(), caller);
    }

    /// Takes one out.
    pub(super) fn forget(&self, text: &[u8]) {
        let _before = self.0.remove(text);
    }

    /// How many tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for IdentityCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityCache({} tokens)", self.len())
    }
}
