//! A service behind the gateway that records the bytes that it got.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
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

    /// Answers as the script does; it says whether the connection goes on.
    pub fn scripted(script: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let upstream = Self { address, seen: Arc::default(), connections: Arc::default() };
        let (seen, connections, script) =
            (Arc::clone(&upstream.seen), Arc::clone(&upstream.connections), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, number, &seen, &*script));
            }
        });
        upstream
    }

    pub fn seen(&self) -> Vec<Seen> {
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

fn serve(stream: TcpStream, connection: usize, record: &Mutex<Vec<Seen>>, script: &Script) {
    stream.set_nodelay(true).expect("no delay");
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    while let Some(mut seen) = read(&mut reader) {
        seen.connection = connection;
        record.lock().expect("the record").push(seen.clone());
        if !script(&seen, &mut writer) {
            drop(writer.shutdown(std::net::Shutdown::Both));
            return;
        }
    }
}

/// A strict reader: CRLF, one framing field, whole bodies.
fn read(reader: &mut impl BufRead) -> Option<Seen> {
    let mut seen = Seen::default();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        assert!(line.ends_with(b"\r\n"), "a line that does not end in CRLF: {}", line.escape_ascii());
        seen.head.push_str(&String::from_utf8_lossy(&line));
        if line == b"\r\n" {
            break;
        }
    }
    let fields = |name: &str| seen.values(name).len();
    assert!(fields("content-length") + fields("transfer-encoding") <= 1, "one framing field: {}", seen.head);
    if let Some(length) = seen.value("content-length").map(|text| text.parse::<usize>().expect("a length")) {
        seen.body.resize(length, 0);
        reader.read_exact(&mut seen.body).ok()?;
    } else if seen.value("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let start = seen.body.len();
            seen.body.resize(start + size, 0);
            reader.read_exact(&mut seen.body[start..]).ok()?;
            let mut end = String::new();
            reader.read_line(&mut end).ok()?;
            assert_eq!(end, "\r\n", "no trailers");
            if size == 0 {
                break;
            }
        }
    }
    Some(seen)
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
