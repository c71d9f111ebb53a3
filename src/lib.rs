//! Bearward: an API gateway that settles at the edge who is calling and whether they may.
//!
//! ```text
//! connection ─accept→ request ─admit→ Admitted ─authenticate→ Caller ─authorize→ Permit ─forward→ response ─respond→ client
//!                                 └──────────────── Denial ───────────────┘         └ ForwardError ┘
//! ```
//!
//! The stages are verbs and sort in the order in which a request meets them; `gateway` has the one
//! function that calls them. `ARCHITECTURE.md` has the invariants and the import rules.

pub mod gateway;

pub mod certificate;
pub mod denial;
pub mod destination;
pub mod origin;
pub mod rate;
pub mod refusal;
pub mod route;
pub mod signer;

pub mod accept;
pub mod admit;
pub mod authenticate;
pub mod authorize;
pub mod forward;
pub mod issue;
pub mod respond;

pub mod store;

pub mod alarm;
pub mod chunked;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cookie;
pub mod late;
pub mod observe;
pub mod percent;
pub mod stream;
pub mod waiter;
