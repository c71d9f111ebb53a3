//! The promises of the gateway, held against real sockets: one file for each.

#![allow(
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test says what is wrong by panicking, and has clocks of its own"
)]

mod support;

mod acknowledged;
mod answers;
mod assertion;
mod backchannel;
mod balancing;
mod bodies;
mod client_certificates;
mod clock;
mod cluster;
mod commands;
mod cors;
mod edges;
mod embedded;
mod explaining;
mod forwarding;
mod frames;
mod framing;
mod grpc;
mod handover;
mod headers;
mod http2;
mod interleaved;
mod introspection;
mod issuing;
mod keys;
mod lasting;
mod lifecycle;
mod load;
mod logging_out;
mod observing;
mod paths;
mod policy;
mod proxied;
mod rates;
mod redis;
mod refreshing;
mod reload;
mod rewriting;
mod secure;
mod sentinel;
mod sessions;
mod store;
mod tls;
mod tokens;
mod tracked;
mod untold;
mod upstream_h2;
mod websocket;
mod websocket_h2;
