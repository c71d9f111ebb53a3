//! What upstreams that want proof are told of a caller.

use std::time::Duration;

use http::HeaderName;

use super::SigningKey;
use crate::admit::pattern::Pattern;
use crate::authenticate::claims::ClaimPath;
use crate::config::place::At;
use crate::config::section::section;

section! {
    /// A short signed token (JWT, `typ: assertion+jwt`) for each caller and upstream: `iss`, `aud` (the upstream's name), `sub`, `iat`,
    /// `exp`, `roles`, `scope` and the claims that are named.
    pub struct Assertion {
        /// The header field that it is in; removed from every request first.
        required header: HeaderName,
        /// Its `iss`.
        required issuer: String,
        /// The key that it is signed with.
        required signing_key: SigningKey,
        /// Keys that are published beside it: the next one, before it signs.
        default other_keys: Vec<At<SigningKey>> = "[]",
        /// How long it lives, at most 60s; it is signed anew when half of that is over.
        default ttl: Duration = "60s",
        /// Claims beside `sub`, `roles` and `scope`.
        default claims: Vec<At<ClaimPath>> = "[]",
        /// The upstreams that get it. Left out: all.
        optional upstreams: Vec<At<String>>,
        /// The path, for `GET`, of its public keys. Left out: they are not published.
        optional jwks: Pattern,
    }
}
