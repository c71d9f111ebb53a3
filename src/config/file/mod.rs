//! gateway.yaml as written: each value right by itself and knowing its place. No cross-checks, no
//! files opened: `compile` does both.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;

mod assertion;
mod issuer;
mod listener;
mod session;

pub use self::assertion::Assertion;
pub use self::issuer::{Introspection, Issuer, OnSuccess, Refresh, RefreshCookie, SigningKey};
pub use self::listener::{Certificate, ClientAuth, ClientCertificates, Listener, Tls};
pub use self::session::{CookieSource, Csrf, Sessions};
use super::access::Access;
use super::count::{Count, UpTo};
use super::header::HeaderSource;
use super::origin::{CorsOrigin, FieldName};
use super::place::At;
use super::rate::RateSource;
use super::section::{Named, section};
use super::target::{TargetSource, UpstreamSource};
use super::unit::Size;
use super::value::{Host, Version};
use super::words::{EncodedSlash, Ends, RateScope};
use crate::admit::pattern::Pattern;
use crate::forward::balance::Choice;
use crate::rate::RateKey;
use crate::route::{Protocol, RevocationMode, WhenUnavailable};

section! {
    /// The whole file.
    pub struct Config {
        /// The version of this format.
        required version: Version,
        /// Where clients connect.
        required listeners: Vec<At<Listener>>,
        /// Where operators connect: health, metrics, revocations.
        default admin: Admin = "{}",
        /// Networks whose `X-Forwarded-*` and `Forwarded` are believed. Of anybody else they are dropped.
        default trusted_proxies: Vec<At<IpNet>> = "[]",
        /// Where revocations live.
        optional store: Store,
        /// Who may vouch for a caller.
        default issuers: Named<Issuer> = "{}",
        /// Who signs certificates of clients; a listener asks for them (`tls.client_auth`).
        default client_certificates: Named<ClientCertificates> = "{}",
        /// Cookies whose sessions the store has. Named in `auth`, such a session proves who is calling.
        default sessions: Named<Sessions> = "{}",
        /// Who is asked about tokens that say nothing by themselves (RFC 7662). Named in `auth`, such a token proves who is calling.
        default introspection: Named<Introspection> = "{}",
        /// How a token is taken back.
        default revocation: Revocation = "{}",
        /// What upstreams are told about the caller.
        default identity: Identity = "{}",
        /// The services behind the gateway.
        required upstreams: Named<Upstream>,
        /// What routes share unless they say otherwise.
        default defaults: Defaults = "{}",
        /// Which requests go where, and who may send them. The most specific path wins, order never matters.
        required routes: Vec<At<Route>>,
    }
}

section! {
    /// The operators' address.
    pub struct Admin {
        /// Address and port. Whoever reaches it can revoke: keep it on loopback or in a closed network.
        default address: SocketAddr = "127.0.0.1:9901",
    }
}

section! {
    /// Where revocations live.
    pub struct Store {
        /// `redis://[user:password@]host:port/db`, `rediss://...`, `redis+sentinel://host,host/service/db`,
        /// `redis+cluster://host,host`, `file:PATH` (beside the configuration unless it begins with `/`; for one gateway),
        /// or `memory:` (forgotten at the end).
        required url: String,
        /// What the names of the gateways' own keys in Redis begin with (in a cluster, in braces); the same for all
        /// that share it.
        default prefix: String = "bearward:",
        /// Longest wait for an answer; after it the standing of a token is unknown.
        default timeout: Duration = "250ms",
    }
}

section! {
    /// How a token is taken back: the blacklist.
    pub struct Revocation {
        /// The key names that services write.
        default keys: RevocationKeys = "{}",
        /// When the store is asked: `tracked` once for each token, and then the store tells when its
        /// answer changes; `lookup` on every request; or `off`.
        default mode: RevocationMode = "tracked",
        /// With `tracked`: longest time without proof that nothing was missed; then 503.
        default max_staleness: Duration = "1s",
        /// With `tracked`: whether this gateway says in the store what it has applied, so that
        /// `bearward revoke --ack all` can wait for it. Without it that does not count this gateway.
        default leases: bool = "true",
        /// While the store is silent: `deny` answers 503, `allow` serves as if the token were good.
        default when_unavailable: WhenUnavailable = "deny",
        /// Where issuers say that a login has ended (OpenID Connect Back-Channel Logout). Left out: nowhere.
        optional backchannel_logout: BackchannelLogout,
    }
}

section! {
    /// Where issuers say that a login has ended.
    pub struct BackchannelLogout {
        /// The path, for `POST` with `logout_token=...`.
        required path: Pattern,
        /// The issuers that may, each with the client ids that its logout tokens are for (`aud`).
        required issuers: Named<Vec<At<String>>>,
        /// What one ends that names a login and its subject: `login`; or `subject` as well, all that was issued to it up to
        /// then: for issuers whose access tokens have no `sid`.
        default ends: Ends = "login",
        /// How often one client may post to it, by `client_ip`. Left out: as often as they like.
        optional rate_limit: RateLimit,
    }
}

section! {
    /// The key names that services write. `{iss}` may stand in each as well.
    pub struct RevocationKeys {
        /// Present = this token is dead; `{jti}` is the token's id.
        optional jti: String,
        /// Value = unix time in seconds; tokens of `{sub}` issued at or before it are dead.
        optional sub: String,
        /// Present = every token of the login `{sid}` is dead.
        optional sid: String,
        /// Value = unix time in seconds; tokens of the issuer `{iss}` issued at or before it are dead.
        optional iss: String,
        /// Value = unix time in seconds; all tokens issued at or before it are dead. No placeholder.
        optional all: String,
    }
}

section! {
    /// What upstreams are told about the caller.
    pub struct Identity {
        /// Header name and the claim that it carries. These names are removed from every request first.
        default headers: Named<HeaderSource> = "{}",
        /// Whether upstreams get the client's `Authorization` too.
        default forward_token: bool = "false",
        /// What upstreams that want proof are told: a short signed token. Left out: none.
        optional assertion: Assertion,
    }
}

section! {
    /// One service behind the gateway.
    pub struct Upstream {
        /// Where it is: `http://host:port`, `https://host:port`, or `h2://host:port` (HTTP/2 without TLS); with its share
        /// `{ url: ..., weight: 3 }`. One that takes no connection is passed over.
        required targets: Vec<At<TargetSource>>,
        /// How one is chosen: `least_requests` (in turn, unless another one has less to do) or `round_robin` (in turn).
        default balance: Choice = "least_requests",
        /// Requests that say the same of themselves go to the same target. Left out: they do not.
        optional sticky: Sticky,
        /// A page that each target is asked for; what is down gets no request. Left out: none is asked.
        optional health_check: HealthCheck,
        /// When a target is passed over that gives no usable answer.
        default ejection: Ejection = "{}",
        /// How often a request may go to another target after one that gave no usable answer, if that changes nothing.
        default retries: UpTo<10> = "1",
        /// Most requests under way at one target; past that 503.
        default max_requests: Count<1_000_000> = "1024",
        /// How `https://` targets prove who they are, and the gateway to them.
        optional tls: UpstreamTls,
        /// From sending a request to the head of its answer, while no body is moving: 504.
        default timeout: Duration = "15s",
        /// For a connection to be taken: 504.
        default connect_timeout: Duration = "2s",
        /// Longest silence inside an answer's body; then the answer is cut off.
        default idle_timeout: Duration = "60s",
        /// How long an idle connection is kept; shorter than the service's own limit.
        default keep_alive: Duration = "4s",
    }
}

section! {
    /// What requests stick to a target by: exactly one of the two. Who has neither is balanced as all others.
    pub struct Sticky {
        /// The value of this header field.
        optional header: FieldName,
        /// The value of this cookie; the service, or the gateway's own session, has set it.
        optional cookie: String,
    }
}

section! {
    /// A page that each target is asked for.
    pub struct HealthCheck {
        /// Its path, with a query if there is one; a 2xx is good.
        required path: String,
        /// The `Host` that is asked for; otherwise the target's own.
        optional host: String,
        /// From one check to the next, give or take a tenth.
        default interval: Duration = "5s",
        /// For one check.
        default timeout: Duration = "1s",
        /// Good ones in a row after which it is up again.
        default healthy: Count<100> = "2",
        /// Bad ones in a row after which it is down; the first check of all decides at once.
        default unhealthy: Count<100> = "3",
    }
}

section! {
    /// When a target is passed over that gives no usable answer: none in time, none at all, or garbage. What it answers,
    /// 5xx included, is an answer.
    pub struct Ejection {
        /// After so many in a row.
        default failures: Count<1_000_000> = "5",
        /// For how long; then one request tries it. Twice as long each time that fails.
        default time: Duration = "10s",
        /// For how long at most.
        default max_time: Duration = "5m",
    }
}

section! {
    /// TLS to a service.
    pub struct UpstreamTls {
        /// File with the certificates that are trusted instead of the system's, in PEM.
        optional ca_file: PathBuf,
        /// The name that its certificate has to be for, and that it is asked for (SNI); otherwise the target's host.
        optional server_name: String,
        /// File with the gateway's own certificate, in PEM, where the service wants one; goes with `key_file`.
        optional cert_file: PathBuf,
        /// File with its private key, in PEM.
        optional key_file: PathBuf,
        /// Whether HTTP/2 is offered beside HTTP/1.1 (ALPN); the target picks.
        default http2: bool = "false",
    }
}

section! {
    /// What routes share.
    pub struct Defaults {
        /// Issuers of which any one proves who is calling.
        default auth: Vec<At<String>> = "[]",
        /// Which pages of other origins may read answers; left out: what services say of it goes through.
        optional cors: Cors,
        /// The realm that challenges name.
        default realm: String = "bearward",
        /// How much and how long.
        default limits: Limits = "{}",
    }
}

section! {
    /// How much and how long, for all routes and connections.
    pub struct Limits {
        /// Longest request body: 413.
        default body: Size = "1MiB",
        /// Longest request target: 414.
        default target: Size = "8KiB",
        /// All header names and values of a request together: 431.
        default headers: Size = "32KiB",
        /// Most header fields of a request, at most 100: 431.
        default header_count: Count<100> = "80",
        /// Most client connections at one time.
        default connections: Count<1_000_000> = "10000",
        /// From a request to the head of its answer, while no body is moving: 504.
        default request_timeout: Duration = "15s",
        /// From the first byte of a request's head to its last: 408.
        default header_timeout: Duration = "10s",
        /// Longest silence inside a request's body: 408.
        default body_timeout: Duration = "15s",
        /// Longest silence, in both directions, of a WebSocket; then it is closed.
        default tunnel_timeout: Duration = "1h",
        /// From a request to the end of its answer, which is cut off then; left out: it may last.
        optional answer_timeout: Duration,
        /// How long a client's connection may wait for its next request.
        default keep_alive_timeout: Duration = "60s",
        /// Longest time in which a client takes nothing of an answer; then its connection is closed.
        default send_timeout: Duration = "60s",
        /// How long requests may go on once the gateway was told to end.
        default drain_timeout: Duration = "30s",
    }
}

section! {
    /// One route.
    pub struct Route {
        /// Name in logs and metrics; unique.
        required id: String,
        /// Which requests it takes.
        required r#match: Match,
        /// The service it leads to; or several with their shares: `{ order: 95, order-next: 5 }`.
        required upstream: UpstreamSource,
        /// What the path becomes on its way there.
        optional rewrite: Rewrite,
        /// What a login becomes that succeeds there.
        optional on_success: OnSuccess,
        /// Issuers of which any one proves who is calling; instead of `defaults.auth`.
        optional auth: Vec<At<String>>,
        /// Who may: `public`, `authenticated`, or what is demanded of the caller.
        required access: Access,
        /// What differs from `revocation` for this route.
        optional revocation: RouteRevocation,
        /// How often one client, or one caller, may ask: 429. Left out: as often as they like.
        optional rate_limit: RateLimit,
        /// What differs from `defaults.limits` for this route.
        optional limits: RouteLimits,
        /// Which pages of other origins may read answers; instead of `defaults.cors`.
        optional cors: Cors,
        /// Protocols that a request may ask to change to: `websocket`. Left out: none, and `Upgrade` goes no further.
        default upgrade: Vec<At<Protocol>> = "[]",
        /// Whether `%2F` inside a segment is 400 (`refuse`) or stays as it is (`allow`); 400 all the same where another route
        /// demands something else for the path that it decodes to.
        default encoded_slash: EncodedSlash = "refuse",
    }
}

section! {
    /// How often one client, or one caller, may ask.
    pub struct RateLimit {
        /// Who is counted: `client_ip`, before anybody is asked who calls; `subject`, or `{ claim: NAME }`, afterwards.
        required key: RateKey,
        /// How often: `5/minute`, `100/second`; `hour` and `day` as well.
        required limit: RateSource,
        /// How many may come at once. Left out: as many as `limit` names.
        optional burst: Count<1_000_000>,
        /// Whether gateways that share a store share the limit (`store`, asked with each request), or each has its own
        /// (`gateway`).
        default scope: RateScope = "store",
    }
}

section! {
    /// Which pages of other origins may read answers (CORS). Preflights are answered here, before authentication.
    pub struct Cors {
        /// `https://shop.example.com`, `https://*.example.com`, or `"*"` for any, without credentials. Empty: none.
        required origins: Vec<At<CorsOrigin>>,
        /// Header fields that pages may send.
        default headers: Vec<At<FieldName>> = "[Authorization, Content-Type]",
        /// Header fields that pages may read, beside the usual ones.
        default expose: Vec<At<FieldName>> = "[]",
        /// Whether browsers may send cookies, and show the answers then.
        default credentials: bool = "false",
        /// How long browsers may remember a preflight; whole seconds.
        default max_age: Duration = "10m",
    }
}

section! {
    /// What a path becomes on its way to the service. The result is judged like a path that came.
    pub struct Rewrite {
        /// Whole segments that go; the route's path begins with them.
        optional strip_prefix: Pattern,
        /// What comes before the rest.
        optional add_prefix: Pattern,
    }
}

section! {
    /// Which requests a route takes.
    pub struct Match {
        /// Literal segments, `{name}` for one segment, a final `/**` for this path and all below.
        required path: Pattern,
        /// Methods; left out: any.
        optional methods: Vec<At<Method>>,
        /// Hosts, also `*.example.com`; left out: any.
        optional hosts: Vec<At<Host>>,
    }
}

section! {
    /// What differs for a route.
    pub struct RouteRevocation {
        /// When the store is asked.
        optional mode: RevocationMode,
        /// What happens while it is silent.
        optional when_unavailable: WhenUnavailable,
    }
}

section! {
    /// What differs for a route.
    pub struct RouteLimits {
        /// Longest request body.
        optional body: Size,
        /// From a request to the head of its answer.
        optional request_timeout: Duration,
        /// Longest silence inside a request's body.
        optional body_timeout: Duration,
        /// Longest silence of a WebSocket.
        optional tunnel_timeout: Duration,
        /// From a request to the end of its answer, which is cut off then.
        optional answer_timeout: Duration,
    }
}
