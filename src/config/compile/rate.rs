//! Limits: who is counted has to be known where it is counted.

use std::sync::Arc;

use super::Kept;
use crate::config::access::Access;
use crate::config::file::{Config, RateLimit as Section, Route as RouteSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::config::words::RateScope;
use crate::rate::{Buckets, Rate, RateKey, RateLimit};

/// Buckets that the next configuration goes on with, by the route and what is counted.
pub type Known = (Arc<str>, RateKey, Rate, Arc<Buckets>);

/// Compiles one route's limit.
pub fn compile(
    own: &At<Section>,
    (config, route): (&Config, &RouteSection),
    before: &Kept,
    mistakes: &mut Mistakes,
) -> RateLimit {
    let is_of_caller = own.key.value != RateKey::ClientIp;
    if is_of_caller && matches!(route.access.value, Access::Public) {
        let mistake = Mistake::at(&own.key, "a public route asks nobody who they are");
        mistakes.add(mistake.allowed("`client_ip`"));
    }
    let count = own.limit.count;
    let rate = Rate {
        interval: (own.limit.period / count).max(1),
        burst: own.burst.as_ref().map_or(count, |burst| burst.0 as u64),
    };
    let prefix = config.store.as_ref().map_or("bearward:", |store| store.prefix.as_str());
    RateLimit {
        key: own.key.value.clone(),
        rate,
        // Another limit begins anew.
        shared: (*own.scope == RateScope::Store)
            .then(|| format!("{prefix}rate:{}:{}x{}:", route.id.value, rate.interval, rate.burst)),
        buckets: before.buckets(&route.id, &own.key, rate),
    }
}
