//! Starting, limits of connections, and ending without losing a request.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{PROGRAM, get, signal, with_store};
use crate::support::{Client, Gateway, Upstream, config, until};

fn limited(upstream: &Upstream, limits: &str) -> Gateway {
    let yaml =
        config(upstream.address, "").replace("realm: test }", &format!("realm: test, limits: {{ {limits} }} }}"));
    Gateway::start(&yaml)
}

#[test]
fn a_head_that_takes_too_long_is_408_and_an_idle_connection_is_closed() {
    let upstream = Upstream::echo();
    let gateway = limited(&upstream, "header_timeout: 300ms, keep_alive_timeout: 1500ms");
    for beginning in ["", "G", "GET /open/x HTTP/1.1\r\n", "GET /open/x HTTP/1.1\r\nhost: gw.test\r\nx: "] {
        let mut client = gateway.client();
        client.write(beginning);
        let started = Instant::now();
        let answer = client.try_read(false).expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{beginning:?}");
        assert!(client.is_closed() && started.elapsed() < Duration::from_secs(5));
    }
    assert!(gateway.admin("GET", "/metrics", "").text().contains("heads_refused_total{reason=\"head_timeout\"} 4\n"));
    // Nor does it live longer behind a whole request that it came together with.
    let mut client = gateway.client();
    client.write(format!("{}GET /op", get("/open/x", None)));
    assert_eq!(client.read().status, 200);
    assert_eq!(client.try_read(false).expect("an answer").status, 408);
    // Drop by drop is no faster.
    let mut client = gateway.client();
    let started = Instant::now();
    for byte in get("/open/x", None).bytes().cycle() {
        if std::io::Write::write_all(&mut client.stream, &[byte]).is_err()
            || started.elapsed() > Duration::from_secs(10)
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "slow loris lives on");
    // Between two requests a connection may wait longer than a head may take, but not for ever.
    let mut client = gateway.client();
    assert_eq!(client.send(get("/open/x", None)).status, 200);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(client.send(get("/open/x", None)).status, 200);
    let started = Instant::now();
    assert!(client.try_read(false).is_none());
    assert!(started.elapsed() > Duration::from_millis(1000) && started.elapsed() < Duration::from_secs(6));
}

/// What the kernel holds of one connection, in both directions of it.
fn queued(client: &Client) -> usize {
    let ports = [client.stream.local_addr(), client.stream.peer_addr()].map(|address| address.expect("open").port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table");
    let port = |field: &str| field.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    let sizes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = [port(fields[1])?, port(fields[2])?];
        let (sent, received) = fields[4].split_once(':')?;
        let size = |text| usize::from_str_radix(text, 16).ok();
        (here == ports || here == [ports[1], ports[0]]).then_some(size(sent)? + size(received)?)
    });
    sizes.sum()
}

// A head that begins behind an answer that its client does not read: the 408 would be written into
// the middle of that answer.
#[test]
fn no_408_is_written_into_an_answer_that_is_still_on_its_way() {
    use std::io::{Read, Write};
    let upstream = Upstream::scripted(|seen, stream| {
        let length = seen.line().split(['/', ' ']).find_map(|part| part.parse().ok()).unwrap_or(0);
        drop(write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
        stream.write_all(&vec![b'x'; length]).is_ok()
    });
    let gateway = limited(&upstream, "header_timeout: 300ms");
    let mut probe = gateway.client();
    probe.write(get("/open/100000000", None));
    let (mut last, mut held) = (1, 0);
    until("the flow has come to rest", || {
        std::thread::sleep(Duration::from_millis(100));
        (last, held) = (held, queued(&probe));
        held > 0 && last == held
    });
    drop(probe);
    // Somewhere around what the kernel takes lies an answer whose end is still in the gateway.
    let lengths = (0..25).map(|step| held - 20_000 + step * 6_000);
    let clients = lengths.map(|length| {
        let mut client = gateway.client();
        client.write(get(&format!("/open/{length}"), None));
        (client, length)
    });
    let mut clients: Vec<(Client, usize)> = clients.collect();
    let rest = |clients: &[(Client, usize)]| {
        let mut seen = Vec::new();
        until("the flow has come to rest", || {
            let now: Vec<usize> = clients.iter().map(|(client, _)| queued(client)).collect();
            let rests = seen == now;
            seen = now;
            std::thread::sleep(Duration::from_millis(400));
            rests
        });
    };
    rest(&clients);
    clients.iter_mut().for_each(|(client, _)| client.write("GET /op"));
    rest(&clients);
    for (mut client, length) in clients {
        let mut answer = Vec::new();
        drop(client.stream.read_to_end(&mut answer));
        let start = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let body = &answer[start..answer.len().min(start + length)];
        let odd = body.iter().position(|&byte| byte != b'x');
        assert_eq!(odd, None, "of {length}: {}", body[odd.unwrap_or(0)..].escape_ascii());
    }
}

#[test]
fn a_long_answer_is_not_cut_by_the_limits_of_waiting_connections() {
    let upstream = Upstream::scripted(|_, stream| {
        use std::io::Write;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"));
        (0..10).all(|_| {
            std::thread::sleep(Duration::from_millis(150));
            stream.write_all(b"x").is_ok()
        })
    });
    let gateway = limited(&upstream, "header_timeout: 300ms, keep_alive_timeout: 300ms");
    let mut client = gateway.client();
    assert_eq!(client.send(get("/open/x", None)).text(), "xxxxxxxxxx");
}

#[test]
fn connections_over_the_limit_are_closed_and_the_others_live_on() {
    let upstream = Upstream::echo();
    let gateway = limited(&upstream, "connections: 10");
    let mut held: Vec<Client> = (0..10).map(|_| gateway.client()).collect();
    for client in &mut held {
        assert_eq!(client.send(get("/open/x", None)).status, 200);
    }
    let mut refused = gateway.client();
    drop(std::io::Write::write_all(&mut refused.stream, get("/open/x", None).as_bytes()));
    assert!(refused.try_read(false).is_none());
    for client in &mut held {
        assert_eq!(client.send(get("/open/x", None)).status, 200);
    }
    held.truncate(5);
    until("there is room again", || {
        let mut client = gateway.client();
        std::io::Write::write_all(&mut client.stream, get("/open/x", None).as_bytes()).is_ok()
            && client.try_read(false).is_some()
    });
    until("those that are left are counted", || {
        gateway.admin("GET", "/metrics", "").text().contains("bearward_connections 5\n")
    });
}

#[test]
fn term_answers_what_is_under_way_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let go_on = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&go_on);
        let upstream = Upstream::scripted(move |seen, stream| {
            while seen.line().contains("slow") && !flag.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
        });
        let mut gateway = Gateway::start(&config(upstream.address, ""));
        let mut idle = gateway.client();
        assert_eq!(idle.send(get("/open/x", None)).status, 200);
        let mut busy: Vec<Client> = (0..5).map(|_| gateway.client()).collect();
        busy.iter_mut().for_each(|client| client.write(get("/open/slow", None)));
        until("all are under way", || upstream.seen().len() == 6);
        gateway.signal(signal);
        assert!(idle.try_read(false).is_none(), "a connection that waits is closed");
        until("nothing new is taken", || std::net::TcpStream::connect(gateway.address).is_err());
        let ready = gateway.admin("GET", "/readyz", "");
        assert!(ready.status == 503 && ready.text().contains("draining"));
        go_on.store(true, Ordering::SeqCst);
        for client in &mut busy {
            let answer = client.read();
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        }
        assert_eq!(gateway.wait().code(), Some(0));
        until("the last lines are written", || {
            gateway.lines().iter().any(|line| line.contains("\"message\":\"drained\""))
        });
    }
}

#[test]
fn a_drain_ends_at_its_limit_and_a_second_int_at_once() {
    let upstream = Upstream::scripted(|_, _| {
        std::thread::park();
        false
    });
    let mut gateway = limited(&upstream, "drain_timeout: 300ms");
    let mut client = gateway.client();
    client.write(get("/open/x", None));
    until("it is under way", || !upstream.seen().is_empty());
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));

    let mut gateway = limited(&upstream, "drain_timeout: 1h");
    upstream.clear();
    let mut client = gateway.client();
    client.write(get("/open/x", None));
    until("it is under way", || !upstream.seen().is_empty());
    gateway.signal("INT");
    until("it drains", || gateway.lines().iter().any(|line| line.contains("draining")));
    gateway.signal("INT");
    assert_eq!(gateway.wait().code(), Some(1));
}

#[test]
fn an_address_that_is_taken_is_an_error_and_not_shared() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let second =
        with_store(upstream.address, "memory:", "", "").replacen("127.0.0.1:0", &gateway.address.to_string(), 1);
    let file = gateway.folder().join("second.yaml");
    std::fs::write(&file, second).expect("a file");
    let out = Command::new(PROGRAM).args(["run", "--config"]).arg(&file).output().expect("runs");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains(&gateway.address.to_string()) && said.contains("cannot listen"), "{said}");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    client.write(format!("{}{}{}", get("/open/1", None), get("/me/2", None), get("/open/3", None)));
    assert!(client.read().text().starts_with("GET /open/1"));
    assert_eq!(client.read().status, 401);
    assert!(client.read().text().starts_with("GET /open/3"));
}

#[test]
fn file_descriptors_that_run_out_stop_nobody_who_is_there() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut there = gateway.client();
    assert_eq!(there.send(get("/open/x", None)).status, 200);
    let limit =
        Command::new("prlimit").args(["--pid", &gateway.id().to_string(), "--nofile=48:48"]).status().expect("prlimit");
    assert!(limit.success());
    let crowd: Vec<std::net::TcpStream> =
        (0..80).map(|_| std::net::TcpStream::connect(gateway.address).expect("queued")).collect();
    until("it runs out", || gateway.lines().iter().any(|line| line.contains("a connection cannot be accepted")));
    assert_eq!(there.send(get("/open/x", None)).status, 200);
    drop(crowd);
    until("it takes connections again", || {
        let mut client = gateway.client();
        std::io::Write::write_all(&mut client.stream, get("/open/x", None).as_bytes()).is_ok()
            && client.try_read(false).is_some_and(|answer| answer.status == 200)
    });
}

/// Not when the next requests come: a process whose clients all wait has nobody else to do it for.
#[test]
fn what_connections_that_wait_have_given_up_goes_back_to_the_system() {
    let upstream = Upstream::echo();
    let gateway = limited(&upstream, "keep_alive_timeout: 5m");
    assert_eq!(gateway.get("/open/x", None).status, 200);
    let before = gateway.resident();
    let mut clients: Vec<_> = (0..2_000).map(|_| gateway.client()).collect();
    for client in &mut clients {
        assert_eq!(client.send(get("/open/x", None)).status, 200);
    }
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown > 2_000 * 6, "their buffers are seen: {grown} KiB");
    until("most of it is given back", || gateway.resident().saturating_sub(before) < grown / 2);
    assert_eq!(clients[0].send(get("/open/x", None)).status, 200);
}

// A connection that waits gives its buffers back, and goes on as if it had not.
#[test]
fn a_parked_connection_goes_on_where_it_was() {
    let upstream = Upstream::echo();
    let gateway = limited(&upstream, "keep_alive_timeout: 60s");
    let parked = || {
        let page = gateway.admin("GET", "/metrics", "").text();
        let line = page.lines().find_map(|line| line.strip_prefix("bearward_connections_parked ").map(str::to_owned));
        line.expect("the metric").parse::<usize>().expect("a number")
    };
    let (mut plain, mut half, mut gone) = (gateway.client(), gateway.client(), gateway.client());
    for client in [&mut plain, &mut gone] {
        assert_eq!(client.send(get("/open/first", None)).status, 200);
    }
    // The beginning of the second request comes together with the first one.
    let (second, rest) = ("GET /open/second HTTP/1.1\r\nho", "st: gw.test\r\n\r\n");
    assert_eq!(half.send(format!("{}{second}", get("/open/first", None))).status, 200);
    until("those that wait are parked", || parked() == 2);
    for _ in 0..3 {
        assert_eq!(plain.send(get("/open/again", None)).status, 200);
    }
    let answer = half.send(rest);
    assert!(answer.text().starts_with("GET /open/second HTTP/1.1"), "{}", answer.text());
    drop(gone);
    until("all go on or have ended", || parked() == 0);
    until("two are parked again", || parked() == 2);
    gateway.signal("TERM");
    assert!(plain.is_closed() && half.is_closed(), "draining closes what is parked");
}

/// A process that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn hup_while_it_starts_ends_no_process() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().expect("a folder");
    crate::support::sign::write_keys(folder.path());
    // A pipe: it starts when something comes out of it.
    let file = folder.path().join("gateway.yaml");
    assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
    let child = Command::new(PROGRAM)
        .args(["run", "--no-watch", "--log-format", "json", "--config"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut child = Ended(child.expect("the program starts"));
    let child = &mut child.0;
    let stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let status = format!("/proc/{}/status", child.id());
    until("it listens for signals", || {
        let status = std::fs::read_to_string(&status).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        u64::from_str_radix(caught.trim(), 16).expect("a number") & 1 == 1
    });
    signal(child.id(), "HUP");
    let mut lines = std::io::BufRead::lines(stdout).map_while(Result::ok);
    let is_read = || std::fs::write(&file, config(upstream.address, "")).expect("somebody reads it");
    is_read();
    assert!(lines.any(|line| line.contains("bearward starts")));
    is_read();
    assert!(lines.any(|line| line.contains("configuration taken")), "it takes it once it has started");
    signal(child.id(), "TERM");
    assert!(child.wait().expect("a child").success());
}
