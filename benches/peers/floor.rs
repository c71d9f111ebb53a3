//! What a comparison needs beside the proxies: the cheapest upstream, and the cheapest relay.
//!
//! ```text
//! floor upstream PORT            answers keep-alive requests; /64k with 64 KiB, /1k with 1 KiB
//! floor relay PORT UPSTREAM      copies bytes: read, write, read, write; no HTTP at all
//! ```
//!
//! The relay is the floor for any proxy that uses these system calls: what a request costs in the
//! kernel, and nothing else. Both are one thread on epoll.

#![allow(clippy::expect_used, clippy::pedantic, clippy::indexing_slicing, reason = "a tool of the benchmark")]

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);
const BODY: &str = r#"{"order":42,"items":[{"sku":"A-1","count":2}],"total":31900,"currency":"KRW","state":"paid"}"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = |at: usize| arguments.get(at).and_then(|text| text.parse::<u16>().ok()).expect("a port");
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    match arguments.first().map(String::as_str) {
        Some("upstream") => upstream(at(port(1))),
        Some("relay") => relay(at(port(1)), at(port(2))),
        _ => eprintln!("usage: floor upstream PORT | floor relay PORT UPSTREAM"),
    }
}

/// Reads what there is, at most one buffer; `None` is the end of the connection.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    match stream.read(buffer) {
        Ok(0) => None,
        Ok(read) => Some(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

/// Writes until all is out. Answers here fit into a socket's buffer, or the reader is quick.
fn write(stream: &mut TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => return false,
        }
    }
    true
}

struct Client {
    stream: TcpStream,
    /// A head that has not come to its end.
    head: Vec<u8>,
    /// Bytes of a body that are still to be passed over.
    body: usize,
    answer: usize,
}

fn answers() -> Vec<Vec<u8>> {
    let bodies = [BODY.to_owned(), "x".repeat(1024), "x".repeat(64 * 1024)];
    let head = "HTTP/1.1 200 OK\r\nserver: floor\r\ncontent-type: application/json";
    bodies.map(|body| format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()).into()
}

fn upstream(address: SocketAddr) {
    let answers = answers();
    serve(
        address,
        |poll, token, mut stream| {
            poll.registry().register(&mut stream, token, Interest::READABLE).expect("a place in epoll");
            Client { stream, head: Vec::new(), body: 0, answer: 0 }
        },
        |client, _, buffer| loop {
            let Some(read) = read(&mut client.stream, buffer) else { return false };
            if read == 0 {
                return true;
            }
            if !take(client, &buffer[..read], &answers) {
                return false;
            }
            if read < buffer.len() {
                return true;
            }
        },
    );
}

/// Answers each request that ends in these bytes.
fn take(client: &mut Client, mut bytes: &[u8], answers: &[Vec<u8>]) -> bool {
    while !bytes.is_empty() {
        if client.body > 0 {
            let here = client.body.min(bytes.len());
            (client.body, bytes) = (client.body - here, &bytes[here..]);
            if client.body == 0 && !write(&mut client.stream, &answers[client.answer]) {
                return false;
            }
            continue;
        }
        client.head.extend_from_slice(bytes);
        let Some(end) = client.head.windows(4).position(|four| four == b"\r\n\r\n") else { return true };
        let rest = client.head.split_off(end + 4);
        client.answer = if find(&client.head, b"/64k") { 2 } else { usize::from(find(&client.head, b"/1k")) };
        client.body = length(&client.head);
        client.head.clear();
        if client.body == 0 && !write(&mut client.stream, &answers[client.answer]) {
            return false;
        }
        if rest.is_empty() {
            return true;
        }
        return take(client, &rest, answers);
    }
    true
}

fn find(head: &[u8], text: &[u8]) -> bool {
    head.iter().take_while(|&&byte| byte != b'\r').count() >= text.len()
        && head
            .split(|&byte| byte == b'\r')
            .next()
            .is_some_and(|line| line.windows(text.len()).any(|part| part == text))
}

fn length(head: &[u8]) -> usize {
    // Only uploads have one; looking for it in each head would cost more than the rest.
    if !head.starts_with(b"P") {
        return 0;
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let field = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    field.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}

struct Pair {
    ends: [TcpStream; 2],
}

fn relay(address: SocketAddr, target: SocketAddr) {
    serve(
        address,
        |poll, token, mut client| {
            let mut upstream = TcpStream::connect(target).expect("the upstream");
            drop(upstream.set_nodelay(true));
            poll.registry().register(&mut client, token, Interest::READABLE).expect("a place in epoll");
            let other = Token(token.0 + 1);
            poll.registry().register(&mut upstream, other, Interest::READABLE).expect("a place in epoll");
            Pair { ends: [client, upstream] }
        },
        |pair, side, buffer| loop {
            let [client, upstream] = &mut pair.ends;
            let (from, to) = if side == 0 { (client, upstream) } else { (upstream, client) };
            let Some(read) = read(from, buffer) else { return false };
            if read > 0 && !write(to, &buffer[..read]) {
                return false;
            }
            if read < buffer.len() {
                return true;
            }
        },
    );
}

/// Accepts connections, two tokens each, and hands over what is readable with its side.
fn serve<C>(
    address: SocketAddr,
    mut accept: impl FnMut(&Poll, Token, TcpStream) -> C,
    mut readable: impl FnMut(&mut C, usize, &mut [u8]) -> bool,
) {
    let mut listener = TcpListener::bind(address).expect("the port");
    let mut poll = Poll::new().expect("epoll");
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("a place in epoll");
    let (mut events, mut connections, mut next) = (Events::with_capacity(1024), HashMap::new(), 2);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    drop(stream.set_nodelay(true));
                    connections.insert(next, accept(&poll, Token(next), stream));
                    next += 2;
                }
                continue;
            }
            let number = event.token().0;
            let goes_on = connections.get_mut(&(number & !1)).is_none_or(|one| readable(one, number & 1, &mut buffer));
            if !goes_on {
                connections.remove(&(number & !1));
            }
        }
    }
}
