//! The tries of one request: at which targets, on which connections.
//!
//! 1. A target is chosen (`balance`); one that takes no connection is passed over for the next: nothing has
//!    been sent to it.
//! 2. A pooled connection may turn out to be dead. The request is sent once more, on a new one, if that
//!    changes nothing (`Exchange::again`).
//! 3. A target that gave no usable answer may have another one asked instead: if that changes nothing, and at most
//!    `retries` times.
//! 4. What a target may have seen goes out again for no more than a fifth of the upstream's requests at one time, so that
//!    a service in trouble is not asked twice as much.
//! 5. All tries together have the time that one would have.

use std::time::{Duration, Instant};

use h2::RecvStream;
use http::Method;
use http::response::Parts;
use http::uri::Scheme;
use tokio::time::timeout;

use super::answer::Head;
use super::connection::Connection;
use super::error::{ForwardError, Phase};
use super::exchange::{Again, Exchange, Fault, Message, is_idempotent};
use super::headers::BodyFraming;
use super::health::{InFlight, Standing};
use super::http2::exchange::StreamExchange;
use super::http2::session::{Seat, Session};
use super::sticky::Key;
use super::target::{Speaks, Target};
use super::tries::Tries;
use super::upload::Upload;
use super::{Connections, Upstream};
use crate::clock;
use crate::route::Protocol;

/// How often a request goes out again to a target that has not looked at it, or that has ended a connection before it could.
const MOST_HERE: usize = 2;

/// The tries that one request has.
pub(super) struct Attempt<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) connections: &'a Connections,
    /// Whose turn it is.
    pub(super) turn: usize,
    /// What it sticks to a target by.
    pub(super) key: Option<Key>,
    pub(super) method: &'a Method,
    /// How the body is framed, and what the connection is to change to.
    pub(super) way: (BodyFraming, Option<Protocol>),
    /// For one answer, counted from when its request went out or its body last moved.
    pub(super) limit: Duration,
    /// For all tries together, as long as no body moves.
    pub(super) until: Instant,
    /// Whether it is the upstream's own limit that `limit` is, and not a shorter one of the route.
    pub(super) is_upstreams_limit: bool,
}

/// What a request goes out on.
enum Way {
    /// A connection of its own.
    Http1(Box<Connection>),
    /// A stream beside others.
    Http2(Seat, Option<InFlight>),
}

/// The head of an answer, and what its body comes on.
pub(super) enum Reply {
    /// On a connection of its own.
    Http1(Head, Box<Exchange>),
    /// On a stream beside others.
    Http2(Box<(Parts, RecvStream, StreamExchange)>),
}

/// A try that failed.
struct Failed {
    fault: Fault,
    /// Whether that counts against the target.
    counts: bool,
    again: Again,
    /// Whether the target may have seen the request.
    was_seen: bool,
    /// With what is left of the body.
    message: Message,
    load: Option<InFlight>,
}

impl<'a> Attempt<'a> {
    /// Sends the request until it is answered, or may not be sent again.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn send(&self, mut message: Message) -> Result<Reply, ForwardError> {
        let mut tries = Tries::new(!matches!(message.upload, Upload::Empty));
        let (mut place, mut way) = self.lease(&mut tries, clock::recent()).await?;
        loop {
            let failed = match self.once(way, message, place).await {
                Ok(reply) => {
                    self.answered(place, &mut tries);
                    return Ok(reply);
                }
                Err(failed) => *failed,
            };
            let Failed { fault, counts, mut again, was_seen, load, .. } = failed;
            tries.was_seen |= was_seen;
            if again == Again::Here {
                tries.here += 1;
                // A target that takes connections and then no request is none that is well.
                again = if tries.here > MOST_HERE { Again::Elsewhere } else { again };
            }
            if again != Again::Here && counts && self.is_targets(fault, &tries) {
                self.failed(place, &mut tries);
            }
            (place, way) = match again {
                Again::No => return Err(fault.into()),
                // Boxed, here and below: what few requests wait for is no room that each of them takes.
                Again::Here => Box::pin(self.here(place, (fault, load), &mut tries)).await?,
                Again::Elsewhere => Box::pin(self.elsewhere(place, fault, &mut tries)).await?,
            };
            message = failed.message;
        }
    }

    /// One try.
    async fn once(&self, way: Way, message: Message, place: usize) -> Result<Reply, Box<Failed>> {
        match way {
            Way::Http1(connection) => {
                // Boxed here: it goes through many hands, and is too large to be copied into each.
                let limits = (self.limit, self.until);
                let mut exchange = Box::new(Exchange::new(connection, message, self.way, limits));
                let gathering = &self.connections.gathering;
                if self.is_repeatable() && gathering.is_worth_it() {
                    exchange = gathering.begin(exchange).await;
                }
                match exchange.answer(self.method, self.limit).await {
                    Ok(head) => Ok(Reply::Http1(head, exchange)),
                    Err(fault) => {
                        let (again, counts) = (exchange.again(fault, self.method), exchange.counts());
                        let was_seen = exchange.was_seen();
                        let Exchange { upload, connection, outgoing, .. } = *exchange;
                        let message = Message { head: outgoing.into_head(), upload };
                        Err(Box::new(Failed { fault, counts, again, was_seen, message, load: connection.load }))
                    }
                }
            }
            Way::Http2(seat, load) => {
                let is_tls = self.target(place).is_some_and(|target| target.tls.is_some());
                let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
                let Message { head, upload } = message;
                let mut exchange = StreamExchange::new(seat, self.connections.alarm(), upload, load);
                match Box::pin(exchange.answer(&head, scheme, (self.limit, self.until))).await {
                    Ok((parts, body)) => Ok(Reply::Http2(Box::new((parts, body, exchange)))),
                    Err(fault) => {
                        let (again, counts) = (exchange.again(fault, self.method), exchange.counts());
                        let was_seen = exchange.was_seen();
                        let StreamExchange { upload, load, .. } = exchange;
                        let message = Message { head, upload };
                        Err(Box::new(Failed { fault, counts, again, was_seen, message, load }))
                    }
                }
            }
        }
    }

    /// A way to the target that is chosen: one that is open, or a new one.
    async fn lease(&self, tries: &mut Tries<'a>, now: Instant) -> Result<(usize, Way), ForwardError> {
        let (place, load) = self.choose(tries, now)?;
        let target = self.target(place).ok_or(ForwardError::Unreachable)?;
        let pool = &self.connections.pool;
        if target.speaks != Speaks::Http1
            && let Some(seat) = pool.sessions().take(&target.key, now)
        {
            return Ok((place, Way::Http2(seat, Some(load))));
        }
        // Another target is asked on a new one: a pooled one could be dead as well.
        let pooled = (tries.retries == 0)
            .then(|| pool.take(target, self.upstream.keep_alive, self.is_repeatable(), now))
            .flatten();
        match pooled {
            Some(mut connection) => {
                connection.load = Some(load);
                Ok((place, Way::Http1(connection)))
            }
            None => Box::pin(self.open(place, Some(load), tries)).await,
        }
    }

    /// A new way to this target, or, where it takes no connection, to the next.
    async fn open(
        &self,
        mut place: usize,
        mut load: Option<InFlight>,
        tries: &mut Tries<'a>,
    ) -> Result<(usize, Way), ForwardError> {
        loop {
            let target = self.target(place).ok_or(ForwardError::Unreachable)?;
            let left = self.until.saturating_duration_since(clock::monotonic());
            if left.is_zero() {
                return Err(tries.failure.unwrap_or(ForwardError::TimedOut(Phase::Connect)));
            }
            let limit = self.upstream.connect_timeout.min(left);
            match self.reach(target, limit).await {
                Ok(Way::Http1(mut connection)) => {
                    connection.load = load;
                    return Ok((place, Way::Http1(connection)));
                }
                Ok(Way::Http2(seat, _)) => return Ok((place, Way::Http2(seat, load))),
                Err((error, left)) => {
                    tries.failure = Some(error);
                    // Where the connection had less time left than it may take, nothing is known of the target.
                    let is_cut_short = left < self.upstream.connect_timeout;
                    if !(is_cut_short && matches!(error, ForwardError::TimedOut(_))) {
                        self.failed(place, tries);
                    }
                }
            }
            tries.passed.push(place);
            // What a target has seen goes to no other one but by the rules for that, which are asked once.
            if tries.was_seen && tries.retries == 0 && !tries.may_go_elsewhere(self.upstream) {
                return Err(tries.failure.unwrap_or(ForwardError::Unreachable));
            }
            let next = self.choose(tries, clock::monotonic())?;
            (place, load) = (next.0, Some(next.1));
        }
    }

    /// A new connection; of HTTP/2 also one that somebody else has just made.
    ///
    /// # Errors
    /// Why there is none, and how long the connection itself had: who waits for somebody else's learns nothing by that.
    async fn reach(&self, target: &Target, limit: Duration) -> Result<Way, (ForwardError, Duration)> {
        let pool = &self.connections.pool;
        if target.speaks == Speaks::Http1 {
            return pool.connect(target, limit).await.map(Way::Http1).map_err(|error| (error, limit));
        }
        let sessions = pool.sessions();
        let gate = sessions.gate(&target.key);
        let mut left = limit;
        let mut turn = gate.as_ref().and_then(|gate| gate.try_acquire().ok());
        if let Some(gate) = gate.as_ref().filter(|_| turn.is_none()) {
            let waited = timeout(limit, gate.acquire()).await;
            turn = waited.map_err(|_| (ForwardError::TimedOut(Phase::Connect), Duration::ZERO))?.ok();
            // Where the target has settled on HTTP/1 meanwhile, the others wait for nothing.
            turn = turn.filter(|_| sessions.gate(&target.key).is_some());
            // Now it is its own try, as long as any.
            left = self.upstream.connect_timeout.min(self.until.saturating_duration_since(clock::monotonic()));
        }
        let made = async {
            if let Some(seat) = sessions.take(&target.key, clock::monotonic()) {
                return Ok(Way::Http2(seat, None));
            }
            for _ in 0..=MOST_HERE {
                let connection = pool.connect(target, left).await?;
                if target.speaks == Speaks::Negotiated && !connection.stream.is_http2() {
                    sessions.made(&target.key, None);
                    return Ok(Way::Http1(connection));
                }
                if let Some(session) = Session::open(connection.stream).await? {
                    let seat = session.seat();
                    sessions.made(&target.key, Some(session));
                    return Ok(Way::Http2(seat, None));
                }
            }
            Err(ForwardError::Unreachable)
        };
        let made = timeout(left, made).await.unwrap_or(Err(ForwardError::TimedOut(Phase::Connect)));
        drop(turn);
        made.map_err(|error| (error, left))
    }

    /// A new connection to the target whose old one ended.
    async fn here(
        &self,
        place: usize,
        (fault, load): (Fault, Option<InFlight>),
        tries: &mut Tries<'a>,
    ) -> Result<(usize, Way), ForwardError> {
        if tries.was_seen && !tries.has_share(self.upstream) {
            return Err(fault.into());
        }
        let opened = self.open(place, load, tries).await?;
        if tries.was_seen {
            self.retried(place);
        }
        Ok(opened)
    }

    /// A connection to another target than the one that failed, if there is one and it may be asked.
    async fn elsewhere(&self, place: usize, fault: Fault, tries: &mut Tries<'a>) -> Result<(usize, Way), ForwardError> {
        if !tries.may_go_elsewhere(self.upstream) {
            return Err(fault.into());
        }
        tries.passed.push(place);
        tries.failure = Some(fault.into());
        let leased = self.lease(tries, clock::monotonic()).await?;
        self.retried(place);
        Ok(leased)
    }

    /// Counts a request that failed at this target and goes out again.
    fn retried(&self, place: usize) {
        if let Some(target) = self.target(place) {
            target.health.retried();
        }
    }

    /// The target that is next, with this request counted there.
    fn choose(&self, tries: &mut Tries<'a>, now: Instant) -> Result<(usize, InFlight), ForwardError> {
        let mut is_full = false;
        loop {
            let place = self.upstream.balance.choose(&self.upstream.targets, (self.turn, self.key), &tries.passed, now);
            let Some((place, target)) = place.and_then(|place| Some((place, self.target(place)?))) else {
                let nobody = if is_full { ForwardError::Saturated } else { ForwardError::Unhealthy };
                return Err(tries.failure.unwrap_or(nobody));
            };
            let Some(load) = target.health.begin(self.upstream.max_requests, tries.has_body) else {
                is_full = true;
                tries.passed.push(place);
                continue;
            };
            if target.health.standing(now) == Standing::Trial {
                tries.trial = target.health.try_again(self.upstream.ejection, now).map(|trial| (place, trial));
                // Where somebody else tries it, it is passed over when it is looked at again.
                if tries.trial.is_none() {
                    continue;
                }
            }
            return Ok((place, load));
        }
    }

    fn answered(&self, place: usize, tries: &mut Tries<'_>) {
        tries.settle(place);
        if let Some(target) = self.target(place).filter(|target| target.health.answered()) {
            tracing::info!(
                upstream = &*self.upstream.name,
                target_address = &*target.address,
                "a target answers again"
            );
        }
    }

    /// Whether a fault is the target's, and not the client's or that of a short limit.
    fn is_targets(&self, fault: Fault, tries: &Tries<'_>) -> bool {
        match fault {
            Fault::Unanswered | Fault::Malformed => true,
            // A later try has what time the earlier ones have left.
            Fault::TimedOut => self.is_upstreams_limit && tries.passed.is_empty(),
            Fault::Upload(_) => false,
        }
    }

    fn failed(&self, place: usize, tries: &mut Tries<'_>) {
        tries.settle(place);
        let Some(target) = self.target(place) else { return };
        if let Some(time) = target.health.failed(self.upstream.ejection, clock::monotonic()) {
            tracing::warn!(
                upstream = &*self.upstream.name,
                target_address = &*target.address,
                seconds = time.as_secs(),
                "a target gives no usable answer: it is passed over"
            );
        }
    }

    /// Whether the request may go out twice: it has no body, and doing it twice is doing it once.
    pub(super) fn is_repeatable(&self) -> bool {
        self.way.0 == BodyFraming::Empty && is_idempotent(self.method)
    }

    fn target(&self, place: usize) -> Option<&'a Target> {
        self.upstream.targets.get(place)
    }
}
