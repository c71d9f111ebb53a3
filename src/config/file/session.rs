//! Sessions: cookies, and records of the store.

use std::path::PathBuf;
use std::time::Duration;

use crate::admit::pattern::Pattern;
use crate::authenticate::claims::ClaimPath;
use crate::config::origin::CorsOrigin;
use crate::config::place::At;
use crate::config::section::{Named, section};
use crate::config::words::{Encoding, RecordSource};
use crate::cookie::SameSite;

section! {
    /// Sessions of one kind: a cookie, and where the store has what it stands for. A service makes them, or a route with
    /// `on_success`.
    pub struct Sessions {
        /// The cookie that names the session.
        required cookie: CookieSource,
        /// The record's key: `{id}` is the session's id, `{sha256}` its SHA-256 in base64url.
        required key: String,
        /// How the record is kept: `json` (an object, in one value), `hash` (a field for each attribute, text as it is;
        /// `roles` with commas) or `spring` (as Spring Session does, with its JSON serializer).
        default record: RecordSource = "json",
        /// What `{iss}` in `revocation.keys` stands for; the `iss` claim. Left out: the name of these sessions.
        optional issuer: String,
        /// Claims that have another name in the record: `sub: userId`. Others have their own.
        default claims: Named<ClaimPath> = "{}",
        /// Of sessions that the gateway makes: the path at which they end, with `POST`; with `?everywhere` all of the caller's
        /// logins. Left out: none of their own.
        optional logout: Pattern,
        /// How long a session lives that nobody uses; written at most once a minute. Left out: as long as its maker says.
        optional idle_timeout: Duration,
        /// How long a session lives at the most, from its `iat` on. Left out: as long as its record is there.
        optional absolute_timeout: Duration,
        /// Which pages may send what could change something.
        default csrf: Csrf = "{}",
        /// Whether services get the cookie too.
        default forward_cookie: bool = "false",
    }
}

section! {
    /// The cookie that names a session.
    pub struct CookieSource {
        /// Its name.
        required name: String,
        /// How its value holds the id: `plain`, `base64` (Spring Session) or `express` (express-session, signed).
        default encoding: Encoding = "plain",
        /// The path below which it is sent: what the gateway sets, and takes away at a logout.
        default path: String = "/",
        /// The domain whose hosts get it. Left out: the one that set it, alone.
        optional domain: String,
        /// Whether it is sent over TLS alone.
        default secure: bool = "true",
        /// Whether scripts do not see it.
        default http_only: bool = "true",
        /// Whether it is sent with what other sites ask: `strict`, `lax` (when they lead to a page) or `none` (always).
        default same_site: SameSite = "lax",
        /// File with the secret that `express` signs with; one final line break is not part of it.
        optional secret_file: PathBuf,
    }
}

section! {
    /// Which pages may send, with the cookie, what could change something: any method but GET, HEAD and OPTIONS, and
    /// the beginning of a WebSocket. Pages of the host itself may as well (`Sec-Fetch-Site: same-origin`).
    pub struct Csrf {
        /// Their origins: `https://shop.example.com`, or `https://*.example.com`.
        default allowed_origins: Vec<At<CorsOrigin>> = "[]",
    }
}
