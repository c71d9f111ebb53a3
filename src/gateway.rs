//! ★ The life of a request.
//!
//! `serve` is the only place where order is decided; around it `handle` reads the clocks once,
//! renders, and has what happened recorded.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::accept::{Busy, Peer};
use crate::admit::Routes;
use crate::authenticate::Authenticator;
use crate::authorize;
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::forward::body::Answer;
use crate::forward::{Connections, Exchanged, Forwarder, trace};
use crate::observe::exchange::{Exchange, Recorded};
use crate::observe::metrics::Counters;
use crate::respond::{Refusal, Responder};
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
    /// How refusals look.
    pub responder: Responder,
    /// Whose forwarding fields are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
}

/// What one worker owns: its connections to the upstreams and its counters.
pub struct Worker {
    /// The snapshot that this worker's requests see.
    pub gateway: Arc<Gateway>,
    /// Its way to ask the store.
    pub store: Asker,
    /// Connections to the upstreams.
    pub connections: Connections,
    /// What happened here; other threads only read it.
    pub counters: Arc<Counters>,
}

impl Gateway {
    /// The life of a request: four questions, each answered by one module.
    ///
    /// 1. Is it well formed, and which route is it?   -> 400, 404, 405, 413, 414, 431
    /// 2. Who is calling?                             -> 400, 401, 503
    /// 3. May they?                                   -> 403
    /// 4. What does the upstream say?                 -> 502, 504
    async fn serve(&self, arrived: Arrived<'_>, seen: &mut Exchange) -> Result<Response<Answer>, Refusal> {
        let admitted = self.routes.admit(&arrived.request.head)?;
        seen.routed(admitted.route);
        let caller = self.authenticator.identify(&admitted, &arrived.request.head, arrived.now, arrived.store).await?;
        seen.identified(&caller);
        let permit = authorize::decide(admitted, caller)?;
        Ok(self.forwarder.forward(permit, arrived.request, arrived.connections).await?)
    }

    /// Serves one request and records what happened.
    pub async fn handle(worker: &Worker, peer: &Peer, busy: Busy, request: Request<Incoming>) -> Response<Recorded> {
        let gateway = &*worker.gateway;
        let now = clock::now();
        let started = now.monotonic;
        let request_id = Self::request_id(peer, &request);
        let client = peer.client(request.headers(), &gateway.trusted_proxies);
        let mut seen = Exchange::begin(&request, client, &request_id, started, &worker.counters);
        let (head, body) = request.into_parts();
        let request = Exchanged { head, body, peer, request_id: &request_id, started, busy };
        let arrived = Arrived { request, now, store: &worker.store, connections: &worker.connections };
        let outcome = gateway.serve(arrived, &mut seen).await;
        seen.ended(outcome.as_ref().err());
        seen.answered(gateway.responder.render(outcome, &request_id))
    }

    /// Asks again for answers that last; what is not permitted any more is cut. Called a few times a
    /// second.
    pub fn look(worker: &Rc<Worker>) {
        let now = clock::now();
        for held in worker.connections.leashes().lasting(now.monotonic) {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                match Authenticator::still_holds(&held.caller, held.policy, now, &worker.store).await {
                    Ok(()) => held.holds(),
                    Err(Denial::StandingUnknown) => held.doubt(),
                    Err(_) => held.cut(),
                }
            });
        }
    }

    fn request_id(peer: &Peer, request: &Request<Incoming>) -> HeaderValue {
        let given = peer.is_trusted.then(|| trace::given_id(request.headers())).flatten();
        given.unwrap_or_else(trace::new_id)
    }
}

/// A request with what it needs beside the snapshot.
struct Arrived<'r> {
    request: Exchanged<'r>,
    now: Moment,
    store: &'r Asker,
    connections: &'r Connections,
}
