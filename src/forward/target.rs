//! One address of an upstream.

use std::sync::Arc;

use super::health::Health;
use super::secure::Secure;

/// One address of an upstream.
#[derive(Debug)]
pub struct Target {
    /// `host:port`.
    pub address: Arc<str>,
    /// Which connections lead to it: those with the same address, and the same TLS.
    pub key: Arc<str>,
    /// Nothing where it speaks plain HTTP.
    pub tls: Option<Secure>,
    /// Which protocol.
    pub speaks: Speaks,
    /// Its share of the requests, beside the others: at least 1.
    pub weight: u32,
    /// How it is doing; what comes of a target outlasts a configuration.
    pub health: Arc<Health>,
}

/// Which protocol a target is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge.
    Http2,
    /// The one that the handshake of TLS settles on (ALPN).
    Negotiated,
}
