//! Another process takes the place of a running gateway, and nobody notices.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};

use crate::support::gateway::{PROGRAM, get, order, signal};
use crate::support::h2::{H2, Outcome, request};
use crate::support::{Client, Gateway, Upstream, config, sign, until};

/// How often: more with `BEARWARD_TURNS`.
fn turns() -> usize {
    std::env::var("BEARWARD_TURNS").map_or(4, |turns| turns.parse().expect("a number"))
}

/// Ends the clients, whatever becomes of the test.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Requests one after another on connections that are kept for as long as the server keeps them.
fn ask_http1(gateway: &Gateway, goes_on: &AtomicBool, failed: &AtomicUsize) -> usize {
    let (mut client, mut answered) = (gateway.client(), 0);
    while goes_on.load(Ordering::Relaxed) {
        let Some(answer) = client.try_write(get("/open/x", None)).and_then(|()| client.try_read(false)) else {
            println!("HTTP/1: no answer");
            failed.fetch_add(1, Ordering::Relaxed);
            client = gateway.client();
            continue;
        };
        if answer.status != 200 {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        answered += 1;
        if answer.header("connection") == Some("close") {
            client = gateway.client();
        }
    }
    answered
}

fn ask_http2(gateway: &Gateway, goes_on: &AtomicBool, failed: &AtomicUsize) -> usize {
    let connect = || {
        let mut client = H2::connect(gateway.address);
        client.is_polite = true;
        client
    };
    let (mut client, mut answered) = (connect(), 0);
    while goes_on.load(Ordering::Relaxed) {
        let stream = client.ask(&request("GET", "/open/x", &[]), None);
        match client.outcome(stream) {
            Outcome::Answered(answer, _) if answer.status == 200 => answered += 1,
            other => {
                println!("HTTP/2: {other:?}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if client.is_ending {
            client = connect();
        }
    }
    answered
}

#[test]
fn a_process_that_takes_the_place_of_another_loses_no_request() {
    let upstream =
        Upstream::scripted(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok());
    let gateway = Gateway::start(&config(upstream.address, ""));
    let (goes_on, failed) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let http1: Vec<_> = (0..3).map(|_| scope.spawn(|| ask_http1(&gateway, &goes_on, &failed))).collect();
        let http2: Vec<_> = (0..2).map(|_| scope.spawn(|| ask_http2(&gateway, &goes_on, &failed))).collect();
        let ends = Ends(&goes_on);
        for turn in 1..=turns() {
            let before = *gateway.processes().last().expect("a process");
            signal(before, "USR2");
            let drained = || gateway.lines().iter().filter(|line| line.contains("\"message\":\"drained\"")).count();
            until("another one has taken its place", || drained() == turn);
            // Its lines are written by a thread of its own.
            until("it has said so", || gateway.processes().len() == turn + 1);
        }
        drop(ends);
        let answered: Vec<usize> =
            http1.into_iter().chain(http2).map(|client| client.join().expect("a client")).collect();
        assert!(answered.iter().all(|answered| *answered > 10), "{answered:?}");
        println!("{} requests, {} failed", answered.iter().sum::<usize>(), failed.load(Ordering::Relaxed));
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    // Its admin address is where it was, and it ends like the first one.
    assert_eq!(gateway.admin("GET", "/readyz", "").status, 200);
    signal(*gateway.processes().last().expect("a process"), "TERM");
    let lines = || gateway.lines().iter().filter(|line| line.contains("\"message\":\"drained\"")).count();
    until("it drains", || lines() == turns() + 1);
}

/// Operators are answered by the one that serves, however long the one before it has to drain.
#[test]
fn admin_pages_are_those_of_the_process_that_took_the_place() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut slow = gateway.client();
    slow.write("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2\r\n\r\nx");
    let says = |what: &str| gateway.lines().iter().filter(|line| line.contains(what)).count();
    signal(gateway.id(), "USR2");
    until("another one has taken its place", || says("draining") == 1);
    for _ in 0..50 {
        assert_eq!(gateway.admin("GET", "/readyz", "").status, 200);
    }
    assert_eq!(says("\"message\":\"drained\""), 0);
    // Its own request is answered by the old one, with the word that nothing comes after it.
    let answer = slow.send("y");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    until("the old one has ended", || says("\"message\":\"drained\"") == 1);
}

#[test]
fn a_program_that_cannot_start_takes_nobodys_place() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start_with(&config(upstream.address, ""), &["--no-watch"]);
    let file = gateway.folder().join("gateway.yaml");
    std::fs::write(&file, "version: 2\n").expect("a file");
    signal(gateway.id(), "USR2");
    until("it is told", || gateway.lines().iter().any(|line| line.contains("it ended: exit status: 78")));
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", "").status, 200);
}

/// A service manager's socket, and what it heard.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        Self { socket, path, _folder: folder }
    }

    /// The next message, which no other one comes before.
    fn hears(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }
}

// systemd ends all of a service with the process that it knows, so it has to know the one that serves.
#[test]
fn a_service_manager_is_told_which_process_serves_and_by_what() {
    let (manager, upstream) = (Manager::start(), Upstream::echo());
    let yaml = config(upstream.address, "");
    let gateway = Gateway::start_under(&yaml, &manager.path);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving, configuration 1\n");
    assert!(gateway.reload(&yaml.replacen("version: 1", "version: 1 # the same", 1)));
    let again = manager.hears();
    assert!(again.starts_with("RELOADING=1\nMONOTONIC_USEC=") && again.lines().count() == 2, "{again}");
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving, configuration 2\n");
    assert!(!gateway.reload(&yaml.replacen("version: 1", "version: 2", 1)));
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    let refused = manager.hears();
    let first = "READY=1\nSTATUS=configuration refused: ";
    assert!(
        refused.starts_with(first) && refused.contains("gateway.yaml:2:10: version") && refused.lines().count() == 2,
        "{refused}"
    );
    assert!(gateway.reload(&yaml));
    (0..2).for_each(|_| drop(manager.hears()));
    signal(gateway.id(), "USR2");
    // From the process that the manager knows; the other one says nothing until then.
    let replaced = manager.hears();
    until("another one has begun", || gateway.processes().len() == 2);
    let process = *gateway.processes().last().expect("a process");
    assert_eq!(replaced, format!("MAINPID={process}\n"));
    signal(process, "HUP");
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving, configuration 2\n");
    signal(process, "TERM");
    assert_eq!(manager.hears(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=draining\n");
}

/// A process that ends with the test, whatever becomes of that.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process with sockets that it is given, by their names.
fn start(folder: &tempfile::TempDir, sockets: &[(&str, &TcpListener)]) -> Process {
    let given = sockets.iter().zip(3..).map(|((_, socket), child_fd)| FdMapping {
        parent_fd: OwnedFd::from(socket.try_clone().expect("a socket")),
        child_fd,
    });
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--workers", "2", "--no-watch", "--config"]).arg(folder.path().join("gateway.yaml"));
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    command.stdout(Stdio::null()).fd_mappings(given.collect()).expect("a mapping");
    Process(command.spawn().expect("the program starts"))
}

#[test]
fn connections_wait_in_a_socket_that_is_given_while_no_process_has_it() {
    let upstream = Upstream::echo();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    let yaml = config(upstream.address, "").replacen("127.0.0.1:0", &address.to_string(), 1);
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    for _ in 0..2 {
        let mut early: Vec<Client> = (0..20).map(|_| Client::connect(address)).collect();
        for client in &mut early {
            client.write(get("/open/x", None));
        }
        let mut process = start(&folder, &[("", &socket)]);
        for client in &mut early {
            assert_eq!(client.read().status, 200);
        }
        signal(process.0.id(), "TERM");
        assert!(process.0.wait().expect("a child").success());
    }
}

// It is taken out of those that are given before it is known whether the rest of the configuration holds.
#[test]
fn a_socket_for_operators_that_is_given_is_there_after_a_configuration_that_was_refused() {
    let upstream = Upstream::echo();
    let open = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (socket, admin, taken, free) = (open(), open(), open(), open());
    let address = |socket: &TcpListener| socket.local_addr().expect("an address");
    let (given, own, taken_address) = (address(&admin), address(&free), address(&taken));
    drop(free);
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    let write = |admin: &dyn std::fmt::Display, more: &str| {
        let yaml = config(upstream.address, "")
            .replacen("\"127.0.0.1:0\" }]", &format!("\"{}\" }}{more}]", address(&socket)), 1)
            .replacen("admin: { address: \"127.0.0.1:0\" }", &format!("admin: {{ address: \"{admin}\" }}"), 1);
        std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    };
    write(&own, "");
    let mut process = start(&folder, &[("", &socket), ("admin", &admin)]);
    let is_ready = |admin| {
        Client::try_connect(admin).is_some_and(|mut client| {
            client
                .try_write(order("GET", "/readyz", ""))
                .and_then(|()| client.try_read(false))
                .is_some_and(|it| it.status == 200)
        })
    };
    let refused =
        || Client::connect(own).send(order("GET", "/metrics", "")).text().contains("bearward_config_refused_total 1");
    until("it serves", || is_ready(own));
    write(&given, &format!(", {{ address: \"{taken_address}\" }}"));
    signal(process.0.id(), "HUP");
    until("it is refused", refused);
    write(&given, "");
    signal(process.0.id(), "HUP");
    until("operators are answered there", || is_ready(given));
    signal(process.0.id(), "TERM");
    assert!(process.0.wait().expect("a child").success());
}
