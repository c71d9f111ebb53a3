//! Who may vouch for a caller; and, where that is the gateway itself, what it issues: keys, refresh tokens, endpoints, and
//! what a login becomes.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::RateLimit;
use crate::admit::pattern::Pattern;
use crate::authenticate::claims::ClaimPath;
use crate::config::origin::CorsOrigin;
use crate::config::place::At;
use crate::config::section::section;
use crate::config::words::OnReuse;
use crate::cookie::SameSite;

section! {
    /// Who may vouch for a caller. Exactly one of `jwks_uri`, `jwks_file`, `public_key_file`, `secret_file`, `signing_key`.
    pub struct Issuer {
        /// What the token's `iss` has to be, to the byte.
        required issuer: String,
        /// What the token's `aud` has to name one of.
        required audiences: Vec<At<String>>,
        /// The algorithms that are taken; the token's `alg` never chooses beyond them. All HMAC or none.
        required algorithms: Vec<At<Algorithm>>,
        /// URL of a JWK set, read in the background. `https://`, or `http://` on loopback.
        optional jwks_uri: String,
        /// File with a JWK set.
        optional jwks_file: PathBuf,
        /// File with one public key in PEM.
        optional public_key_file: PathBuf,
        /// File with a shared secret of at least 32 bytes; one final line break is not part of it.
        optional secret_file: PathBuf,
        /// The key that the gateway signs with, as this issuer.
        optional signing_key: SigningKey,
        /// Keys that are published and trusted beside it: the next one, before it signs, and the last one, for as long as
        /// its tokens live.
        default other_keys: Vec<At<SigningKey>> = "[]",
        /// With `signing_key`: how long an access token lives.
        default access_ttl: Duration = "10m",
        /// With `signing_key`: how logins go on. Left out: they end with their access token.
        optional refresh: Refresh,
        /// With `signing_key`: where the gateway answers as this issuer.
        default endpoints: Endpoints = "{}",
        /// How often `jwks_uri` is read.
        default jwks_refresh: Duration = "5m",
        /// How long keys of `jwks_uri` are used while it cannot be read; then tokens get 503.
        default jwks_max_age: Duration = "24h",
        /// Shortest time between two reads of `jwks_uri` that unknown `kid`s ask for.
        default jwks_cooldown: Duration = "30s",
        /// The claim with the caller's roles: text or a list.
        default roles_claim: ClaimPath = "roles",
        /// The claim with the caller's scopes: text with spaces, or a list.
        default scopes_claim: ClaimPath = "scope",
        /// Claims that have to be there beside `iss`, `aud`, `exp` and `sub`.
        default required_claims: Vec<At<ClaimPath>> = "[]",
        /// How far clocks may differ; at most 120s.
        default leeway: Duration = "30s",
        /// Longest life of a token. Revocations are kept this long, so it bounds the store as well.
        default max_lifetime: Duration = "24h",
    }
}

section! {
    /// A key that tokens are signed with, or were, or will be.
    pub struct SigningKey {
        /// File with the key in PEM: private (PKCS#8) where it signs, private or public elsewhere.
        required file: PathBuf,
        /// Its name in tokens and in the published set.
        required kid: String,
    }
}

section! {
    /// How a login goes on when its access token has ended.
    pub struct Refresh {
        /// How long a refresh token lives.
        default ttl: Duration = "14d",
        /// How long a login lives at the most, however often it is refreshed. Left out: as long as it is.
        optional max_life: Duration,
        /// Whether a refresh token becomes another one each time that it is used.
        default rotate: bool = "true",
        /// For how long after its turn a token still becomes the one that is good: two tabs, an answer that was lost.
        default reuse_grace: Duration = "10s",
        /// What becomes of a login whose token is used again after that: `revoke_family` ends it, `refuse` does not.
        default on_reuse: OnReuse = "revoke_family",
        /// The cookie that a browser may have its refresh token in (`Prefer: refresh-token=cookie`). Left out: none.
        optional cookie: RefreshCookie,
    }
}

section! {
    /// The cookie of a refresh token. Scripts do not see it, and it goes to `endpoints.refresh` alone.
    pub struct RefreshCookie {
        /// Its name.
        required name: String,
        /// Whether it is sent over TLS alone.
        default secure: bool = "true",
        /// Whether it is sent with what other sites ask: `strict`, `lax` or `none`.
        default same_site: SameSite = "strict",
        /// Pages of other origins that may refresh with it.
        default allowed_origins: Vec<At<CorsOrigin>> = "[]",
    }
}

section! {
    /// Paths at which the gateway answers itself, as this issuer. One that is left out is not there.
    pub struct Endpoints {
        /// `POST`: a refresh token becomes the next pair.
        optional refresh: Pattern,
        /// `POST`: a refresh token is given up, and its login ends (RFC 7009).
        optional revoke: Pattern,
        /// `POST`: the caller's login ends; with `?everywhere` all of the caller's.
        optional logout: Pattern,
        /// `GET`: the public keys.
        optional jwks: Pattern,
        /// How often one client may post to `refresh`, to `revoke` and to `logout`, each counted apart, by `client_ip` where
        /// not `logout` alone is there. Left out: as often as they like.
        optional rate_limit: RateLimit,
    }
}

section! {
    /// What the 200 of a login becomes: a JSON object with `sub`. Any other status goes to the client as it came.
    pub struct OnSuccess {
        /// The issuer whose tokens the client gets; one with a `signing_key`.
        optional issue_tokens: String,
        /// The kind of sessions that begins.
        optional create_session: String,
        /// What of the answer becomes claims, beside `sub`; the rest of it goes no further.
        default claims: Vec<At<String>> = "[name, roles, scope]",
        /// Which application it is (`client_id`). Left out: the id of the route.
        optional client_id: String,
    }
}

section! {
    /// Who is asked about tokens that say nothing by themselves (RFC 7662).
    pub struct Introspection {
        /// Where: `https://`, or `http://` on loopback.
        required uri: String,
        /// As whom the gateway asks (HTTP Basic, RFC 6749 §2.3.1).
        required client_id: String,
        /// File with the secret; one final line break is not part of it.
        required client_secret_file: PathBuf,
        /// What `iss` has to be, where an answer has one; what `{iss}` in `revocation.keys` stands for. Left out: the name.
        optional issuer: String,
        /// What `aud` has to name one of; empty: it is not looked at.
        default audiences: Vec<At<String>> = "[]",
        /// How long an answer is believed, and never past `exp`; `0s`: each request asks.
        default cache: Duration = "30s",
        /// How long an answer may take; then 503.
        default timeout: Duration = "2s",
        /// The member with the caller's roles: text or a list.
        default roles_claim: ClaimPath = "roles",
        /// The member with the caller's scopes: text with spaces, or a list.
        default scopes_claim: ClaimPath = "scope",
    }
}
