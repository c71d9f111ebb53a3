//! ★ The life of a request.
//!
//! `serve` is the only place where order is decided; around it `handle` reads the clocks once,
//! renders, and has what happened recorded.

pub mod judge;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::accept::{Busy, Limits, Peer};
use crate::admit::Routes;
use crate::authenticate::Authenticator;
use crate::authorize::{self, Permit};
use crate::certificate::ClientCertificate;
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::forward::answer::keep_map;
use crate::forward::body::Answer;
use crate::forward::leash::Leashes;
use crate::forward::trace::{self, RequestId};
use crate::forward::{Connections, Exchanged, Forwarder};
use crate::issue::{Asked, Desk};
use crate::observe::exchange::{Exchange, Recorded};
use crate::observe::metrics::OwnCounters;
use crate::refusal::Refusal;
use crate::respond::{Responder, cors, grpc};
use crate::route::{Destination, Route};
use crate::store::Asker;

/// One immutable compiled configuration: a snapshot of all that a request needs.
#[derive(Debug)]
pub struct Gateway {
    /// Which requests are taken.
    pub routes: Routes,
    /// Who calls.
    pub authenticator: Authenticator,
    /// Where requests go.
    pub forwarder: Forwarder,
    /// What is issued here.
    pub desk: Desk,
    /// How refusals look.
    pub responder: Responder,
    /// Whose forwarding fields are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
}

/// What one worker owns.
pub struct Worker {
    /// What requests that begin now see.
    live: RefCell<Rc<LiveGateway>>,
    /// What answers that last began with, before it was replaced.
    past: RefCell<Vec<Rc<LiveGateway>>>,
    /// Connections to the upstreams.
    pub connections: Connections,
}

/// A snapshot at work in one worker. A request sees one from its first line to its last.
pub struct LiveGateway {
    /// Which it is: each that takes the place of another has the next number.
    pub number: u64,
    /// The snapshot.
    pub gateway: Arc<Gateway>,
    /// The worker's way to ask the snapshot's store; another snapshot with the same store has it too.
    pub store: Rc<Asker>,
    /// What happened here; other threads only read it.
    pub counters: OwnCounters,
    /// How much and how long, for connections.
    pub limits: Limits,
    /// Answers that it permitted and that last.
    pub leashes: Leashes,
}

impl Worker {
    /// A worker that serves by `live`.
    #[must_use]
    pub fn new(live: LiveGateway) -> Self {
        Self { live: RefCell::new(Rc::new(live)), past: RefCell::default(), connections: Connections::default() }
    }

    /// What a request that begins now sees.
    #[must_use]
    pub fn live(&self) -> Rc<LiveGateway> {
        Rc::clone(&self.live.borrow())
    }

    /// Serves by `next` from now on; what has begun goes on as it began.
    pub fn replace(&self, next: LiveGateway) {
        let before = self.live.replace(Rc::new(next));
        self.past.borrow_mut().push(before);
    }

    /// All that requests and answers see, the present first; those of the past as long as anything does.
    fn all(&self) -> Vec<Rc<LiveGateway>> {
        let mut past = self.past.borrow_mut();
        past.retain(|live| Rc::strong_count(live) > 1 || !live.leashes.is_empty());
        std::iter::once(self.live()).chain(past.iter().cloned()).collect()
    }
}

impl Gateway {
    /// The life of a request: four questions, each answered by one module.
    ///
    /// 1. Is it well formed, and which route is it?   -> 400, 404, 405, 413, 414, 431
    ///    Does its address ask too often?             -> 429
    ///    Where it is only a browser's question, it is answered. -> 204, 403
    /// 2. Who is calling?                             -> 400, 401, 503
    /// 3. May they? Do they too often?                -> 403, 429
    /// 4. What does the upstream say?                 -> 502, 504
    ///    Where it says that somebody has logged in, that becomes credentials; some paths lead to those themselves.
    async fn serve<'g>(&'g self, arrived: Arrived<'_>, seen: &mut Exchange, on: &mut Option<&'g Route>) -> Served {
        let admitted = self.routes.admit(arrived.request.head)?;
        seen.routed(admitted.route);
        if admitted.is_preflight {
            return Ok(cors::preflight(admitted.route, &arrived.request.head.headers)?);
        }
        *on = Some(admitted.route);
        arrived.limit_address(admitted.route).await?;
        let caller = self.authenticator.identify(&admitted, arrived.shown(), arrived.now, arrived.store).await?;
        seen.identified(&caller);
        let permit = arrived.limit_caller(authorize::decide(admitted, caller)?).await?;
        if permit.is_of_issue() {
            return Box::pin(self.issue(permit, arrived, seen)).await;
        }
        Ok(self.forwarder.forward(permit, arrived.request, arrived.connections).await?)
    }

    /// What is issued here: the fourth question, where it is ours to answer.
    async fn issue(&self, permit: Permit<'_>, arrived: Arrived<'_>, seen: &mut Exchange) -> Served {
        let route = permit.admitted().route;
        let Arrived { request, now, store, connections, .. } = arrived;
        let head = request.head;
        let issued = match (&route.leads_to, &route.on_success) {
            (Destination::Upstreams(_), None) => {
                return Ok(self.forwarder.forward(permit, request, connections).await?);
            }
            (Destination::Upstreams(_), Some(on_success)) => {
                self.desk.check_page(on_success, head)?;
                let answer = self.forwarder.forward(permit, request, connections).await?;
                let asked = (now, store, &self.authenticator);
                self.desk.login((route, on_success), head, answer, asked).await?
            }
            (Destination::Endpoint(endpoint), _) => {
                let (upload, authenticator) = (connections.upload(route, request), (&self.authenticator, now.unix));
                let asked = Asked { head, upload, store, authenticator };
                self.desk.serve(*endpoint, &permit, asked).await?
            }
        };
        seen.of_subject(issued.subject);
        Ok(issued.answer)
    }

    /// Serves one request; what ends a login or turns it on is done to its end, though its client leaves meanwhile.
    pub async fn answer(
        live: Rc<LiveGateway>,
        worker: &Rc<Worker>,
        peer: Rc<Peer>,
        busy: Busy,
        request: Request<Incoming>,
    ) -> Response<Recorded> {
        if !live.gateway.routes.is_done_to_its_end(request.uri().path()) {
            return Self::handle(&live, &worker.connections, &peer, busy, request).await;
        }
        let worker = Rc::clone(worker);
        let answered =
            tokio::task::spawn_local(
                async move { Self::handle(&live, &worker.connections, &peer, busy, request).await },
            );
        match answered.await {
            Ok(answer) => answer,
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The worker itself ends.
                Err(_ended) => std::future::pending().await,
            },
        }
    }

    /// Serves one request and records what happened.
    async fn handle(
        live: &LiveGateway,
        connections: &Connections,
        peer: &Peer,
        busy: Busy,
        request: Request<Incoming>,
    ) -> Response<Recorded> {
        let gateway = &*live.gateway;
        let now = clock::now();
        let started = now.monotonic;
        let request_id = Self::request_id(peer, &request);
        let client = peer.client(request.headers(), &gateway.trusted_proxies);
        let mut seen = Exchange::begin(&request, peer.text_of(client), &request_id, now, &live.counters);
        let is_grpc = grpc::is_spoken(&request);
        let (head, body) = request.into_parts();
        let request = Exchanged {
            head: &head,
            body,
            peer,
            request_id: &request_id,
            started,
            unix: now.unix,
            busy,
            leashes: &live.leashes,
        };
        let arrived = Arrived { request, now, store: &live.store, connections, client };
        let mut on = None;
        let outcome = gateway.serve(arrived, &mut seen, &mut on).await;
        seen.ended(outcome.as_ref().err());
        let told = outcome.as_ref().err().filter(|_| is_grpc).map(grpc::Told::of);
        let mut answer = gateway.responder.render(outcome, &request_id);
        let status = answer.status();
        if let Some(told) = told {
            told.dress(&mut answer);
        }
        if status == StatusCode::UNAUTHORIZED && on.is_some_and(|route| route.leads_to.is_logout()) {
            gateway.desk.take_cookies_away(&head.headers, answer.headers_mut());
        }
        if let Some(cors) = on.and_then(|route| route.cors.as_deref()) {
            cors::dress(cors, cors::origin(&head.headers).as_ref(), answer.headers_mut());
        }
        keep_map(head.headers);
        seen.answered(answer, status)
    }

    /// Asks again for answers that last; what is not permitted any more is cut. Called a few times a
    /// second.
    pub fn look(worker: &Worker) {
        let now = clock::now();
        for live in worker.all() {
            for held in live.leashes.lasting(now.monotonic) {
                let live = Rc::clone(&live);
                tokio::task::spawn_local(async move {
                    match live.gateway.authenticator.still_holds(&held.caller, held.policy, now, &live.store).await {
                        Ok(()) => held.holds(),
                        Err(Denial::StandingUnknown) => held.doubt(),
                        Err(_) => held.cut(),
                    }
                });
            }
        }
    }

    fn request_id(peer: &Peer, request: &Request<Incoming>) -> RequestId {
        let given = peer.is_trusted.then(|| trace::given_id(request.headers())).flatten();
        given.unwrap_or_else(trace::new_id)
    }
}

/// The upstream's answer, or why there is none.
type Served = Result<Response<Answer>, Refusal>;

/// A request with what it needs beside the snapshot.
struct Arrived<'r> {
    request: Exchanged<'r>,
    now: Moment,
    store: &'r Asker,
    connections: &'r Connections,
    client: IpAddr,
}

impl<'r> Arrived<'r> {
    /// What it shows of who calls.
    fn shown(&self) -> (&'r Parts, Option<&'r ClientCertificate>) {
        (self.request.head, self.request.peer.certificate.as_deref())
    }

    /// Whether its address may ask now, where that is limited.
    async fn limit_address(&self, route: &Route) -> Result<(), Denial> {
        match &route.rate_limit {
            // Boxed, here and below: what few requests need is no room that each of them takes.
            Some(limit) => Box::pin(limit.check_address(self.client, self.now, self.store)).await,
            None => Ok(()),
        }
    }

    /// Whether its caller may.
    async fn limit_caller<'g>(&self, permit: Permit<'g>) -> Result<Permit<'g>, Denial> {
        if let Some(limit) = &permit.admitted().route.rate_limit {
            Box::pin(limit.check_caller(permit.caller(), self.now, self.store)).await?;
        }
        Ok(permit)
    }
}
