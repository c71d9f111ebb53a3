//! A service behind the gateway that records the bytes that it got.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The head, to the empty line, as it was written.
    pub head: String,
    pub body: Vec<u8>,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

/// Answers requests until it is dropped.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What came that no service should get; no test passes with one of them.
    faults: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

type Script = dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync;

impl Upstream {
    /// Answers each request with the head that it saw.
    pub fn echo() -> Self {
        Self::scripted(|seen, stream| {
            let (head, connection) = (&seen.head, "x-service: echo");
            let answer = format!("HTTP/1.1 200 OK\r\n{connection}\r\ncontent-length: {}\r\n\r\n{head}", head.len());
            // A HEAD has no body to read.
            let answer = if seen.head.starts_with("HEAD") {
                answer.split_inclusive("\r\n\r\n").next().expect("a head")
            } else {
                &answer
            };
            stream.write_all(answer.as_bytes()).is_ok()
        })
    }

    /// Begins a long answer and goes on byte by byte, for as long as somebody takes them.
    pub fn trickles() -> Self {
        Self::scripted(|_, stream| {
            let mut goes_on = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").is_ok();
            while goes_on {
                goes_on = stream.write_all(b"x").is_ok();
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            false
        })
    }

    /// Answers as the script does; it says whether the connection goes on.
    pub fn scripted(script: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let upstream = Self { address, seen: Arc::default(), faults: Arc::default(), connections: Arc::default() };
        let (seen, faults) = (Arc::clone(&upstream.seen), Arc::clone(&upstream.faults));
        let (connections, script) = (Arc::clone(&upstream.connections), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (seen, faults, script) = (Arc::clone(&seen), Arc::clone(&faults), Arc::clone(&script));
                std::thread::spawn(move || {
                    let served = AssertUnwindSafe(|| serve(stream, number, &seen, &*script));
                    let outcome = catch_unwind(served).unwrap_or_else(|_| Err("the script panicked".to_owned()));
                    if let Err(fault) = outcome {
                        faults.lock().expect("the faults").push(fault);
                    }
                });
            }
        });
        upstream
    }

    #[track_caller]
    pub fn seen(&self) -> Vec<Seen> {
        assert_eq!(*self.faults.lock().expect("the faults"), Vec::<String>::new());
        self.seen.lock().expect("the record").clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }

    /// Forgets what it saw.
    pub fn clear(&self) {
        self.seen.lock().expect("the record").clear();
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(self.seen());
        }
    }
}

fn serve(stream: TcpStream, connection: usize, record: &Mutex<Vec<Seen>>, script: &Script) -> Result<(), String> {
    stream.set_nodelay(true).expect("no delay");
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    while let Some(mut seen) = read(&mut reader)? {
        seen.connection = connection;
        record.lock().expect("the record").push(seen.clone());
        if !script(&seen, &mut writer) {
            drop(writer.shutdown(std::net::Shutdown::Both));
            break;
        }
    }
    Ok(())
}

/// A strict reader: CRLF, one framing field, whole bodies. `None` is the end, also inside a request;
/// a fault is what cannot be read in one way only.
fn read(reader: &mut impl BufRead) -> Result<Option<Seen>, String> {
    let mut seen = Seen::default();
    loop {
        let mut line = Vec::new();
        if !reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            return Ok(None);
        }
        if !line.ends_with(b"\r\n") {
            // The end of the connection may have come inside a line.
            return if line.ends_with(b"\n") { Err(format!("a bare LF: {}", line.escape_ascii())) } else { Ok(None) };
        }
        seen.head.push_str(&String::from_utf8_lossy(&line));
        if line == b"\r\n" {
            break;
        }
    }
    let first: Vec<&str> = seen.line().split(' ').collect();
    if first.len() != 3 || !first[1].starts_with('/') || first[2] != "HTTP/1.1" {
        return Err(format!("no request line: {}", seen.head));
    }
    if seen.values("content-length").len() + seen.values("transfer-encoding").len() > 1 {
        return Err(format!("more than one framing field: {}", seen.head));
    }
    if let Some(text) = seen.value("content-length").map(str::to_owned) {
        let length = text.parse().map_err(|_| format!("a length: {}", seen.head))?;
        seen.body.resize(length, 0);
        return Ok(reader.read_exact(&mut seen.body).is_ok().then_some(seen));
    }
    match seen.value("transfer-encoding").map(str::to_owned).as_deref() {
        None => return Ok(Some(seen)),
        Some("chunked") => {}
        Some(_) => return Err(format!("a coding: {}", seen.head)),
    }
    loop {
        let mut line = String::new();
        if !reader.read_line(&mut line).is_ok_and(|_| line.ends_with('\n')) {
            return Ok(None);
        }
        let size = line.strip_suffix("\r\n").and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or_else(|| format!("a chunk: {line:?} of {}", seen.head))?;
        let start = seen.body.len();
        seen.body.resize(start + size + 2, 0);
        if reader.read_exact(&mut seen.body[start..]).is_err() {
            return Ok(None);
        }
        if seen.body.split_off(start + size) != b"\r\n" {
            return Err(format!("a chunk's end, or a trailer: {}", seen.head));
        }
        if size == 0 {
            return Ok(Some(seen));
        }
    }
}

impl Seen {
    /// The values of a field, by its exact spelling but for case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// An address where no connection is ever taken: its queue is full.
pub fn deaf() -> (Vec<socket2::Socket>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("a queue of one");
    let address = listener.local_addr().expect("an address");
    let waiting = (0..3).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        drop(socket.connect_timeout(&address, std::time::Duration::from_millis(200)));
        socket
    });
    let waiting: Vec<Socket> = waiting.collect();
    (waiting.into_iter().chain([listener]).collect(), address.as_socket().expect("an address"))
}
