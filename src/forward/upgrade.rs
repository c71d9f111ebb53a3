//! A connection changes its protocol, and its bytes go both ways as they come (RFC 9110 §7.8).
//!
//! 1. Only where the route names the protocol, the request asks for it alone, and has no body. In every
//!    other request `Upgrade` goes no further.
//! 2. Nothing of the client goes to the service before its 101, which has to name the protocol that was
//!    asked for; the service's connection is never used again.
//! 3. What permitted the request has to go on to hold: when its token ends, or is taken back, the client
//!    is told with a Close of 1008 (RFC 6455 §7.4) where a frame may stand, and both connections end.
//! 4. Silence in both directions ends it after `tunnel_timeout`, and sooner where the client has ended its half, or the service
//!    takes no more: what becomes of a stream of HTTP/2 after that, nobody is told. A gateway that drains, or a listener that
//!    is closed, says 1001: clients come back, to another one.
//! 5. Whoever reads slowly slows the other side down; what waits for them holds no buffer.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, HeaderMap, UPGRADE};
use http::request::Parts;
use http::{Method, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{AnswerCut, Hold};
use super::connection::Connection;
use super::extended;
use super::frames::Frames;
use super::headers::says;
use crate::clock;
use crate::route::Protocol;
use crate::stream::say;

/// What is read at once.
const READ: usize = 16 * 1024;
/// Longest silence of a service that hears nothing more.
const HALF: Duration = Duration::from_secs(5);
/// Close, of a server, with 1001 (going away) and with 1008 (policy violation); RFC 6455 §§ 5.5.1, 7.4.1.
const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];
const NOT_PERMITTED: &[u8] = &[0x88, 0x02, 0x03, 0xf0];

/// The protocol that a request asks for, where the route offers it.
#[must_use]
pub fn asked(head: &Parts, offered: &[Protocol], has_body: bool) -> Option<Protocol> {
    if offered.is_empty() || has_body || head.method != Method::GET {
        return None;
    }
    if head.version != Version::HTTP_11 && !extended::is_asked(head) {
        return None;
    }
    named(&head.headers).filter(|protocol| offered.contains(protocol))
}

/// The one protocol that a message changes to.
fn named(headers: &HeaderMap) -> Option<Protocol> {
    let is_named = headers.get_all(CONNECTION).iter().any(|field| says(field, "upgrade"));
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    Protocol::of(value.as_bytes()).filter(|_| is_named)
}

/// Two connections that speak another protocol to each other from now on.
pub struct Tunnel {
    service: Box<Connection>,
    hold: Hold,
    silence: Duration,
}

/// How much went through, and how it ended.
#[derive(Debug)]
pub struct Tunnelled {
    /// Bytes to the client.
    pub sent: u64,
    /// Why it was ended here; nothing where one of them ended it.
    pub cut: Option<AnswerCut>,
}

/// One direction.
struct Way {
    buffer: BytesMut,
    moved: u64,
    is_over: bool,
    is_shut: bool,
}

impl Way {
    fn new(before: &[u8]) -> Self {
        Self { buffer: BytesMut::from(before), moved: 0, is_over: false, is_shut: false }
    }

    /// Moves what can be moved; ready when the end was handed on, or nobody takes more.
    fn poll<F: AsyncRead + Unpin, T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut F, &mut T),
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.buffer.is_empty() {
                let Ok(written @ 1..) = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer)) else {
                    (self.is_over, self.is_shut) = (true, true);
                    self.buffer.clear();
                    break;
                };
                seen(self.buffer.get(..written).unwrap_or_default());
                self.buffer.advance(written);
                self.moved += written as u64;
            }
            self.buffer = BytesMut::new();
            if self.is_over {
                if !self.is_shut {
                    drop(ready!(Pin::new(&mut *to).poll_shutdown(cx)));
                    self.is_shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            // TLS holds records back; whether all are gone does not matter for what is read next.
            let _flushed = Pin::new(&mut *to).poll_flush(cx);
            let mut room = [const { MaybeUninit::uninit() }; READ];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            self.is_over = read.filled().is_empty();
            self.buffer.extend_from_slice(read.filled());
        }
    }
}

impl Tunnel {
    /// A tunnel to a service that has answered 101.
    #[must_use]
    pub const fn new(service: Box<Connection>, hold: Hold, silence: Duration) -> Self {
        Self { service, hold, silence }
    }

    /// Moves bytes until one side ends, what permitted it does not hold any more, nothing moves for too
    /// long, or `told` is ready. `early` is what the client sent before it heard of the 101.
    pub async fn run<C: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        client: &mut C,
        early: &[u8],
        told: impl Future<Output = ()>,
    ) -> Tunnelled {
        let service = &mut self.service;
        let mut up = Way::new(early);
        let mut down = Way::new(&std::mem::take(&mut service.buffer));
        let mut frames = Frames::default();
        let (mut moved, mut limit) = ((clock::monotonic(), 0), self.silence);
        let mut told = pin!(told);
        let ended = poll_fn(|cx| {
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(End::Told));
            }
            if let Poll::Ready(cut) = self.hold.poll(cx) {
                return Poll::Ready(Some(End::Cut(cut)));
            }
            let to_service = up.poll(cx, (&mut *client, &mut service.stream), |_| {});
            let to_client = down.poll(cx, (&mut service.stream, &mut *client), |bytes| frames.pass(bytes));
            match (to_service, to_client) {
                // A service that ends has nothing to answer to what may still come; one that takes no more may have said why.
                (_, Poll::Ready(_)) | (Poll::Ready(Err(_)), _) => return Poll::Ready(None),
                (Poll::Ready(Ok(())) | Poll::Pending, Poll::Pending) => {}
            }
            if up.is_over && limit > HALF {
                (moved.0, limit) = (clock::monotonic(), HALF);
                service.alarm.clear();
            }
            silent(service, cx, &mut moved, up.moved + down.moved, limit).map(|()| Some(End::Silent))
        })
        .await;
        let cut = match ended {
            None => None,
            Some(End::Told) => close(client, &frames, GOING_AWAY).await,
            Some(End::Silent) => close(client, &frames, GOING_AWAY).await.or(Some(AnswerCut::BrokeOff)),
            Some(End::Cut(AnswerCut::TakenBack)) => {
                close(client, &frames, NOT_PERMITTED).await.or(Some(AnswerCut::TakenBack))
            }
            Some(End::Cut(cut)) => close(client, &frames, GOING_AWAY).await.or(Some(cut)),
        };
        Tunnelled { sent: down.moved, cut }
    }
}

/// Why a tunnel is ended here.
enum End {
    Told,
    Cut(AnswerCut),
    Silent,
}

/// Ready when nothing has moved for `limit`.
fn silent(service: &Connection, cx: &Context<'_>, moved: &mut (Instant, u64), bytes: u64, limit: Duration) -> Poll<()> {
    if moved.1 != bytes {
        *moved = (clock::monotonic(), bytes);
    }
    let alarm = &service.alarm;
    if alarm.poll(cx).is_ready() {
        let until = moved.0 + limit;
        if until <= clock::monotonic() {
            return Poll::Ready(());
        }
        alarm.set(until);
    } else if !alarm.is_set() {
        alarm.set(moved.0 + limit);
    }
    alarm.poll(cx)
}

/// Says why, where a frame may stand.
async fn close<C: AsyncWrite + Unpin>(client: &mut C, frames: &Frames, why: &'static [u8]) -> Option<AnswerCut> {
    say(client, if frames.is_between() { why } else { b"" }).await;
    None
}
