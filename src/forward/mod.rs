//! A permit sends the request upstream.
//!
//! 1. The head is rewritten (`headers`); the path that goes on is the one that matched.
//! 2. A target is chosen (`balance`), by how it is doing (`health`, `check`), and a connection to it taken from
//!    the worker's pool, or made (`attempt`).
//! 3. One exchange is made on it (`exchange`); where that fails the request may go out again, if that
//!    changes nothing.
//! 4. Both bodies stream. Each wait has its own limit: connecting, the answer's head, silence
//!    inside a body; and the route's `request_timeout` bounds all that comes before the answer's
//!    head together, every target and the second try included.
//!
//! What it does not do: follow redirects, cache, or decide anything about the caller.

pub mod answer;
pub mod assertion;
mod attempt;
pub mod balance;
pub mod body;
pub mod check;
pub mod connection;
pub mod error;
pub mod exchange;
mod extended;
pub mod frames;
mod gather;
pub mod headers;
pub mod health;
pub mod http2;
pub mod leash;
pub mod pool;
pub mod secure;
pub mod sticky;
pub mod target;
pub mod trace;
mod tries;
pub mod upgrade;
pub mod upload;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, response};
use hyper::body::Incoming;

use self::answer::{Head, Malformed};
use self::assertion::Assertion;
use self::attempt::{Attempt, Reply};
use self::balance::Balance;
use self::body::{Answer, Hold};
use self::check::HealthCheck;
pub use self::error::{ForwardError, Phase};
use self::exchange::{Fault, Message};
use self::gather::Gathering;
use self::headers::{BodyFraming, HeaderPlan, Sources};
use self::health::Ejection;
use self::http2::answer::StreamAnswer;
use self::http2::exchange::StreamExchange;
use self::leash::Leashes;
use self::pool::Pool;
use self::sticky::Sticky;
use self::target::Target;
use self::trace::RequestId;
use self::upgrade::Tunnel;
use self::upload::{Upload, UploadFault, UploadLimits};
use crate::accept::{Busy, Peer};
use crate::alarm::Alarm;
use crate::authenticate::Caller;
use crate::authorize::Permit;
use crate::route::{Destination, Route, Shares};

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
    /// Whose turn it is.
    pub balance: Balance,
    /// What requests stick to a target by, where they do.
    pub sticky: Option<Sticky>,
    /// When a target is passed over.
    pub ejection: Ejection,
    /// How targets are checked, where they are.
    pub check: Option<HealthCheck>,
    /// Most requests under way at one target, of all workers together.
    pub max_requests: u32,
    /// How often a request may go to another target after one that gave no usable answer.
    pub retries: usize,
    /// Requests that are on their second try.
    pub retrying: AtomicU32,
}

/// All upstreams and how requests to them are rewritten.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<Arc<Upstream>>,
    plan: HeaderPlan,
    assertion: Option<Assertion>,
}

/// What one worker keeps between requests.
#[derive(Default)]
pub struct Connections {
    pool: Pool,
    /// Whose turn it is, by the place of the upstream.
    turns: RefCell<Vec<usize>>,
    /// Requests that are not answered yet.
    gathering: Gathering,
}

/// One request with what the gateway adds to it.
pub struct Exchanged<'r> {
    /// The request's head; borrowed, since it is large and goes through many hands.
    pub head: &'r Parts,
    /// Its body.
    pub body: Incoming,
    /// Who sent it.
    pub peer: &'r Peer,
    /// Its id.
    pub request_id: &'r RequestId,
    /// When it began.
    pub started: Instant,
    /// The same in unix seconds.
    pub unix: i64,
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

    /// One that is set.
    fn alarm_at(&self, at: Instant) -> Alarm {
        let alarm = self.alarm();
        alarm.set(at);
        alarm
    }

    /// The body of a request, within the limits of its route.
    #[must_use]
    pub fn upload(&self, route: &Route, exchanged: Exchanged<'_>) -> Upload {
        let Exchanged { head, body, started, busy, .. } = exchanged;
        let is_http2 = head.version == Version::HTTP_2;
        let limits = UploadLimits { bytes: route.limits.body, silence: route.limits.body_timeout, is_http2 };
        Upload::new(body, limits, started, busy, self.pool.alarms())
    }

    /// The same, which ends with what permitted it.
    fn permitted(&self, permit: &Permit<'_>, exchanged: Exchanged<'_>) -> Upload {
        let (route, leashes) = (permit.admitted().route, exchanged.leashes);
        let mut upload = self.upload(route, exchanged);
        upload.permitted_by(leashes, permit.caller(), route.revocation);
        upload
    }

    /// Closes idle connections that nobody will use any more.
    pub fn sweep(&self, forwarder: &Forwarder) {
        let longest = forwarder.upstreams.iter().map(|upstream| upstream.keep_alive).max();
        self.pool.sweep(longest.unwrap_or_default());
    }

    /// The next turn of an upstream. Each worker begins somewhere else.
    fn turn(&self, upstream: usize) -> usize {
        let mut turns = self.turns.borrow_mut();
        while turns.len() <= upstream {
            turns.push(fastrand::usize(..1 << 16));
        }
        let turn = turns.get_mut(upstream);
        turn.map_or(0, |turn| {
            *turn = turn.wrapping_add(1);
            *turn
        })
    }
}

impl Forwarder {
    /// A forwarder to these upstreams.
    #[must_use]
    pub fn new(upstreams: Vec<Upstream>, plan: HeaderPlan, assertion: Option<Assertion>) -> Self {
        Self { upstreams: upstreams.into_iter().map(Arc::new).collect(), plan, assertion }
    }

    /// The upstreams, by their place.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
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
        let Destination::Upstreams(shares) = &route.leads_to else { return Err(ForwardError::Unreachable) };
        let place = draw(shares);
        let upstream = self.upstreams.get(place).ok_or(ForwardError::Unreachable)?;
        let Exchanged { head, peer, request_id, started, leashes, unix, .. } = exchanged;
        let assertion = self.assert(permit.caller(), (place, &upstream.name), unix)?;
        let upload = connections.permitted(&permit, exchanged);
        let framing = upload.framing();
        let upgrade = upgrade::asked(head, &route.upgrade, framing != BodyFraming::Empty);
        let sources = Sources {
            head,
            target: permit.admitted().onward().target().as_str(),
            caller: permit.caller(),
            peer,
            request_id,
            framing,
            upgrade,
            is_read: route.on_success.is_some(),
            assertion: assertion.as_ref(),
        };
        let (first, whole) = (route.limits.request_timeout, route.limits.answer_timeout);
        let first = whole.map_or(first, |whole| whole.min(first));
        let attempt = Attempt {
            upstream,
            connections,
            turn: connections.turn(place),
            key: upstream.sticky.as_ref().and_then(|sticky| sticky.key(&head.headers)),
            method: &head.method,
            way: (framing, upgrade),
            limit: upstream.timeout.min(first),
            until: started + first,
            is_upstreams_limit: upstream.timeout <= first,
        };
        let message = Message { head: self.plan.write(sources), upload };
        let hold = || {
            let leash = leashes.hold(permit.caller(), route.revocation, started);
            Hold { leash, end: whole.map(|whole| connections.alarm_at(started + whole)) }
        };
        let _under_way = connections.gathering.join(!attempt.is_repeatable()).await;
        let (mut answer, exchange) = match attempt.send(message).await? {
            Reply::Http1(answer, exchange) => (answer, exchange),
            Reply::Http2(reply) => return Ok(answered_by_stream(*reply, attempt.method, upstream.idle_timeout, hold)),
        };
        let is_changed = answer.status == StatusCode::SWITCHING_PROTOCOLS;
        if extended::is_asked(head) {
            extended::settle(head, &mut answer)?;
        }
        let Head { status, headers, framing, is_persistent } = answer;
        if is_changed {
            let tunnel = Tunnel::new(exchange.connection, hold(), route.limits.tunnel_timeout);
            return Ok(answered(status, headers, Answer::Tunnel(Box::new(tunnel))));
        }
        let pool = is_persistent.then(|| connections.pool.clone());
        let mut body = Answer::new(exchange, framing, pool, upstream.idle_timeout)?;
        if let Answer::Streaming(streaming) = &mut body {
            streaming.hold = hold().into();
        }
        Ok(answered(status, headers, body))
    }
}

impl Forwarder {
    /// What is signed of the caller for an upstream, and the field that it is in.
    fn assert(
        &self,
        caller: &Caller,
        upstream: (usize, &Arc<str>),
        now: i64,
    ) -> Result<Option<(&HeaderName, HeaderValue)>, ForwardError> {
        let (Some(assertion), Caller::Known(identity)) = (&self.assertion, caller) else { return Ok(None) };
        let value = assertion.of(identity, upstream, now)?;
        Ok(value.map(|value| (&assertion.header, value)))
    }
}

/// The upstream that gets a request, by their shares.
fn draw(upstreams: &Shares) -> usize {
    match upstreams.sum() {
        1 => upstreams.at(0),
        sum => upstreams.at(fastrand::u32(..sum)),
    }
}

/// The answer of a stream of HTTP/2.
fn answered_by_stream(
    (head, body, exchange): (response::Parts, RecvStream, StreamExchange),
    method: &Method,
    silence: Duration,
    hold: impl FnOnce() -> Hold,
) -> Response<Answer> {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    // A body where there is none is not read.
    let has_body = *method != Method::HEAD && !matches!(head.status.as_u16(), 204 | 304);
    let answer = if body.is_end_stream() || !has_body {
        exchange.settle(body, silence);
        Answer::Whole(Bytes::new())
    } else {
        let mut streaming = StreamAnswer::new(exchange, body, length, silence);
        streaming.hold = hold().into();
        Answer::Stream(Box::new(streaming))
    };
    answered(head.status, head.headers, answer)
}

fn answered(status: StatusCode, headers: HeaderMap, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

impl From<UploadFault> for ForwardError {
    fn from(fault: UploadFault) -> Self {
        match fault {
            UploadFault::TooLarge => Self::BodyOverflow,
            UploadFault::TooSlow => Self::BodyTooSlow,
            UploadFault::Gone => Self::ClientGone,
            UploadFault::TakenBack => Self::TakenBack,
            UploadFault::Doubted => Self::Doubted,
        }
    }
}

impl From<Malformed> for ForwardError {
    fn from(_: Malformed) -> Self {
        Self::Broken
    }
}

impl From<Fault> for ForwardError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Upload(fault) => fault.into(),
            Fault::TimedOut => Self::TimedOut(Phase::Response),
            Fault::Unanswered | Fault::Malformed => Self::Broken,
        }
    }
}
