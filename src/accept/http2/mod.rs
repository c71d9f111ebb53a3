//! A conversation in HTTP/2: requests beside each other, each a stream.
//!
//! 1. The parser is hyper's: framing, header compression, flow control and the states of streams
//!    (RFC 9113). Its limits are set here: sizes of header blocks, streams at one time, windows.
//! 2. What it takes is metered (`meter`), so that frames which bring nothing end.
//! 3. A request is told in the words of HTTP/1 (`request`), so that there is one way to judge it.
//! 4. A stream whose answer the client does not take ends alone (`stream`).
//! 5. A stream may become a WebSocket (`tunnel`); the others go on.
//! 6. The end is told before it comes (GOAWAY), so that a client knows which requests it can repeat.

pub mod meter;
mod reader;
mod request;
mod stream;
mod tunnel;

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::rc::Rc;

use bytes::BytesMut;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::spawn_local;

use self::meter::Credit;
pub(super) use self::meter::PREFACE;
use self::reader::Metered;
use self::stream::{Flow, Sending, Streams};
use self::tunnel::Change;
use super::busy::Busy;
use super::connection::{Client, refused};
use super::phase::{Order, Phase, State};
use super::watched::Watched;
use crate::clock;
use crate::gateway::{Gateway, Worker};
use crate::observe::metrics::HeadFault;
use crate::stream::Stream;

/// Streams at one time; what RFC 9113 §6.5.2 recommends at the least.
const STREAMS: u32 = 100;
/// How much of one body is taken before the upstream has taken it, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all bodies of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How much of an answer is taken before the client has, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Most requests that are taken back before they have been seen, and most mistakes that end one stream
/// each; then the connection ends (CVE-2023-44487, CVE-2025-8671).
const MISTAKES: usize = 100;
/// The largest header list: more fields than it has room for would end the parser (row 83).
const MAX_HEAD: usize = 512 * 1024;

/// What the requests of one connection share.
struct Conversation {
    client: Rc<Client>,
    worker: Rc<Worker>,
    state: Rc<State>,
    credit: Rc<Credit>,
    streams: Streams,
    /// Becomes `true` when the connection is told to finish.
    finishing: watch::Receiver<bool>,
}

/// Serves requests until the connection ends.
pub(super) async fn serve(stream: Stream, early: BytesMut, client: Rc<Client>, worker: Rc<Worker>, state: Rc<State>) {
    state.can_park.set(false);
    let credit = Rc::new(Credit::new(clock::monotonic()));
    let io = Watched::new(stream, Rc::clone(&state), Metered::new(Rc::clone(&credit), early));
    let streams = Streams::default();
    let head = worker.live().limits.head.min(MAX_HEAD);
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(MISTAKES)
        .max_local_error_reset_streams(MISTAKES);
    let (finish, finishing) = watch::channel(false);
    let conversation = {
        let (client, worker, state) = (Rc::clone(&client), Rc::clone(&worker), Rc::clone(&state));
        Conversation { client, worker, state, credit, streams, finishing }
    };
    let service = service_fn(move |request| conversation.answer(request));
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let order = loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                match ended {
                    Err(error) => told(&error, &client, &worker, &state),
                    // The library gives a connection up without a word for a CONNECT with a length, and all that is under
                    // way on it.
                    Ok(()) if !state.has_left.get() && state.under_way.get() > 0 => {
                        refused(HeadFault::Malformed, "the parser gave up its connection for it", &client, &worker);
                    }
                    Ok(()) => {}
                }
                return;
            }
            () = state.woken.rung() => match state.due() {
                None => {}
                // Nothing has begun, so there is nothing to be told.
                Some(Order::Finish) if state.phase.get() == Phase::Head => return,
                Some(Order::Finish) => {
                    // A client that does not take one answer ends no WebSocket beside it.
                    if state.is_ending() {
                        finish.send_replace(true);
                    }
                    connection.as_mut().graceful_shutdown();
                }
                Some(order) => break order,
            }
        }
    };
    match order {
        Order::TimeOut => refused(HeadFault::TooSlow, "it took too long", &client, &worker),
        Order::GoOn | Order::Park | Order::Finish | Order::Abort => {
            tracing::info!(client = %client.address, "a client does not read: its connection is closed");
        }
    }
}

impl Conversation {
    /// Answers one request; what it keeps busy begins at once.
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Sending>, Infallible>> + use<> {
        let busy = Busy::begin(&self.state);
        let live = self.worker.live();
        let alarm = self.worker.connections.alarm();
        let flow = Rc::new(Flow::new(&self.state, &self.credit, alarm, live.limits.send_timeout));
        self.streams.announce(Rc::clone(&flow), busy.clone());
        let peer = self.client.peer(&live);
        let worker = Rc::clone(&self.worker);
        let may_change = (*request.method() == Method::CONNECT).then(|| Change {
            upgrade: hyper::upgrade::on(&mut request),
            busy: busy.clone(),
            credit: Rc::clone(&self.credit),
            finishing: self.finishing.clone(),
        });
        async move {
            let request = request::in_words_of_http1(request);
            let mut answer = Gateway::answer(live, &worker, peer, busy, request).await;
            let changed = may_change.and_then(|change| Some((change, answer.body_mut().tunnel()?)));
            Ok(answer.map(|body| match changed {
                None => flow.send(body),
                Some((change, tunnel)) => {
                    spawn_local(change.go_on(tunnel, body));
                    flow.change()
                }
            }))
        }
    }
}

/// Records how a connection ended that did not end well.
fn told(error: &hyper::Error, client: &Client, worker: &Worker, state: &State) {
    if state.is_flooded.get() {
        return refused(HeadFault::Flood, "frames that bring nothing", client, worker);
    }
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    if let Some(cause) = cause.filter(|cause| cause.is_library()) {
        let reason = cause.reason().map_or_else(|| "broken frames".to_owned(), |reason| reason.to_string());
        // More small pieces of bodies than it keeps for who does not take them yet, and the like.
        let is_flood = cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        refused(if is_flood { HeadFault::Flood } else { HeadFault::Malformed }, &reason, client, worker);
    }
}
