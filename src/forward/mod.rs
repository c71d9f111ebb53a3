//! A permit sends the request upstream.
//!
//! 1. The head is rewritten (`headers`); the path that goes on is the one that matched.
//! 2. A connection is taken from the worker's pool, or made, to the targets in turn. A target that
//!    takes no connection is passed over: nothing has been sent to it.
//! 3. A pooled connection may turn out to be dead. The request is sent once more, on a new one, if
//!    it never went out, or if nothing was answered, its body is empty and its method idempotent
//!    (RFC 9110 §9.2.2).
//! 4. Both bodies stream. Each wait has its own limit: connecting, the answer's head, silence
//!    inside a body; and the route's `request_timeout` bounds all that comes before the answer's
//!    head together, every target and the second try included.
//!
//! What it does not do: follow redirects, cache, or decide anything about the caller.

pub mod answer;
pub mod body;
pub mod connection;
pub mod error;
pub mod exchange;
pub mod frames;
pub mod headers;
pub mod leash;
pub mod pool;
pub mod secure;
pub mod trace;
pub mod upgrade;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use self::answer::Head;
use self::body::{Answer, Upload, UploadFault, UploadLimits};
use self::connection::Connection;
pub use self::error::{ForwardError, Phase};
use self::exchange::{Exchange, Fault};
use self::headers::{BodyFraming, HeaderPlan, Sources};
use self::leash::Leashes;
use self::pool::{Pool, Target};
use self::upgrade::Tunnel;
use crate::accept::{Busy, Peer};
use crate::alarm::Alarm;
use crate::authorize::Permit;
use crate::clock;
use crate::route::Protocol;

/// A named service with one or more targets.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it is.
    pub targets: Vec<Target>,
    /// From sending the request to the head of the answer, while no body is moving.
    pub timeout: Duration,
    /// For one connection to be taken.
    pub connect_timeout: Duration,
    /// Longest silence inside an answer's body.
    pub idle_timeout: Duration,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
}

/// All upstreams and how requests to them are rewritten.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<Upstream>,
    plan: HeaderPlan,
}

/// What one worker keeps between requests.
#[derive(Default)]
pub struct Connections {
    pool: Pool,
    turn: Cell<usize>,
}

/// One request with what the gateway adds to it.
pub struct Exchanged<'r> {
    /// The request's head.
    pub head: Parts,
    /// Its body.
    pub body: Incoming,
    /// Who sent it.
    pub peer: &'r Peer,
    /// Its id.
    pub request_id: &'r HeaderValue,
    /// When it began.
    pub started: Instant,
    /// Keeps the client's connection busy while its body is on the way.
    pub busy: Busy,
    /// Where its answer is watched, if it lasts.
    pub leashes: &'r Leashes,
}

impl Connections {
    /// Ends what has taken too long; called a few times a second.
    pub fn look(&self, now: Instant) {
        self.pool.alarms().look(now);
    }

    /// A time limit of this worker, looked at with all others.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        self.pool.alarms().alarm()
    }

    /// Closes idle connections that nobody will use any more.
    pub fn sweep(&self, forwarder: &Forwarder) {
        let longest = forwarder.upstreams.iter().map(|upstream| upstream.keep_alive).max();
        self.pool.sweep(longest.unwrap_or_default());
    }

    fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }
}

impl Forwarder {
    /// A forwarder to these upstreams.
    #[must_use]
    pub const fn new(upstreams: Vec<Upstream>, plan: HeaderPlan) -> Self {
        Self { upstreams, plan }
    }

    /// The upstreams, by their place.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Sends a permitted request to its upstream and returns the head of the answer.
    ///
    /// # Errors
    /// [`ForwardError`]: whose fault it was that there is no answer.
    pub async fn forward(
        &self,
        permit: Permit<'_>,
        exchanged: Exchanged<'_>,
        connections: &Connections,
    ) -> Result<Response<Answer>, ForwardError> {
        let route = permit.admitted().route;
        let upstream = self.upstreams.get(route.upstream).ok_or(ForwardError::Unreachable)?;
        let Exchanged { head, body, peer, request_id, started, busy, leashes } = exchanged;
        let limits = UploadLimits { bytes: route.limits.body, silence: route.limits.body_timeout };
        let upload = Upload::new(body, limits, started, busy, connections.pool.alarms());
        let framing = upload.framing();
        let upgrade = upgrade::asked(&head, &route.upgrade, framing != BodyFraming::Empty);
        let sources = Sources {
            head: &head,
            target: permit.admitted().path.target().as_str(),
            caller: permit.caller(),
            peer,
            request_id,
            framing,
            upgrade,
        };
        let attempt = Attempt {
            upstream,
            connections,
            method: &head.method,
            bytes: self.plan.write(sources).into(),
            way: (framing, upgrade),
            limit: upstream.timeout.min(route.limits.request_timeout),
            until: started + route.limits.request_timeout,
        };
        let (head, exchange) = attempt.send(upload, started).await?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let leash = leashes.hold(permit.caller(), route.revocation, started);
            let tunnel = Tunnel::new(exchange.connection, leash, route.limits.tunnel_timeout);
            return Ok(answered(head.status, head.headers, Answer::Tunnel(Box::new(tunnel))));
        }
        let pool = head.is_persistent.then(|| connections.pool.clone());
        let mut answer = Answer::new(exchange, head.framing, pool, upstream.idle_timeout)?;
        if let Answer::Streaming(streaming) = &mut answer {
            streaming.leash = leashes.hold(permit.caller(), route.revocation, started);
        }
        Ok(answered(head.status, head.headers, answer))
    }
}

fn answered(status: StatusCode, headers: HeaderMap, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The tries that one request has.
struct Attempt<'a> {
    upstream: &'a Upstream,
    connections: &'a Connections,
    method: &'a Method,
    bytes: Bytes,
    /// How the body is framed, and what the connection is to change to.
    way: (BodyFraming, Option<Protocol>),
    /// For one answer, counted from when its request went out or its body last moved.
    limit: Duration,
    /// For all tries together, as long as no body moves.
    until: Instant,
}

impl Attempt<'_> {
    async fn send(&self, upload: Upload, started: Instant) -> Result<(Head, Exchange), ForwardError> {
        let connection = self.lease(started).await?;
        let mut exchange = Exchange::new(connection, self.bytes.clone(), upload, self.way);
        let fault = match exchange.answer(self.method, self.limit, self.until).await {
            Ok(head) => return Ok((head, exchange)),
            Err(fault) => fault,
        };
        if !exchange.may_repeat(fault, self.method) {
            return Err(fault.into());
        }
        let connection = self.connect(self.connections.next_turn()).await?;
        let mut exchange = Exchange::new(connection, self.bytes.clone(), exchange.upload, self.way);
        let head = exchange.answer(self.method, self.limit, self.until).await?;
        Ok((head, exchange))
    }

    /// A connection to one of the targets, in turn: an idle one, or a new one.
    async fn lease(&self, now: Instant) -> Result<Connection, ForwardError> {
        let turn = self.connections.next_turn();
        let first = self.target(turn).ok_or(ForwardError::Unreachable)?;
        match self.connections.pool.take(first, self.upstream.keep_alive, now) {
            Some(connection) => Ok(connection),
            None => self.connect(turn).await,
        }
    }

    /// A new connection; a target that does not take one is passed over for the next.
    async fn connect(&self, turn: usize) -> Result<Connection, ForwardError> {
        let mut failure = ForwardError::Unreachable;
        for step in 0..self.upstream.targets.len() {
            let target = self.target(turn.wrapping_add(step)).ok_or(ForwardError::Unreachable)?;
            let left = self.until.saturating_duration_since(clock::monotonic());
            match self.connections.pool.connect(target, self.upstream.connect_timeout.min(left)).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn target(&self, turn: usize) -> Option<&Target> {
        self.upstream.targets.get(turn.checked_rem(self.upstream.targets.len())?)
    }
}

impl From<Fault> for ForwardError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Upload(UploadFault::TooLarge) => Self::BodyOverflow,
            Fault::Upload(UploadFault::TooSlow) => Self::BodyTooSlow,
            Fault::Upload(UploadFault::Gone) => Self::ClientGone,
            Fault::TimedOut => Self::TimedOut(Phase::Response),
            Fault::Unanswered | Fault::Malformed => Self::Broken,
        }
    }
}
