//! A service that speaks HTTP/2, in the h2 crate's words.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// One request as it arrived, and how long its body was.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: usize,
    pub connection: usize,
    /// Whether its body came to no good end.
    pub is_broken: bool,
}

/// Answers requests until the test ends.
pub struct H2Service {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    refused: Arc<AtomicUsize>,
}

/// What a service does beside answering.
#[derive(Clone, Copy, Default)]
pub struct Ways {
    /// Most streams at one time on a connection.
    pub streams: Option<u32>,
    /// After so many requests a connection is told that it ends.
    pub requests: Option<usize>,
    /// Every so many requests are refused unseen.
    pub refuses: Option<usize>,
    /// So many connections at first are told that they end, together with the first that they are told.
    pub ends: usize,
    /// How long a connection waits until it is told how many streams it may have.
    pub silence: Option<Duration>,
}

impl H2Service {
    pub fn start(ways: Ways) -> Self {
        Self::start_with(ways, None)
    }

    /// Over TLS, with the certificate and key of this name, settling on HTTP/2 or not.
    pub fn start_tls(ways: Ways, folder: &Path, name: &str, protocols: &[&[u8]]) -> Self {
        let read = |ending: &str| std::fs::read(folder.join(format!("{name}.{ending}"))).expect("a file");
        let certificate = CertificateDer::from_pem_slice(&read("crt")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(&read("key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate], key).expect("a certificate");
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self::start_with(ways, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(ways: Ways, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (seen, refused): (Arc<Mutex<Vec<Seen>>>, Arc<AtomicUsize>) = Default::default();
        let service = Self { address, seen: Arc::clone(&seen), refused: Arc::clone(&refused) };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let (mut number, count) = (0, Arc::new(AtomicUsize::new(0)));
                loop {
                    let (socket, _) = listener.accept().await.expect("a connection");
                    let (seen, refused, count) = (Arc::clone(&seen), Arc::clone(&refused), Arc::clone(&count));
                    let tls = tls.clone();
                    tokio::spawn(async move {
                        let place = (number, seen, refused, count);
                        match tls {
                            None => converse(socket, ways, place).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(socket).await {
                                    converse(stream, ways, place).await;
                                }
                            }
                        }
                    });
                    number += 1;
                }
            });
        });
        service
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the record").clone()
    }

    /// Requests that were refused unseen.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

type Place = (usize, Arc<Mutex<Vec<Seen>>>, Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn converse(mut io: impl AsyncRead + AsyncWrite + Unpin, ways: Ways, place: Place) {
    let (connection, seen, refused, count) = place;
    if connection < ways.ends {
        // SETTINGS, and GOAWAY with the last stream that there could be.
        let told = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
        let _gone = io.write_all(told).await;
        let _gone = io.read_to_end(&mut Vec::new()).await;
        return;
    }
    let mut builder = Builder::new();
    if let Some(most) = ways.streams {
        builder.max_concurrent_streams(most);
    }
    if let Some(silence) = ways.silence {
        tokio::time::sleep(silence).await;
    }
    let Ok(mut conversation) = builder.handshake::<_, Bytes>(io).await else { return };
    let mut here = 0;
    while let Some(Ok((request, mut respond))) = conversation.accept().await {
        here += 1;
        if ways.refuses.is_some_and(|every| (count.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(every)) {
            refused.fetch_add(1, Ordering::SeqCst);
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        if ways.requests == Some(here) {
            conversation.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, connection, Arc::clone(&seen)));
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    record: Arc<Mutex<Vec<Seen>>>,
) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut length = 0;
    let mut early = None;
    let response = || {
        let answer = Response::builder().status(200).header("x-service", "h2");
        let answer = if path.contains("/told") { answer.header("content-length", "5") } else { answer };
        let answer = if path.contains("/length") { answer.header("content-length", "100000") } else { answer };
        answer.body(()).expect("an answer")
    };
    if path.contains("/early") {
        early = respond.send_response(response(), false).ok();
    }
    let mut first = None;
    if path.contains("/first") {
        // All of its answer, before it has read anything.
        let is_empty = path.contains("/empty");
        let mut sending = respond.send_response(response(), is_empty).expect("an answer");
        let is_told = path.contains("/told");
        if !is_empty {
            sending.send_data(Bytes::from_static(b"first"), !is_told).expect("an answer");
        }
        if is_told {
            // Its end comes with that of the body.
            first = Some(sending);
        }
        if path.contains("/enough") {
            // Whoever lets go of a body that has not ended says `NO_ERROR`, once its answer is out.
            return;
        }
    }
    let mut is_broken = false;
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else {
            is_broken = true;
            break;
        };
        length += piece.len();
        let _gone = body.flow_control().release_capacity(piece.len());
        if let Some(sending) = &mut early {
            // What came is sent back at once.
            let _gone = sending.send_data(piece, false);
        }
    }
    record.lock().expect("the record").push(Seen {
        method: head.method.to_string(),
        uri: head.uri.to_string(),
        headers: head.headers,
        body: length,
        connection,
        is_broken,
    });
    if is_broken || path.contains("/first") {
        drop(first.filter(|_| !is_broken).map(|mut sending| sending.send_data(Bytes::new(), true)));
        return;
    }
    if path.contains("/silent") {
        return std::future::pending().await;
    }
    if path.contains("/slow") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if path.contains("/reset") {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let mut sending = match early {
        Some(sending) => sending,
        None => respond.send_response(response(), false).expect("an answer"),
    };
    if path.contains("/breaks") {
        let _gone = sending.send_data(Bytes::from_static(b"half"), false);
        tokio::time::sleep(Duration::from_millis(50)).await;
        return sending.send_reset(Reason::INTERNAL_ERROR);
    }
    let size = if path.contains("/large") {
        2_000_000
    } else if path.contains("/length") {
        100_000
    } else {
        2
    };
    if early_is_none(&path) {
        let mut left = Bytes::from(vec![b'x'; size]);
        while !left.is_empty() {
            sending.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
            let Some(Ok(room)) = room else { return };
            let piece = left.split_to(room.min(left.len()));
            if sending.send_data(piece, false).is_err() {
                return;
            }
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "7".parse().expect("a value"));
    trailers.insert("connection-trailer", "kept".parse().expect("a value"));
    trailers.insert("content-length", "5".parse().expect("a value"));
    let _gone = sending.send_trailers(trailers);
}

fn early_is_none(path: &str) -> bool {
    !path.contains("/early")
}
