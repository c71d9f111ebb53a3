//! One request from its head to the end of its answer, for the log and the counters.
//!
//! The line is written when the answer's body has ended or was dropped, so that it says how much
//! was really sent. A request that was abandoned before an answer is logged as well.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use smallvec::SmallVec;

use super::line::field_name;
use super::log;
use super::metrics::OwnCounters;
use crate::authenticate::Caller;
use crate::clock::{self, Moment};
use crate::forward::body::{Answer, AnswerCut, Hold};
use crate::forward::trace::RequestId;
use crate::forward::upgrade::{Tunnel, Tunnelled};
use crate::refusal::Refusal;
use crate::respond::Body;
use crate::route::Route;

/// Longest path and user agent that are logged, in bytes.
const MAX_TEXT: usize = 512;

/// For so long the wall clock is not read again.
const MOMENT: Duration = Duration::from_secs(1);

/// The status that the log shows where the client left before there was an answer.
const CLIENT_CLOSED: u16 = 499;

/// What one access-log line says.
pub struct Exchange {
    counters: OwnCounters,
    started: Moment,
    request_id: RequestId,
    method: Method,
    /// The beginning of the path.
    path: SmallVec<[u8; 64]>,
    user_agent: Option<HeaderValue>,
    /// The client's address, as text.
    client: Rc<str>,
    /// The number of the route.
    route: Option<usize>,
    subject: Option<Arc<str>>,
    outcome: &'static str,
    missing: Option<Arc<str>>,
    status: u16,
    sent: u64,
    is_cut: bool,
}

impl Exchange {
    /// Begins with what the head says.
    pub fn begin<B>(
        request: &Request<B>,
        client: Rc<str>,
        request_id: &RequestId,
        started: Moment,
        counters: &OwnCounters,
    ) -> Box<Self> {
        // Boxed: it goes through many hands, with the answer, and is too large to be copied into each.
        Box::new(Self {
            counters: Rc::clone(counters),
            started,
            request_id: request_id.clone(),
            method: request.method().clone(),
            path: SmallVec::from_slice(clip(request.uri().path()).as_bytes()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            client,
            route: None,
            subject: None,
            outcome: "client_gone",
            missing: None,
            status: CLIENT_CLOSED,
            sent: 0,
            is_cut: false,
        })
    }

    /// Which route it was.
    pub fn routed(&mut self, route: &Route) {
        self.route = Some(route.number);
    }

    /// Who called.
    pub fn identified(&mut self, caller: &Caller) {
        if let Caller::Known(identity) = caller {
            self.subject = Some(Arc::clone(identity.subject()));
        }
    }

    /// Whose credentials it was about.
    pub fn of_subject(&mut self, subject: Option<Arc<str>>) {
        self.subject = subject.or(self.subject.take());
    }

    /// How it was decided.
    pub fn ended(&mut self, refusal: Option<&Refusal>) {
        self.outcome = refusal.map_or("ok", Refusal::label);
        if let Some(refusal) = refusal {
            self.counters.refused(refusal);
            if let Refusal::Denied(crate::denial::Denial::MissingClaim(name)) = refusal {
                self.missing = Some(Arc::clone(name));
            }
        }
    }

    fn cut_off(&mut self, cut: AnswerCut) {
        self.is_cut = true;
        match cut {
            AnswerCut::TakenBack => self.outcome = "taken_back",
            AnswerCut::TookTooLong => self.outcome = "answer_timeout",
            AnswerCut::BrokeOff | AnswerCut::UploadFailed => {}
        }
    }

    /// Watches the answer's body to its end; `status` is what it means, whatever its head has to say.
    pub fn answered(mut self: Box<Self>, response: Response<Body>, status: StatusCode) -> Response<Recorded> {
        self.status = status.as_u16();
        response.map(|body| Recorded { body, has_ended: false, exchange: self })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let duration = clock::monotonic().saturating_duration_since(self.started.monotonic);
        self.counters.answered(self.route, self.status, duration);
        // Of what took long the wall clock may have been set meanwhile.
        let at = if duration < MOMENT { self.started.wall + duration } else { clock::wall() };
        log::access(at, |line| {
            line.text(field_name!("method"), clip(self.method.as_str()));
            line.bytes(field_name!("path"), &self.path);
            line.number(field_name!("status"), self.status.into());
            line.text(field_name!("outcome"), self.outcome);
            line.text_if(field_name!("missing_claim"), self.missing.as_deref());
            line.text_if(field_name!("route"), self.route.and_then(|number| self.counters.id_of(number)));
            line.text_if(field_name!("subject"), self.subject.as_deref().map(clip));
            line.text(field_name!("client"), &self.client);
            line.number(field_name!("bytes"), self.sent);
            if self.is_cut {
                line.is_true(field_name!("cut"));
            }
            line.number(field_name!("duration_us"), u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
            line.bytes(field_name!("request_id"), self.request_id.as_bytes());
            let agent = self.user_agent.as_ref().and_then(|agent| agent.to_str().ok());
            line.text_if(field_name!("user_agent"), agent.map(clip));
        });
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // What is said here may be nobody's to send: there are answers without a body.
        let is_streamed = matches!(self.body, Body::Streamed(_));
        let is_through = http_body::Body::is_end_stream(self) || http_body::Body::size_hint(self).exact() == Some(0);
        if !is_streamed || self.has_ended || is_through {
            return;
        }
        // It was let go by who sends it: because it does not hold any more, or there is nobody to send it to.
        self.exchange.is_cut = true;
        if let Some(cut) = self.hold().and_then(|hold| hold.cut()) {
            self.exchange.cut_off(cut);
        }
    }
}

/// A body with the exchange that ends with it.
pub struct Recorded {
    body: Body,
    /// Whether it said so.
    has_ended: bool,
    exchange: Box<Exchange>,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = AnswerCut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerCut>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => this.exchange.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(Some(Err(cut))) => this.exchange.cut_off(*cut),
            Poll::Ready(None) => this.has_ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Recorded {
    /// What cuts the answer, whether or not the client takes what comes.
    #[must_use]
    pub fn hold(&self) -> Option<&Rc<Hold>> {
        match &self.body {
            Body::Streamed(answer) => answer.hold(),
            Body::Whole(_) => None,
        }
    }

    /// The tunnel that begins where the answer is a change of protocol.
    pub fn tunnel(&mut self) -> Option<Box<Tunnel>> {
        match std::mem::replace(&mut self.body, Body::Whole(Bytes::new())) {
            Body::Streamed(Answer::Tunnel(tunnel)) => Some(tunnel),
            other @ (Body::Whole(_) | Body::Streamed(_)) => {
                self.body = other;
                None
            }
        }
    }

    /// Records how a tunnel ended, and with it the exchange.
    pub fn tunnelled(mut self, tunnelled: &Tunnelled) {
        self.exchange.sent += tunnelled.sent;
        if let Some(cut) = tunnelled.cut {
            self.exchange.cut_off(cut);
        }
    }
}

/// The beginning of a text, cut between two characters.
fn clip(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
