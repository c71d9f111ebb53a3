//! The least that a gateway on these libraries can be: hyper towards clients, a socket and httparse towards the
//! upstream, one thread. Nothing is checked, limited, logged or counted, and no body but an announced one is understood.
//!
//! ```text
//! hyper PORT UPSTREAM
//! ```
//!
//! What a request costs here is what Bearward's tools take; what it costs more there is what Bearward does.

#![allow(clippy::expect_used, clippy::pedantic, reason = "a tool of the benchmark")]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Upstream {
    address: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let &[port, upstream] = ports.as_slice() else { return eprintln!("usage: hyper PORT UPSTREAM") };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let upstream = Rc::new(Upstream { address: at(upstream), idle: RefCell::default() });
    tokio::task::LocalSet::new().block_on(&runtime, accept(at(port), upstream));
}

async fn accept(address: SocketAddr, upstream: Rc<Upstream>) {
    let listener = TcpListener::bind(address).await.expect("the port");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        drop(client.set_nodelay(true));
        let upstream = Rc::clone(&upstream);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| exchange(request, &upstream));
            drop(http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(client), service).await);
        });
    }
}

async fn exchange(request: Request<Incoming>, upstream: &Upstream) -> io::Result<Response<Full<Bytes>>> {
    let idle = upstream.idle.borrow_mut().pop();
    let mut socket = match idle {
        Some(socket) => socket,
        None => {
            let socket = TcpStream::connect(upstream.address).await?;
            socket.set_nodelay(true)?;
            socket
        }
    };
    socket.write_all(&head(&request)).await?;
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(answer) = answer(&bytes)? {
            upstream.idle.borrow_mut().push(socket);
            return Ok(answer);
        }
    }
}

fn head(request: &Request<Incoming>) -> Vec<u8> {
    let mut head = Vec::with_capacity(2048);
    let target = request.uri().path();
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The answer, once all of it is there.
fn answer(bytes: &BytesMut) -> io::Result<Option<Response<Full<Bytes>>>> {
    let odd = |_| io::Error::from(io::ErrorKind::InvalidData);
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = parsed.parse(bytes).map_err(|_| odd(()))? else { return Ok(None) };
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| odd(()))?;
    let mut length = 0;
    for field in parsed.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| odd(()))?;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| odd(()))?;
        answer.headers_mut().append(name, HeaderValue::from_bytes(field.value).map_err(|_| odd(()))?);
    }
    let Some(body) = bytes.get(end..end + length) else { return Ok(None) };
    *answer.body_mut() = Full::new(Bytes::copy_from_slice(body));
    Ok(Some(answer))
}
