//! Tokens that were verified before, so that a signature is checked once and not per request.
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

/// Verified tokens by their text, shared by all workers.
pub struct TokenCache(Cache<Box<str>, Arc<Identity>, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Box<str>, Arc<Identity>> for Bytes {
    fn weight(&self, token: &Box<str>, identity: &Arc<Identity>) -> u64 {
        token.len() as u64 + identity.vouch.weight
    }
}

impl TokenCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self(Cache::with_weighter(TOKENS, CAPACITY, Bytes))
    }

    pub(super) fn find(&self, token: &str) -> Option<Arc<Identity>> {
        self.0.get(token).filter(|known| !known.vouch.key.is_retired())
    }

    pub(super) fn keep(&self, token: &str, caller: Arc<Identity>) {
        self.0.insert(token.into(), caller);
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

impl Default for TokenCache {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenCache({} tokens)", self.len())
    }
}
