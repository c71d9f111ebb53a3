//! How long a revocation takes from the store's OK to the first refusal, and whether one is ever late.
//!
//! ```text
//! cargo bench --bench revocation                      three gateways under load, 10,000 revocations
//! cargo bench --bench revocation -- --kill 100000     the same many, the tracking connections killed
//!                                                     at random every 2 s: nobody is let in late
//! cargo bench --bench revocation -- --file 1000000    how long a gateway with so many revocations in its
//!                                                     file takes to be ready after a kill -9
//! ```
//!
//! `--gateways N`, `--rate N` (requests a second of load on each), `--revocations N`. Needs
//! redis-server. A revocation is a plain `SET` of the name that the configuration gives to a token's
//! `jti`, as a service would write it; every token has been in use on every gateway before. On one
//! machine all of it shares the processors: what comes is an upper bound.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark says what is wrong by panicking"
)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

const MAX_STALENESS: Duration = Duration::from_secs(1);
const SECRET: &str = "a secret for the benchmark alone, long enough";
/// Tokens that are in use at a time: fewer than a gateway remembers.
const IN_USE: usize = 1_000;

struct Options {
    gateways: usize,
    rate: usize,
    revocations: usize,
    kill: bool,
    file: bool,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { gateways: 3, rate: 1_000, revocations: 10_000, kill: false, file: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| usage(&word));
            match word.as_str() {
                "--gateways" => options.gateways = number(),
                "--rate" => options.rate = number(),
                "--revocations" => options.revocations = number(),
                "--kill" => (options.kill, options.revocations) = (true, number()),
                "--file" => (options.file, options.revocations) = (true, number()),
                // What cargo adds.
                "--bench" => {}
                _ => drop::<usize>(usage(&word)),
            }
        }
        options
    }
}

fn usage<T>(word: &str) -> T {
    eprintln!("`{word}`: expected --gateways N, --rate N, --revocations N, --kill N or --file N");
    std::process::exit(2)
}

/// A process that ends with the benchmark.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Ends the threads that look at it, when it goes.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One connection that speaks HTTP/1.1 or RESP, one question at a time.
struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        line
    }

    fn ask(&mut self, token: &str) {
        let head = format!("GET /me HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).expect("it is open");
    }

    /// The status of the next answer.
    fn status(&mut self) -> u16 {
        let status = self.line().split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            let line = self.line();
            if line == "\r\n" {
                break;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length");
            }
        }
        std::io::copy(&mut (&mut self.reader).take(length), &mut std::io::sink()).expect("a body");
        status
    }

    /// One command to Redis; the answer as text.
    fn command(&mut self, words: &[&str]) -> String {
        let parts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let bytes = format!("*{}\r\n{parts}", words.len());
        self.stream.write_all(bytes.as_bytes()).expect("Redis takes it");
        let first = self.line();
        match first.strip_prefix('$').and_then(|text| text.trim().parse::<usize>().ok()) {
            None => first.trim().to_owned(),
            Some(length) => {
                let mut bulk = vec![0; length + 2];
                self.reader.read_exact(&mut bulk).expect("a value");
                String::from_utf8_lossy(&bulk).into_owned()
            }
        }
    }
}

/// Answers every head with the same few bytes, one thread for each connection.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    drop(stream.set_nodelay(true));
    let (mut seen, mut buffer) = (Vec::new(), [0; 8192]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        if !seen.ends_with(b"\r\n\r\n") {
            continue;
        }
        seen.clear();
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

fn tokens(count: usize) -> Vec<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs();
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let token = |number| {
        let claims = serde_json::json!({
            "iss": "bench", "aud": "api", "sub": format!("user-{number}"), "iat": now, "exp": now + 7200, "jti": format!("t{number}")
        });
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    };
    (0..count).map(token).collect()
}

fn yaml(port: u16, admin: u16, store: &str, upstream: SocketAddr) -> String {
    format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:{port}\" }}]\nadmin: {{ address: \"127.0.0.1:{admin}\" }}\n\
         store: {{ url: \"{store}\" }}\n\
         issuers: {{ bench: {{ issuer: bench, audiences: [api], algorithms: [HS256], secret_file: secret }} }}\n\
         revocation: {{ keys: {{ jti: \"blacklist:{{jti}}\", sub: \"logout:{{sub}}\" }} }}\n\
         upstreams: {{ echo: {{ targets: [\"http://{upstream}\"] }} }}\ndefaults: {{ auth: [bench] }}\n\
         routes: [{{ id: me, match: {{ path: /me }}, upstream: echo, access: authenticated }}]\n"
    )
}

struct Field {
    redis: SocketAddr,
    gateways: Vec<SocketAddr>,
    _running: Vec<Running>,
    _folder: tempfile::TempDir,
}

impl Field {
    fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let quiet = |command: &mut Command| {
            Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
        };
        let mut running = vec![quiet(Command::new("redis-server").args(["--port", &port.to_string(), "--save", ""]))];
        let redis = SocketAddr::from(([127, 0, 0, 1], port));
        until("redis answers", || TcpStream::connect(redis).is_ok());
        std::fs::write(folder.path().join("secret"), SECRET).expect("a secret");
        let upstream = upstream();
        let gateways = (0..count).map(|_| {
            let (port, admin) = (free_port(), free_port());
            let file = folder.path().join(format!("{port}.yaml"));
            std::fs::write(&file, yaml(port, admin, &format!("redis://{redis}"), upstream)).expect("a configuration");
            running.push(quiet(
                Command::new(env!("CARGO_BIN_EXE_bearward")).args(["run", "--workers", "1", "--config"]).arg(&file),
            ));
            SocketAddr::from(([127, 0, 0, 1], port))
        });
        let gateways: Vec<SocketAddr> = gateways.collect();
        let probe = &tokens(1)[0];
        for &gateway in &gateways {
            until("a gateway listens", || TcpStream::connect(gateway).is_ok());
            let mut connection = Connection::open(gateway);
            until("a gateway is ready", || {
                connection.ask(probe);
                connection.status() == 200
            });
        }
        Self { redis, gateways, _running: running, _folder: folder }
    }

    fn connections(&self) -> Vec<Connection> {
        self.gateways.iter().map(|&gateway| Connection::open(gateway)).collect()
    }

    /// What `SET` of a token's key answers with OK: from then on it is revoked.
    fn revoke(redis: &mut Connection, number: usize) -> Instant {
        assert_eq!(redis.command(&["SET", &format!("blacklist:t{number}"), "1", "EX", "7200"]), "+OK");
        Instant::now()
    }
}

/// Requests of another caller, at a steady rate, on one gateway.
fn load(gateway: SocketAddr, token: &str, rate: usize, stop: &AtomicBool, sent: &AtomicUsize) {
    let mut connection = Connection::open(gateway);
    let mut next = Instant::now();
    while rate > 0 && !stop.load(Ordering::Relaxed) {
        connection.ask(token);
        let status = connection.status();
        assert!(matches!(status, 200 | 503), "the load got {status}");
        sent.fetch_add(1, Ordering::Relaxed);
        next += Duration::from_secs(1) / u32::try_from(rate).expect("a rate");
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Revokes one token after the other and waits for its first refusal on every gateway.
fn latency(field: &Field, tokens: &[String]) -> Vec<Duration> {
    let (mut redis, mut connections) = (Connection::open(field.redis), field.connections());
    let mut took = Vec::new();
    for (start, tokens) in tokens.chunks(IN_USE).enumerate() {
        for connection in &mut connections {
            for token in tokens {
                connection.ask(token);
                assert_eq!(connection.status(), 200);
            }
        }
        for (number, token) in tokens.iter().enumerate() {
            let acknowledged = Field::revoke(&mut redis, start * IN_USE + number);
            connections.iter_mut().for_each(|connection| connection.ask(token));
            for connection in &mut connections {
                while connection.status() != 401 {
                    assert!(acknowledged.elapsed() < MAX_STALENESS, "a revocation was lost");
                    connection.ask(token);
                }
                took.push(acknowledged.elapsed());
            }
        }
    }
    took
}

/// Kills every connection that tracks, at random times.
fn kill(redis: SocketAddr, stop: &AtomicBool, killed: &AtomicUsize) {
    let mut redis = Connection::open(redis);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_secs_f64(4.0 * fastrand::f64()));
        let clients = redis.command(&["CLIENT", "LIST"]);
        for id in clients.lines().filter_map(tracking) {
            redis.command(&["CLIENT", "KILL", "ID", id]);
            killed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The id of a client that tracks, from its line in `CLIENT LIST`.
fn tracking(client: &str) -> Option<&str> {
    let part = |name: &str| client.split(' ').find_map(|part| part.strip_prefix(name));
    part("flags=").filter(|flags| flags.contains('t')).and_then(|_| part("id="))
}

/// What one look at revoked tokens after their deadline saw.
#[derive(Default)]
struct Seen {
    refused: usize,
    unavailable: usize,
}

/// Revokes while tracking connections die; tokens are tried after their deadline.
fn killed(field: &Field, tokens: &[String]) -> Seen {
    let (mut redis, mut connections) = (Connection::open(field.redis), field.connections());
    let mut seen = Seen::default();
    let try_all = |connections: &mut [Connection], tokens: &[String], seen: &mut Seen| {
        for token in tokens {
            for connection in connections.iter_mut() {
                connection.ask(token);
                match connection.status() {
                    401 => seen.refused += 1,
                    503 => seen.unavailable += 1,
                    other => panic!("{other} for a token whose deadline is over"),
                }
            }
        }
    };
    for (start, tokens) in tokens.chunks(IN_USE).enumerate() {
        for token in tokens {
            for connection in &mut connections {
                connection.ask(token);
                assert!(matches!(connection.status(), 200 | 503));
            }
        }
        let mut last = Instant::now();
        for number in 0..tokens.len() {
            last = Field::revoke(&mut redis, start * IN_USE + number);
        }
        // The deadline of the last of them; that of the others is over too.
        std::thread::sleep((last + MAX_STALENESS).saturating_duration_since(Instant::now()));
        try_all(&mut connections, tokens, &mut seen);
    }
    try_all(&mut connections, tokens, &mut seen);
    seen
}

/// Fills a file, kills the gateway that writes to it, and measures how soon the next one serves.
fn file(count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), SECRET).expect("a secret");
    let (port, admin) = (free_port(), free_port());
    let config = folder.path().join("gateway.yaml");
    std::fs::write(&config, yaml(port, admin, "file:store.db", upstream())).expect("a configuration");
    fill(&folder.path().join("store.db"), count);
    let [good, dead] = &tokens(2)[..] else { panic!("two tokens") };
    for turn in 0..5 {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(["run", "--workers", "1", "--config"]).arg(&config).stdout(Stdio::null());
        let running = Running(command.spawn().expect("it starts"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect(address);
        while stream.is_err() {
            std::thread::sleep(Duration::from_millis(1));
            stream = TcpStream::connect(address);
        }
        let mut connection = Connection::open(address);
        connection.ask(good);
        assert_eq!(connection.status(), 200);
        let ready = started.elapsed();
        connection.ask(dead);
        assert_eq!(connection.status(), if turn == 0 { 200 } else { 401 });
        println!("{count} revocations in the file: serves after {:.0} ms", ready.as_secs_f64() * 1000.0);
        let body = r#"{"jti":"t1"}"#;
        let head = "POST /revocations HTTP/1.1\r\nhost: admin\r\ncontent-type: application/json";
        let mut admin = Connection::open(SocketAddr::from(([127, 0, 0, 1], admin)));
        admin
            .stream
            .write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
            .expect("it is open");
        assert_eq!(admin.status(), 200);
        // Kill -9.
        drop(running);
    }
}

fn fill(path: &std::path::Path, count: usize) {
    let (file, writer) = bearward::store::File::new(path.to_owned());
    writer.start().expect("a file");
    let store = bearward::store::Store::File(std::sync::Arc::new(file));
    let ends =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_millis() as u64 + 3_600_000;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let started = Instant::now();
    let store = std::rc::Rc::new(store);
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let writers = (0..1024).map(|writer| {
            let store = std::rc::Rc::clone(&store);
            tokio::task::spawn_local(async move {
                for number in (writer..count).step_by(1024) {
                    let key = format!("blacklist:filled-{number:032x}");
                    store.mark(&key, bearward::store::Mark::Presence, ends).await.expect("written");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("it ends");
        }
    });
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(path).expect("a file").len() >> 20;
    println!("{count} revocations written by 1,024 at a time: {rate:.0} a second, {bytes} MiB");
}

fn histogram(took: &mut [Duration]) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("from the store's OK to the first refusal, {} observations:", took.len());
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        println!("  {name:<6}{:>10.3} ms", at(share).as_secs_f64() * 1000.0);
    }
    let mut edge = Duration::from_micros(32);
    let mut from = 0;
    while from < took.len() {
        let to = took.partition_point(|time| *time < edge);
        if to > 0 {
            let share = (to - from) as f64 / took.len() as f64;
            println!(
                "  < {:>9.3} ms {:>7}  {}",
                edge.as_secs_f64() * 1000.0,
                to - from,
                "#".repeat((share * 60.0).ceil() as usize)
            );
        }
        (from, edge) = (to, edge * 2);
    }
}

fn main() {
    let options = Options::read();
    if options.file {
        return file(options.revocations);
    }
    if Command::new("redis-server").arg("--version").output().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return println!("left out: redis-server is not installed");
    }
    let field = Field::start(options.gateways);
    let mut all = tokens(options.revocations + 1);
    let busy = all.pop().expect("one more");
    let (stop, sent, kills) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Whatever happens, nobody is waited for in vain.
        let _stopping = Stop(&stop);
        for &gateway in &field.gateways {
            let (busy, stop, sent) = (&busy, &stop, &sent);
            scope.spawn(move || load(gateway, busy, options.rate, stop, sent));
        }
        let started = Instant::now();
        if options.kill {
            scope.spawn(|| kill(field.redis, &stop, &kills));
            let seen = killed(&field, &all);
            println!(
                "{} revocations on {} gateways, {} tracking connections killed in {:.0} s; tried after their deadline: \
                 {} times 401, {} times 503, 0 let in",
                all.len(),
                field.gateways.len(),
                kills.load(Ordering::Relaxed),
                started.elapsed().as_secs_f64(),
                seen.refused,
                seen.unavailable,
            );
        } else {
            let mut took = latency(&field, &all);
            let load = sent.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
            println!(
                "{} revocations on {} gateways, {load:.0} requests/s of other callers, 0 lost",
                all.len(),
                field.gateways.len()
            );
            histogram(&mut took);
        }
    });
}
