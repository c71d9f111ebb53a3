//! What happened becomes one log line, numbers and the operators' pages.
//!
//! No stage imports this module: requests are recorded around `serve`, not in it.

pub mod admin;
pub mod exchange;
pub mod line;
pub mod log;
pub mod metrics;
pub mod sink;
