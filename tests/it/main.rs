//! The promises of the gateway, held against real sockets: one file for each.

mod support;

mod answers;
mod bodies;
mod commands;
mod forwarding;
mod headers;
mod keys;
mod lifecycle;
mod observing;
mod paths;
mod redis;
mod store;
mod tokens;
