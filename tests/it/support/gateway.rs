//! The gateway as its users run it: the program, a file, a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::sign::{self, Claims};
use super::{Answer, Client, secrets, until};

/// What is tested: another build, where one is named when the tests are compiled.
pub const PROGRAM: &str = match option_env!("BEARWARD_TESTED") {
    Some(other) => other,
    None => env!("CARGO_BIN_EXE_bearward"),
};

/// A running gateway; dropping it ends it.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    folder: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
    /// Says when nothing more will be put out.
    silence: Mutex<Receiver<()>>,
}

/// The configuration that most tests use, with one upstream and the routes given.
pub fn config(upstream: SocketAddr, routes: &str) -> String {
    with_store(upstream, "memory:", "", routes)
}

/// The same with another store and lines of one's own.
pub fn with_store(upstream: SocketAddr, store: &str, lines: &str, routes: &str) -> String {
    format!(
        r#"
version: 1
listeners: [{{ address: "127.0.0.1:0" }}]
admin: {{ address: "127.0.0.1:0" }}
store: {{ url: "{store}", timeout: 250ms }}
issuers:
  rsa: {{ issuer: https://rsa.test, audiences: [api, other], algorithms: [RS256], jwks_file: rsa.jwks.json }}
  ec: {{ issuer: https://ec.test, audiences: [api], algorithms: [ES256], jwks_file: ec.jwks.json }}
  hmac: {{ issuer: https://hmac.test, audiences: [api], algorithms: [HS256], secret_file: hmac.secret }}
revocation: {{ keys: {{ jti: "blacklist:{{jti}}", sub: "logout:{{sub}}", sid: "session-revoked:{{sid}}" }} }}
identity:
  headers:
    X-User-Id: sub
    X-User-Roles: roles
    X-User-Name: {{ claim: name, encoding: percent }}
    X-Tenant: org.tenant
upstreams: {{ echo: {{ targets: ["http://{upstream}"] }} }}
defaults: {{ auth: [rsa, ec, hmac], realm: test }}
{lines}
routes:
{}
"#,
        if routes.is_empty() { ROUTES } else { routes }
    )
}

/// One route of each kind.
pub const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: order, match: { path: "/orders/{id}", methods: [GET, PUT] }, upstream: echo, access: { roles: [customer, admin] } }
  - { id: pay, match: { path: "/pay" }, upstream: echo, access: { scopes: ["pay:write", "pay:read"] } }
  - { id: member, match: { path: "/members/{id}/orders" }, upstream: echo, access: { any: [{ claims: { sub: "{id}" } }, { roles: [admin] }] } }
"#;

/// What says how far a clock that can be set is ahead.
const CLOCK: &str = "clock";

impl Gateway {
    /// Starts a gateway on a configuration, with the keys of `sign` beside it.
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[])
    }

    pub fn start_with(yaml: &str, arguments: &[&str]) -> Self {
        Self::start_in(prepared(yaml), arguments)
    }

    /// One whose wall clock is so many seconds behind.
    pub fn start_behind(yaml: &str, seconds: u32) -> Self {
        let by = ["faketime", "-m", "--exclude-monotonic", "-f", &format!("-{seconds}s")];
        Self::start_by(&by, prepared(yaml), &[])
    }

    /// One whose wall clock can be set: it is ahead by what [`Self::set_ahead`] says, at first by `seconds`.
    pub fn start_ahead(yaml: &str, seconds: i32) -> Self {
        Self::start_ahead_in(prepared(yaml), seconds)
    }

    pub fn start_ahead_in(folder: tempfile::TempDir, seconds: i32) -> Self {
        let clock = folder.path().join(CLOCK);
        std::fs::write(&clock, format!("{seconds:+}")).expect("a file");
        // Read anew with every look at the clock.
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
        let env = ["env", "-u", "FAKETIME", "FAKETIME_NO_CACHE=1", &file];
        Self::start_by(&[&["faketime", "-m", "--exclude-monotonic", "-f", "+0"][..], &env].concat(), folder, &[])
    }

    /// Sets the wall clock of one that was started with [`Self::start_ahead`].
    pub fn set_ahead(&self, seconds: i32) {
        let (new, clock) = (self.folder().join("clock.new"), self.folder().join(CLOCK));
        std::fs::write(&new, format!("{seconds:+}")).and_then(|()| std::fs::rename(new, clock)).expect("a file");
    }

    /// One that tells a service manager on this socket what becomes of it.
    pub fn start_under(yaml: &str, socket: &Path) -> Self {
        let socket = format!("NOTIFY_SOCKET={}", socket.display());
        Self::start_by(&["env", &socket], prepared(yaml), &["--no-watch"])
    }

    pub fn start_in(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        Self::start_by(&[], folder, arguments)
    }

    fn start_by(by: &[&str], folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        // A shell in between, so that a test can outlive a limit on the size of files: then a write
        // fails, as on a full disk.
        let mut child = Command::new("sh")
            .args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"])
            .args(by)
            .args([PROGRAM, "run", "--config"])
            .arg(folder.path().join("gateway.yaml"))
            .args(["--log-format", "json"])
            .args(if arguments.contains(&"--workers") { &[][..] } else { &["--workers", "2"] })
            .args(arguments)
            .env("SSL_CERT_FILE", folder.path().join("ca.pem"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (end, silence) = channel();
        let log = gathered(child.stdout.take().expect("piped"), end.clone(), false);
        let errors = gathered(child.stderr.take().expect("piped"), end, true);
        let find = |message: &str| -> Option<SocketAddr> {
            let lines = log.lock().expect("the log");
            let line = lines.iter().find(|line| line.contains(&format!("\"message\":\"{message}\"")))?;
            let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            line["address"].as_str()?.parse().ok()
        };
        until("the gateway listens", || {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the gateway ended: {:?}", log.lock().expect("the log"));
            find("admin listening").is_some()
        });
        let (address, admin) = (find("listening").expect("listening"), find("admin listening").expect("listening"));
        Self { child, address, admin, folder, log, errors, silence: Mutex::new(silence) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.client().send(bytes)
    }

    /// `GET path`, with a token or without.
    pub fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.send(get(path, token))
    }

    /// A request to the admin address.
    pub fn admin(&self, method: &str, target: &str, body: &str) -> Answer {
        let answer = Client::connect(self.admin).send(order(method, target, body));
        secrets::not_told(target, &answer.body);
        answer
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().expect("the log").clone()
    }

    /// The access lines so far.
    pub fn access_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.lines();
        let lines = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
        lines.filter(|line| line["kind"] == "access").collect()
    }

    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the gateway ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("ended")
    }

    /// The processes that have served, the first first; each took the place of the one before.
    pub fn processes(&self) -> Vec<u32> {
        let lines = self.lines();
        let starts = lines.iter().filter(|line| line.contains("\"message\":\"bearward starts\""));
        let values = starts.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"));
        values.filter_map(|line| u32::try_from(line["pid"].as_u64()?).ok()).collect()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
    }
}

impl Gateway {
    /// Nothing that opens a door is in what it has put out, nor in its store where that is a file of its own.
    fn tells_nothing(&self) {
        for _ in ["output", "errors"] {
            // Longer only if somebody else still holds its outputs; what has come is looked at.
            let _late = self.silence.lock().expect("the end").recv_timeout(Duration::from_secs(5));
        }
        for lines in [&self.log, &self.errors] {
            secrets::not_told("the log", lines.lock().expect("the lines").join("\n").as_bytes());
        }
        let yaml = std::fs::read_to_string(self.folder().join("gateway.yaml")).unwrap_or_default();
        let named = yaml.split("file:").nth(1).and_then(|rest| rest.split('"').next());
        secrets::not_kept(&self.folder().join(named.unwrap_or("bearward.db")));
    }

    /// Its page of numbers, where it still answers.
    fn last_page(&self) -> Option<Vec<u8>> {
        let mut client = Client::try_connect(self.admin)?;
        client.stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        client.try_write(order("GET", "/metrics", ""))?;
        Some(client.try_read(false)?.body)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let page = if std::thread::panicking() { None } else { self.last_page() };
        drop(self.child.kill());
        drop(self.child.wait());
        // And those that took its place.
        for process in self.processes().into_iter().filter(|process| *process != self.child.id()) {
            drop(Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status());
        }
        if !std::thread::panicking() {
            secrets::not_told("the metrics", &page.unwrap_or_default());
            self.tells_nothing();
        }
    }
}

/// A folder with a configuration and the keys of `sign` beside it.
fn prepared(yaml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    folder
}

/// The lines of an output, as they come; with `is_shown` also where those of the test go.
fn gathered(out: impl Read + Send + 'static, end: Sender<()>, is_shown: bool) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if is_shown {
                eprintln!("{line}");
            }
            sink.lock().expect("the lines").push(line);
        }
        let _nobody = end.send(());
    });
    lines
}

pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().expect("kill");
    assert!(status.success());
}

/// A request to the admin address, as text.
pub fn order(method: &str, target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: admin\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// The bytes of a `GET`.
pub fn get(path: &str, token: Option<&str>) -> String {
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    format!("GET {path} HTTP/1.1\r\nhost: gw.test\r\n{token}\r\n")
}

/// A good token of the RSA issuer with these claims beside the usual ones.
pub fn token(more: &serde_json::Value) -> String {
    sign::rsa(&Claims::of("https://rsa.test").with(more).json())
}

/// A good token of a customer.
pub fn customer() -> String {
    token(&serde_json::json!({ "roles": ["customer"] }))
}

impl Gateway {
    /// What the access line of an answer says.
    pub fn line_of(&self, answer: &Answer) -> serde_json::Value {
        let id = answer.header("x-request-id").expect("a request id").to_owned();
        let mut found = None;
        until("the access line is written", || {
            found = self.access_lines().into_iter().find(|line| line["request_id"] == *id);
            found.is_some()
        });
        found.expect("found")
    }

    /// The token is refused as the contract says: 401, one coarse text, and nothing upstream; the
    /// log has the fine reason.
    #[track_caller]
    pub fn refuses(&self, upstream: &super::Upstream, token: &str, reasons: &[&str]) {
        let before = upstream.seen().len();
        let answer = self.get("/me/x", Some(token));
        assert_eq!(answer.status, 401, "{token}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="test", error="invalid_token""#), "{token}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.json()["detail"], "the token is expired, revoked, malformed or otherwise not accepted");
        assert_eq!(upstream.seen().len(), before, "nothing goes upstream");
        let line = self.line_of(&answer);
        assert!(reasons.contains(&line["outcome"].as_str().expect("text")), "{token}: {line}");
    }

    /// How often a configuration was taken, and refused, since the start.
    pub fn configurations(&self) -> (u64, u64) {
        let page = self.admin("GET", "/metrics", "").text();
        let number = |name: &str| -> u64 {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("bearward_{name} ")));
            line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}: {page}"))
        };
        (number("config_generation") - 1, number("config_refused_total"))
    }

    /// Writes another configuration, has it read, and waits for the outcome: whether it was taken.
    pub fn reload(&self, yaml: &str) -> bool {
        let (taken, refused) = self.configurations();
        // Beside and then over it, so that nobody reads half of it.
        let file = self.folder().join("gateway.yaml");
        let beside = self.folder().join("gateway.yaml.new");
        std::fs::write(&beside, yaml).expect("a file");
        std::fs::rename(&beside, &file).expect("renamed");
        self.signal("HUP");
        until("it was read", || self.configurations() != (taken, refused));
        self.configurations().0 > taken
    }

    /// Where listeners were opened, in their order.
    pub fn listening(&self) -> Vec<SocketAddr> {
        let lines = self.lines();
        let lines = lines.iter().filter(|line| line.contains("\"message\":\"listening\""));
        let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"));
        values.filter_map(|line| line["address"].as_str()?.parse().ok()).collect()
    }

    /// One number of the metrics page.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.admin("GET", "/metrics", "").text();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("bearward_{name} "))).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name}: {page}")).parse().expect("a number")
    }

    /// The token is taken.
    #[track_caller]
    pub fn takes(&self, token: &str) {
        let answer = self.get("/me/x", Some(token));
        assert_eq!(answer.status, 200, "{token}: {} {:?}", answer.text(), self.line_of(&answer));
    }
}
