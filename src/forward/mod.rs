//! A permit sends the request upstream.
//!
//! 1. The head is rewritten (`headers`); the path that goes on is the one that matched.
//! 2. A connection is taken from the worker's pool, or made, to the targets in turn. A target that
//!    takes no connection is passed over: nothing has been sent to it.
//! 3. A pooled connection may turn out to be dead. The request is sent once more, on a new one, if
//!    it never went out, or if nothing was answered, its body is empty and its method idempotent
//!    (RFC 9110 §9.2.2).
//! 4. Both bodies stream. Each wait has its own limit: connecting, the answer's head, silence
//!    inside a body.
//!
//! What it does not do: follow redirects, cache, or decide anything about the caller.

pub mod body;
pub mod error;
pub mod headers;
pub mod pool;
pub mod trace;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::sleep_until;

use self::body::{Answer, Progress, Upload, UploadFault};
pub use self::error::{ForwardError, Phase};
use self::headers::HeaderPlan;
use self::pool::{Lease, Pool, Target};
use crate::accept::{Busy, Peer};
use crate::authorize::Permit;

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
}

impl Connections {
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
        let Exchanged { mut head, body, peer, request_id, started, busy } = exchanged;
        self.plan.rewrite(&mut head.headers, permit.caller(), peer, request_id);
        head.uri = Uri::from(permit.admitted().path.target().clone());
        head.version = Version::HTTP_11;
        let (upload, progress) = Upload::new(body, route.limits.body, route.limits.body_timeout, started, busy);
        if matches!(upload, Upload::Streaming(_)) && !head.headers.contains_key(CONTENT_LENGTH) {
            // Why: without it the library sends a GET's body of unknown length as no body at all.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let limit = upstream.timeout.min(route.limits.request_timeout);
        let attempt = Attempt { upstream, connections, progress: &progress, limit };
        let answer = attempt.send(Request::from_parts(head, upload)).await;
        let (response, lease) = answer.map_err(|error| attempt.blame(error))?;
        Ok(finish(response, lease, upstream.idle_timeout))
    }
}

/// An exchange that gave no answer, and whether the request may go out again.
struct Broken {
    error: ForwardError,
    retry: Retry,
}

/// Whether a request may go out again.
enum Retry {
    /// It may have been acted upon.
    Never,
    /// It never went out; here it is.
    Unsent(Box<Request<Upload>>),
    /// It went out, and the connection ended without a byte of an answer.
    Unanswered,
}

/// The tries that one request has.
struct Attempt<'a> {
    upstream: &'a Upstream,
    connections: &'a Connections,
    progress: &'a Progress,
    limit: Duration,
}

impl Attempt<'_> {
    async fn send(&self, request: Request<Upload>) -> Result<(Response<Incoming>, Lease), ForwardError> {
        let lease = self.lease().await?;
        if !lease.is_reused {
            return self.exchange(lease, request).await.map_err(|broken| broken.error);
        }
        let copy = replayable(&request);
        let broken = match self.exchange(lease, request).await {
            Ok(answered) => return Ok(answered),
            Err(broken) => broken,
        };
        let again = match broken.retry {
            Retry::Never => None,
            Retry::Unsent(request) => Some(*request),
            Retry::Unanswered => copy,
        };
        let request = again.ok_or(broken.error)?;
        let fresh = self.connect(self.connections.next_turn()).await?;
        self.exchange(fresh, request).await.map_err(|broken| broken.error)
    }

    /// A connection to one of the targets, in turn: an idle one, or a new one.
    async fn lease(&self) -> Result<Lease, ForwardError> {
        let turn = self.connections.next_turn();
        let now = crate::clock::monotonic();
        let first = self.target(turn).ok_or(ForwardError::Unreachable)?;
        match self.connections.pool.take(first, self.upstream.keep_alive, now) {
            Some(lease) => Ok(lease),
            None => self.connect(turn).await,
        }
    }

    /// A new connection; a target that does not take one is passed over for the next.
    async fn connect(&self, turn: usize) -> Result<Lease, ForwardError> {
        let mut failure = ForwardError::Unreachable;
        for step in 0..self.upstream.targets.len() {
            let target = self.target(turn.wrapping_add(step)).ok_or(ForwardError::Unreachable)?;
            match self.connections.pool.connect(target, self.upstream.connect_timeout).await {
                Ok(lease) => return Ok(lease),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn target(&self, turn: usize) -> Option<&Target> {
        self.upstream.targets.get(turn.checked_rem(self.upstream.targets.len())?)
    }

    /// One exchange on one connection.
    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Broken> {
        let sending = lease.sender().try_send_request(request);
        tokio::pin!(sending);
        let mut deadline = crate::clock::monotonic() + self.limit;
        let alarm = sleep_until(deadline.into());
        tokio::pin!(alarm);
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut sending => break answered,
                () = &mut alarm => {
                    // The clock stands while the client's body moves.
                    let moved = self.progress.moved_at() + self.limit;
                    if moved <= deadline {
                        return Err(Broken { error: ForwardError::TimedOut(Phase::Response), retry: Retry::Never });
                    }
                    deadline = moved;
                    alarm.as_mut().reset(deadline.into());
                }
            }
        };
        match answered {
            // Nobody asked for another protocol: `Upgrade` never goes upstream.
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Broken { error: ForwardError::Broken, retry: Retry::Never })
            }
            Ok(response) => Ok((response, lease)),
            Err(mut failed) => {
                // Something came back, though not an answer: it may have been acted upon.
                let was_answered = failed.error().is_parse();
                let retry = match failed.take_message() {
                    Some(request) => Retry::Unsent(Box::new(request)),
                    None if was_answered => Retry::Never,
                    None => Retry::Unanswered,
                };
                Err(Broken { error: ForwardError::Broken, retry })
            }
        }
    }

    /// The upload's own fault, if it had one, is what broke the exchange.
    fn blame(&self, error: ForwardError) -> ForwardError {
        match self.progress.fault() {
            Some(UploadFault::TooLarge) => ForwardError::BodyOverflow,
            Some(UploadFault::TooSlow) => ForwardError::BodyTooSlow,
            Some(UploadFault::Gone) => ForwardError::ClientGone,
            None => error,
        }
    }
}

/// A copy of a request that may be sent twice: no body, and a method for which twice is once.
fn replayable(request: &Request<Upload>) -> Option<Request<Upload>> {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE]
        .contains(request.method());
    if !idempotent || !matches!(request.body(), Upload::Empty) {
        return None;
    }
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn finish(response: Response<Incoming>, lease: Lease, silence: Duration) -> Response<Answer> {
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Response::from_parts(head, Answer::new(incoming, lease, silence))
}
