//! Checks of targets, beside the way of requests: each is asked for a page now and then.
//!
//! 1. The first check decides at once; then `unhealthy` bad ones in a row make a target down, and `healthy`
//!    good ones in a row up again.
//! 2. Good is a whole head with a 2xx, within `timeout`; what comes after the head is not read.
//! 3. Each check has a connection of its own, over TLS where requests have it, so that it sees what a new
//!    connection would.
//! 4. Checks of several gateways and targets drift apart: each waits a little more or less than `interval`.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::USER_AGENT;
use http::uri::Scheme;
use http::{Method, Request, StatusCode, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Upstream;
use super::answer::HeadReader;
use super::connection::reach;
use super::health::Checked;
use super::target::{Speaks, Target};
use crate::stream::Stream;

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Who asks.
const AGENT: &str = "bearward-health-check";

/// How targets of an upstream are checked.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// Path and query of the page.
    pub path: String,
    /// The `Host` that is asked for; otherwise the target's address.
    pub host: Option<String>,
    /// From one check to the next.
    pub interval: Duration,
    /// For one check, connecting included.
    pub timeout: Duration,
    /// Good ones in a row that make a target up.
    pub healthy: u32,
    /// Bad ones in a row that make it down.
    pub unhealthy: u32,
}

/// Checks all targets of these upstreams until it is dropped. Of those that are not checked, what earlier
/// checks said is forgotten.
#[must_use]
pub fn start(upstreams: &[Arc<Upstream>]) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    for upstream in upstreams {
        for (place, target) in upstream.targets.iter().enumerate() {
            if upstream.check.is_some() {
                checks.spawn(run(Arc::clone(upstream), place));
            } else {
                target.health.check(Checked::Unknown);
            }
        }
    }
    checks
}

async fn run(upstream: Arc<Upstream>, place: usize) {
    let (Some(check), Some(target)) = (&upstream.check, upstream.targets.get(place)) else { return };
    // How many in a row said otherwise than what counts.
    let mut others = 0;
    loop {
        let outcome = timeout(check.timeout, check.ask(target)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let (said, needed) = match &outcome {
            Ok(()) => (Checked::Up, check.healthy),
            Err(_) => (Checked::Down, check.unhealthy),
        };
        let before = target.health.checked();
        others = if said == before { 0 } else { others + 1 };
        if said != before && (before == Checked::Unknown || others >= needed) {
            others = 0;
            target.health.check(said);
            tell(&upstream, target, before, &outcome);
        }
        sleep(check.interval.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

fn tell(upstream: &Upstream, target: &Target, before: Checked, outcome: &Result<(), String>) {
    let (upstream, target_address) = (&*upstream.name, &*target.address);
    match outcome {
        Err(reason) => tracing::warn!(upstream, target_address, reason, "a target is down: it gets no request"),
        Ok(()) if before == Checked::Down => tracing::info!(upstream, target_address, "a target is up again"),
        Ok(()) => {}
    }
}

impl HealthCheck {
    /// Asks for the page.
    async fn ask(&self, target: &Target) -> Result<(), String> {
        let stream = reach(target).await.map_err(|error| error.label().to_owned())?;
        let host = self.host.as_deref().unwrap_or(&target.address);
        let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let is_http2 = target.speaks == Speaks::Http2 || stream.is_http2();
        let status =
            if is_http2 { self.ask_http2(stream, (scheme, host)).await? } else { self.ask_http1(stream, host).await? };
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }

    async fn ask_http2(&self, stream: Stream, (scheme, host): (Scheme, &str)) -> Result<StatusCode, String> {
        let broken = |error: h2::Error| format!("the connection broke: {error}");
        let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
        let driven = tokio::spawn(connection);
        let asked = async {
            let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(self.path.as_str()).build();
            let request = Request::builder().uri(uri.map_err(|error| error.to_string())?).header(USER_AGENT, AGENT);
            let request = request.body(()).map_err(|error| error.to_string())?;
            let mut sender = sender.ready().await.map_err(broken)?;
            let (answer, _) = sender.send_request(request, true).map_err(broken)?;
            answer.await.map(|answer| answer.status()).map_err(broken)
        };
        let status = asked.await;
        driven.abort();
        status
    }

    async fn ask_http1(&self, mut stream: Stream, host: &str) -> Result<StatusCode, String> {
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n",
            self.path
        );
        let broken = |error: std::io::Error| format!("the connection broke: {error}");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let (mut reader, mut read) = (HeadReader::new(None), BytesMut::new());
        loop {
            read.reserve(4 * 1024);
            if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
                return Err("the connection ended before an answer".to_owned());
            }
            let head = reader.read(&mut read, &Method::GET).map_err(|_| "what it answers is not HTTP".to_owned())?;
            if let Some(head) = head {
                return Ok(head.status);
            }
            if read.len() > MAX_HEAD {
                return Err("the head of its answer is too long".to_owned());
            }
        }
    }
}
