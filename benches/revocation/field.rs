//! What is measured on: gateways, a Redis, a service, connections to them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

pub const SECRET: &str = "a secret for the benchmark alone, long enough";

/// A process that ends with the benchmark.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One connection that speaks HTTP/1.1 or RESP, one question at a time.
pub struct Connection {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
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

    pub fn ask(&mut self, token: &str) {
        let head = format!("GET /me HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).expect("it is open");
    }

    /// The status of the next answer.
    pub fn status(&mut self) -> u16 {
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
    pub fn command(&mut self, words: &[&str]) -> String {
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
pub fn upstream() -> SocketAddr {
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

pub fn tokens(count: usize) -> Vec<String> {
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

pub fn yaml(port: u16, admin: u16, store: &str, upstream: SocketAddr) -> String {
    format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:{port}\" }}]\nadmin: {{ address: \"127.0.0.1:{admin}\" }}\n\
         store: {{ url: \"{store}\" }}\n\
         issuers: {{ bench: {{ issuer: bench, audiences: [api], algorithms: [HS256], secret_file: secret }} }}\n\
         revocation: {{ keys: {{ jti: \"blacklist:{{jti}}\", sub: \"logout:{{sub}}\" }} }}\n\
         upstreams: {{ echo: {{ targets: [\"http://{upstream}\"] }} }}\ndefaults: {{ auth: [bench] }}\n\
         routes: [{{ id: me, match: {{ path: /me }}, upstream: echo, access: authenticated }}]\n"
    )
}

pub struct Field {
    pub redis: SocketAddr,
    pub gateways: Vec<SocketAddr>,
    _running: Vec<Running>,
    _folder: tempfile::TempDir,
}

impl Field {
    pub fn start(count: usize) -> Self {
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

    pub fn connections(&self) -> Vec<Connection> {
        self.gateways.iter().map(|&gateway| Connection::open(gateway)).collect()
    }

    /// What `SET` of a token's key answers with OK: from then on it is revoked.
    pub fn revoke(redis: &mut Connection, number: usize) -> Instant {
        assert_eq!(redis.command(&["SET", &format!("blacklist:t{number}"), "1", "EX", "7200"]), "+OK");
        Instant::now()
    }
}
