//! What the tests are made of: a gateway as a child process, a recording upstream, a raw client,
//! tokens signed without the library that the gateway verifies them with.

pub mod client;
pub mod cluster;
pub mod fault;
pub mod gateway;
pub mod h2;
pub mod h2_service;
pub mod logins;
pub mod redis;
pub mod secrets;
pub mod sign;
pub mod tls;
pub mod upstream;

use std::time::{Duration, Instant};

pub use client::{Answer, Client};
pub use gateway::{Gateway, config};
pub use upstream::Upstream;

/// How long a condition may take before the test fails: long, for a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Unix time in seconds.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}
