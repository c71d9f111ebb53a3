//! The operators' address: health, metrics, revocations.
//!
//! It has no login of its own: whoever reaches it may use it, so it listens on loopback unless the
//! configuration says otherwise. A request that a browser sent for a page (it has `Origin`) cannot
//! change anything, and on loopback it has to name this machine.

mod revocations;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::metrics::{Counters, Gauge, page};
use super::sink;
use crate::accept::tls::Tls;
use crate::authenticate::keys::KeySource;
use crate::clock::steps;
use crate::gateway::Gateway;
use crate::store::TrackingNumbers;

/// Longest body of a request to this address, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// What is said to who comes by another name.
const ELSEWHERE: &str = "on loopback the pages answer to addresses, `localhost` and names without a dot";
/// Longest time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the pages are made of.
pub struct Admin {
    shown: ArcSwap<Shown>,
    is_draining: AtomicBool,
    /// Configurations that were read while serving and not taken.
    refused: AtomicU64,
}

/// What is served by.
pub struct Shown {
    /// Which configuration it is: the first, or the one after.
    pub generation: u64,
    /// The snapshot.
    pub gateway: Arc<Gateway>,
    /// The counters of its workers.
    pub counters: Vec<Arc<Counters>>,
    /// Of the listeners that speak it.
    pub tls: Vec<Arc<Tls>>,
}

impl Admin {
    /// The pages of one gateway.
    #[must_use]
    pub fn new(shown: Shown) -> Self {
        Self { shown: ArcSwap::from_pointee(shown), is_draining: AtomicBool::new(false), refused: AtomicU64::new(0) }
    }

    /// Shows another configuration from now on.
    pub fn show(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
    }

    /// Counts a configuration that was not taken.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Says on `/readyz` that the process is about to end.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Serves the pages until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(Arc::clone(&self).serve_one(stream))),
                // No file descriptor left: a moment later there may be one.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn serve_one(self: Arc<Self>, stream: TcpStream) {
        // SECURITY: a browser on this machine can be made to come here by any name.
        let is_near = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let service = service_fn(|request| async {
            let is_ours = !is_near || is_of_here(&request);
            let answer = if is_ours { self.answer(request).await } else { problem(StatusCode::FORBIDDEN, ELSEWHERE) };
            Ok::<_, Infallible>(answer)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        // What goes wrong with an operator's connection, the operator sees.
        drop(connection.await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        match (path.as_str(), request.method()) {
            ("/livez", &Method::GET | &Method::HEAD) => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            ("/readyz", &Method::GET | &Method::HEAD) => self.readiness(),
            ("/metrics", &Method::GET | &Method::HEAD) => {
                text(StatusCode::OK, "text/plain; version=0.0.4", self.metrics())
            }
            ("/revocations", &Method::GET | &Method::HEAD) => {
                let shown = self.shown.load_full();
                revocations::look_up(&shown.gateway, request.uri().query().unwrap_or_default()).await
            }
            ("/revocations", &Method::POST) => self.revoke(request).await,
            ("/livez" | "/readyz" | "/metrics", _) => not_allowed("GET, HEAD"),
            ("/revocations", _) => not_allowed("GET, HEAD, POST"),
            _ => problem(StatusCode::NOT_FOUND, "pages: /livez, /readyz, /metrics, /revocations"),
        }
    }

    async fn revoke(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.headers().contains_key(ORIGIN) {
            return problem(StatusCode::FORBIDDEN, "a page in a browser may not revoke");
        }
        let is_json =
            request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if !is_json {
            return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body has to be `application/json`");
        }
        match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => revocations::revoke(&self.shown.load_full().gateway, &body.to_bytes()).await,
            Err(_) => problem(StatusCode::PAYLOAD_TOO_LARGE, "the body cannot be read, or is longer than 64KiB"),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let shown = self.shown.load_full();
        let authenticator = &shown.gateway.authenticator;
        let mut reasons = Vec::new();
        if self.is_draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        if let Some(trouble) = authenticator.store().and_then(|store| store.trouble()) {
            reasons.push(format!("{trouble}: protected routes answer 503"));
        }
        for issuer in authenticator.issuers() {
            if matches!(issuer.keys, KeySource::Remote(_)) && issuer.keys.current().is_err() {
                reasons.push(format!("no keys of issuer `{}`: its tokens get 503", issuer.name));
            }
        }
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
    }

    fn metrics(&self) -> String {
        let shown = self.shown.load_full();
        let authenticator = &shown.gateway.authenticator;
        let yes = |holds: bool| if holds { 1.0 } else { 0.0 };
        let mut gauges = vec![
            Gauge {
                name: "store_available",
                help: "Whether the store answers look-ups (1), or is away or refuses them (0).",
                value: yes(authenticator.store().and_then(|store| store.trouble()).is_none()),
            },
            Gauge {
                name: "remembered_tokens",
                help: "Verified tokens that are remembered.",
                value: number(authenticator.remembered()),
            },
            Gauge {
                name: "config_generation",
                help: "Which configuration is served by: 1 is the one of the start.",
                value: number(usize::try_from(shown.generation).unwrap_or(usize::MAX)),
            },
            Gauge {
                name: "config_refused_total",
                help: "Configurations that were read while serving and had mistakes: nothing was changed.",
                value: number(usize::try_from(self.refused.load(Ordering::Relaxed)).unwrap_or(usize::MAX)),
            },
            Gauge {
                name: "clock_steps_total",
                help: "Steps of more than 5 seconds that the wall clock made.",
                value: number(usize::try_from(steps::count()).unwrap_or(usize::MAX)),
            },
            Gauge {
                name: "log_lines_dropped_total",
                help: "Log lines that were dropped because nobody read them fast enough.",
                value: number(usize::try_from(sink::dropped()).unwrap_or(usize::MAX)),
            },
        ];
        gauges.extend(authenticator.store().and_then(|store| store.tracking()).into_iter().flat_map(tracked));
        gauges.extend(shown.tls.iter().filter_map(|tls| tls.expires()).min().map(|expires| Gauge {
            name: "tls_certificate_expiry_seconds",
            help: "Unix time at which the first certificate of a listener ends.",
            value: number(usize::try_from(expires).unwrap_or(0)),
        }));
        page(&shown.counters, &gauges, shown.gateway.forwarder.upstreams())
    }
}

/// What is told about standings that are kept up to date.
fn tracked(numbers: TrackingNumbers) -> [Gauge; 5] {
    let count = |count: u64| number(usize::try_from(count).unwrap_or(usize::MAX));
    [
        Gauge {
            name: "revocation_staleness_seconds",
            help: "Age of the last proof that no revocation was missed; infinite without a connection.",
            value: numbers.staleness.map_or(f64::INFINITY, |age| age.as_secs_f64()),
        },
        Gauge {
            name: "revocation_tracked_keys",
            help: "Keys of the store whose changes are told.",
            value: number(numbers.keys),
        },
        Gauge {
            name: "revocation_look_ups_total",
            help: "Tokens that were asked for on the tracking connection.",
            value: count(numbers.look_ups),
        },
        Gauge {
            name: "revocation_invalidations_total",
            help: "Changes that the store told of.",
            value: count(numbers.invalidations),
        },
        Gauge {
            name: "revocation_connections_total",
            help: "Tracking connections that were made.",
            value: count(numbers.connections),
        },
    ]
}

/// Whether a request on loopback names this machine: by an address, or by a name that nobody else can have.
fn is_of_here(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else { return true };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost")
}

#[allow(clippy::cast_precision_loss, reason = "a count for a page: 2^53 of anything is out of reach")]
const fn number(count: usize) -> f64 {
    count as f64
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    text(status, "application/json", format!("{body}\n"))
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    text(status, "application/problem+json", format!("{body}\n"))
}

fn not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "the page does not offer this method");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
