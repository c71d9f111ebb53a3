//! Several targets of one service: who gets what, and what becomes of one that is in trouble.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::support::{Gateway, Upstream, config, until};

const GOOD: u8 = 0;
const RESETS: u8 = 1;
const GARBAGE: u8 = 2;
const OVERSIZED: u8 = 3;
const SILENT: u8 = 4;
const UNWELL: u8 = 5;

/// A service that behaves as it is told.
struct Service {
    upstream: Upstream,
    mode: Arc<AtomicU8>,
}

impl Service {
    fn start() -> Self {
        let mode = Arc::new(AtomicU8::new(GOOD));
        let now = Arc::clone(&mode);
        let upstream = Upstream::scripted(move |seen, stream| match now.load(Ordering::SeqCst) {
            RESETS => false,
            GARBAGE => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").is_ok(),
            OVERSIZED => {
                let field = format!("x-large: {}\r\n", "x".repeat(100_000));
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{field}content-length: 0\r\n\r\n").as_bytes()).is_ok()
            }
            SILENT => {
                std::thread::park();
                false
            }
            _ if seen.line().contains("/kills") => false,
            UNWELL if seen.line().contains("/healthz") => {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").is_ok()
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok(),
        });
        Self { upstream, mode }
    }

    fn becomes(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// Requests so far, without those of checks.
    fn requests(&self) -> usize {
        self.upstream.seen().iter().filter(|seen| !seen.line().contains("/healthz")).count()
    }
}

fn gateway(services: &[Service], keys: &str) -> Gateway {
    let targets: Vec<String> = services.iter().map(|service| format!("\"http://{}\"", service.address())).collect();
    Gateway::start(&yaml(services, &targets, keys))
}

fn yaml(services: &[Service], targets: &[String], keys: &str) -> String {
    let one = format!("targets: [\"http://{}\"]", services[0].address());
    config(services[0].address(), "").replace(&one, &format!("targets: [{}], {keys}", targets.join(", ")))
}

/// Sends so many requests, from several clients; how many were not answered with 200.
fn load(gateway: &Gateway, clients: usize, each: usize, request: &str) -> usize {
    load_in_turn(gateway, clients, each, &[request])
}

/// The same with several requests, one after another.
fn load_in_turn(gateway: &Gateway, clients: usize, each: usize, requests: &[&str]) -> usize {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.client();
                    let requests = requests.iter().cycle().take(each);
                    requests.filter(|request| client.send(request).status != 200).count()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    })
}

const GET: &str = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n";
/// The service dies of it, as far as its connection goes.
const KILLS: &str = "GET /open/kills HTTP/1.1\r\nhost: gw.test\r\n\r\n";
const POST: &str = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2\r\n\r\nhi";

fn target(name: &str, service: &Service) -> String {
    format!("{name}{{upstream=\"echo\",target=\"{}\"}}", service.address())
}

/// What clients see of one target of three that is in trouble, once that is known.
#[test]
fn a_target_in_trouble_is_passed_over_and_clients_hardly_see_it() {
    for (mode, request, most) in [
        // What changes nothing is sent to another target.
        (RESETS, GET, 0),
        (GARBAGE, GET, 0),
        (OVERSIZED, GET, 0),
        // Else five requests find out, and those that are under way beside them.
        (RESETS, POST, 8),
        (GARBAGE, POST, 8),
        (SILENT, GET, 8),
        (SILENT, POST, 8),
    ] {
        let services = [Service::start(), Service::start(), Service::start()];
        let gateway = gateway(&services, "timeout: 300ms, ejection: { time: 1m }");
        assert_eq!(load(&gateway, 4, 50, request), 0);
        services[1].becomes(mode);
        let found_out = load(&gateway, 4, 50, request);
        assert!(found_out <= most, "{mode} {request}: {found_out}");
        assert_eq!(gateway.metric(&target("target_up", &services[1])), 0.0, "{mode}");
        assert_eq!(gateway.metric(&target("target_ejections_total", &services[1])), 1.0, "{mode}");
        let before = services[1].requests();
        assert_eq!(load(&gateway, 4, 250, request), 0, "{mode} {request}");
        assert_eq!(services[1].requests(), before, "{mode}: it gets nothing");
    }
}

#[test]
fn one_request_tries_a_target_that_was_passed_over_and_it_comes_back_when_that_is_answered() {
    let services = [Service::start(), Service::start()];
    let gateway = gateway(&services, "retries: 0, ejection: { failures: 2, time: 1s, max_time: 1m }");
    services[1].becomes(RESETS);
    let failed = load(&gateway, 1, 20, POST);
    assert_eq!(failed, 2);
    let before = services[1].requests();
    let mut failed = 0;
    until("it was tried", || {
        failed += load(&gateway, 4, 5, POST);
        services[1].requests() > before
    });
    assert_eq!((failed, services[1].requests()), (1, before + 1));
    services[1].becomes(GOOD);
    until("it is back", || {
        assert_eq!(load(&gateway, 1, 1, POST), 0);
        gateway.metric(&target("target_up", &services[1])) == 1.0
            && gateway.lines().iter().any(|line| line.contains("a target answers again"))
    });
    let before = services[1].requests();
    assert_eq!(load(&gateway, 1, 20, POST), 0);
    assert_eq!(services[1].requests(), before + 10);
}

#[test]
fn targets_that_checks_call_down_get_nothing_until_they_are_up_again() {
    let services = [Service::start(), Service::start()];
    services[0].becomes(UNWELL);
    let check =
        "health_check: { path: /healthz?deep=1, host: order.internal, interval: 50ms, unhealthy: 2, healthy: 2 }";
    let gateway = gateway(&services, check);
    let is_up = |service| gateway.metric(&target("target_up", service)) == 1.0;
    until("the first check has decided", || !is_up(&services[0]));
    let checked = services[0].upstream.seen().into_iter().find(|seen| seen.line().contains("healthz"));
    let checked = checked.expect("a check");
    assert_eq!(checked.line(), "GET /healthz?deep=1 HTTP/1.1");
    assert_eq!(checked.value("host"), Some("order.internal"));
    assert_eq!(load(&gateway, 2, 20, GET), 0);
    assert_eq!((services[0].requests(), services[1].requests()), (0, 40));
    // Both are down: it is said at once, and nobody is asked.
    services[1].becomes(SILENT);
    until("both are down", || !is_up(&services[1]));
    let answer = gateway.get("/open/x", None);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(gateway.line_of(&answer)["outcome"], "upstream_unhealthy");
    services[0].becomes(GOOD);
    until("one is up again", || is_up(&services[0]));
    assert_eq!(load(&gateway, 2, 20, GET), 0);
    until("it is told", || gateway.lines().iter().any(|line| line.contains("a target is up again")));
    assert_eq!(services[1].requests(), 40);
}

#[test]
fn a_slow_target_gets_less_and_weights_and_turns_are_kept() {
    let services = [Service::start(), Service::start()];
    let slow = Upstream::scripted(|_, stream| {
        std::thread::sleep(Duration::from_millis(30));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let targets = [
        format!("\"http://{}\"", services[0].address()),
        format!("\"http://{}\"", services[1].address()),
        format!("\"http://{}\"", slow.address),
    ];
    let gateway = Gateway::start(&yaml(&services, &targets, "retries: 0"));
    assert_eq!(load(&gateway, 16, 60, GET), 0);
    assert!(slow.seen().len() < 250, "{}", slow.seen().len());
    drop(gateway);

    let services = [Service::start(), Service::start()];
    let weighed = [
        format!("{{ url: \"http://{}\", weight: 3 }}", services[0].address()),
        format!("\"http://{}\"", services[1].address()),
    ];
    for balance in ["round_robin", "least_requests"] {
        services.iter().for_each(|service| service.upstream.clear());
        let gateway =
            Gateway::start_with(&yaml(&services, &weighed, &format!("balance: {balance}")), &["--workers", "1"]);
        assert_eq!(load(&gateway, 1, 80, GET), 0);
        assert_eq!((services[0].requests(), services[1].requests()), (60, 20), "{balance}");
    }
}

/// A service in trouble is not asked twice as much: what goes out a second time is a fifth at most.
#[test]
fn second_tries_stay_within_their_share() {
    let services = [Service::start(), Service::start(), Service::start()];
    let gateway = gateway(&services, "ejection: { failures: 1000000 }");
    services.iter().for_each(|service| service.becomes(RESETS));
    let failed = load(&gateway, 40, 25, GET);
    assert_eq!(failed, 1000);
    let tries: usize = services.iter().map(Service::requests).sum();
    // Up to eight of forty at any one time; those are through sooner than they are counted here.
    assert!((1000..1400).contains(&tries), "{tries}");
    let retried: f64 = services.iter().map(|service| gateway.metric(&target("target_retries_total", service))).sum();
    assert_eq!(retried as usize, tries - 1000);
}

/// A service that takes one connection, and dies of the first request that it cannot bear.
fn mortal() -> (SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        drop(listener);
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a head");
                head.extend(byte);
            }
            let head = String::from_utf8(head).expect("a head");
            if head.contains("/kills") || head.contains("/fatal") {
                return head;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("written");
        }
    });
    (address, service)
}

/// A connection that was pooled may have been dead all the time, or have died of the request.
#[test]
fn second_tries_on_a_new_connection_to_the_same_target_are_within_that_share_too() {
    let services = [Service::start(), Service::start()];
    let gateway = gateway(&services, "retries: 1, ejection: { failures: 1000000 }");
    load_in_turn(&gateway, 40, 50, &[GET, KILLS]);
    let tries: usize = services.iter().map(Service::requests).sum();
    let retried: f64 = services.iter().map(|service| gateway.metric(&target("target_retries_total", service))).sum();
    assert_eq!(retried as usize, tries - 2000, "each is counted");
    assert!(tries < 2600, "{tries}");
}

/// One that takes no connection was sent nothing: it uses up no retry.
#[test]
fn one_retry_gets_past_any_number_of_targets_that_take_no_connection() {
    let (mortal, service) = mortal();
    let down = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let other = Service::start();
    let targets = [mortal, down, other.address()].map(|address| format!("\"http://{address}\""));
    let yaml = yaml(std::slice::from_ref(&other), &targets, "balance: round_robin, retries: 1");
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    for number in 0..4 {
        assert_eq!(client.send(GET).status, 200, "{number}");
    }
    let mut turns = 0..6;
    while !service.is_finished() && turns.next().is_some() {
        assert_eq!(client.send("GET /open/fatal HTTP/1.1\r\nhost: gw.test\r\n\r\n").status, 200);
    }
    assert!(service.join().expect("it has died").contains("/fatal"));
}

/// What may not be sent to a second target is not, either, where the first one dies of it on a connection that was pooled.
#[test]
fn without_retries_what_a_target_has_seen_goes_to_no_other_one() {
    let (mortal, service) = mortal();
    let other = Service::start();
    let targets = [format!("\"http://{mortal}\""), format!("\"http://{}\"", other.address())];
    let yaml = yaml(std::slice::from_ref(&other), &targets, "balance: round_robin, retries: 0");
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    assert_eq!([client.send(GET).status, client.send(GET).status], [200, 200], "both have a connection");
    let before = other.requests();
    let answers = [client.send(GET), client.send(GET)];
    assert!(answers.iter().all(|answer| answer.status == 200) && other.requests() == before + 1);
    let fatal = |number: usize| format!("GET /open/kills/{number} HTTP/1.1\r\nhost: gw.test\r\n\r\n");
    let answers: Vec<u16> = (0..2).map(|number| client.send(fatal(number)).status).collect();
    let seen = service.join().expect("it has died");
    assert_eq!(answers, [502, 502], "both die of it");
    let others: Vec<String> = other.upstream.seen().iter().map(|seen| seen.line().to_owned()).collect();
    let line = seen.lines().next().expect("a line");
    assert!(others.iter().all(|other| other != line), "{line} was seen twice: {others:?}");
}

#[test]
fn a_target_has_no_more_requests_at_one_time_than_it_may_have() {
    let services = [Service::start(), Service::start()];
    services[0].becomes(SILENT);
    let gateway = gateway(&services, "max_requests: 2, timeout: 20s");
    let mut held = Vec::new();
    while services[0].requests() < 2 {
        let mut client = gateway.client();
        client.write(GET);
        held.push(client);
        until("it has arrived", || services.iter().map(Service::requests).sum::<usize>() == held.len());
    }
    let before = services[0].requests();
    assert_eq!(load(&gateway, 1, 20, GET), 0, "the other one takes them");
    assert_eq!(services[0].requests(), before);
}

#[test]
fn how_a_target_is_doing_outlasts_a_configuration() {
    let services = [Service::start(), Service::start()];
    let gateway = gateway(&services, "retries: 0, ejection: { failures: 2, time: 1m }");
    services[1].becomes(RESETS);
    assert_eq!(load(&gateway, 1, 20, POST), 2);
    let file = gateway.folder().join("gateway.yaml");
    let yaml = std::fs::read_to_string(&file).expect("a file").replace("retries: 0", "retries: 0, keep_alive: 3s");
    std::fs::write(&file, yaml).expect("a file");
    until("it is taken", || gateway.metric("config_generation") == 2.0);
    assert_eq!(gateway.metric(&target("target_up", &services[1])), 0.0);
    assert_eq!(load(&gateway, 1, 20, POST), 0);
}

/// Faults of clients are not those of targets, and bodies that never end keep out nobody who has none.
#[test]
fn clients_that_are_slow_or_leave_neither_eject_a_target_nor_fill_it() {
    let services = [Service::start(), Service::start()];
    let gateway = gateway(&services, "max_requests: 2, retries: 0, ejection: { failures: 2, time: 1m }");
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.client();
            client.write("POST /open/slow HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 100\r\n\r\nx");
            client
        })
        .collect();
    let under_way =
        || -> f64 { services.iter().map(|service| gateway.metric(&target("target_requests", service))).sum() };
    until("as many as may be are under way", || under_way() == 4.0);
    assert_eq!(load(&gateway, 2, 20, GET), 0);
    drop(slow);
    until("they are gone", || under_way() == 0.0);
    for service in &services {
        assert_eq!(gateway.metric(&target("target_up", service)), 1.0);
    }
    // A route's own limit, shorter than the upstream's, says nothing of the target either.
    let services = [Service::start(), Service::start()];
    let targets: Vec<String> = services.iter().map(|service| format!("\"http://{}\"", service.address())).collect();
    let hasty = r#"{ id: hasty, match: { path: "/hasty" }, upstream: echo, access: public, limits: { request_timeout: 100ms } }"#;
    let yaml = yaml(&services, &targets, "retries: 0, ejection: { failures: 2, time: 1m }");
    let gateway = Gateway::start(&yaml.replacen("  - { id: open", &format!("  - {hasty}\n  - {{ id: open"), 1));
    services.iter().for_each(|service| service.becomes(SILENT));
    let answers: Vec<u16> = (0..8).map(|_| gateway.get("/hasty", None).status).collect();
    assert_eq!(answers, [504; 8]);
    for service in &services {
        assert_eq!(gateway.metric(&target("target_up", service)), 1.0);
    }
}

/// A target that takes the beginning of every body and resets.
#[test]
fn a_target_that_resets_while_it_is_written_to_is_passed_over() {
    let good = Service::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _begun = stream.read(&mut [0; 512]);
            // Closed with bytes unread: a reset (RFC 9293 §3.6.1).
            drop(stream);
        }
    });
    let targets = [format!("\"http://{}\"", good.address()), format!("\"http://{address}\"")];
    let services = [good];
    let keys = "retries: 0, balance: round_robin, ejection: { failures: 2, time: 1m }";
    let gateway = Gateway::start(&yaml(&services, &targets, keys));
    let head = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\nconnection: close\r\ncontent-length: 900000\r\n\r\n";
    let request = format!("{head}{}", "x".repeat(900_000));
    let answers: Vec<u16> = (0..40).map(|_| gateway.send(&request).status).collect();
    let failed = answers.iter().filter(|status| **status != 200).count();
    assert!((1..=4).contains(&failed), "{answers:?}");
    assert!(answers.iter().rev().take(20).all(|status| *status == 200), "{answers:?}");
}

#[test]
fn requests_that_say_the_same_of_themselves_go_to_the_same_target_until_it_is_in_trouble() {
    let services = [Service::start(), Service::start(), Service::start()];
    let keys = "sticky: { header: X-Tenant }, ejection: { failures: 1, time: 1m }";
    let gateway = gateway(&services, keys);
    let asked = || -> Vec<usize> { services.iter().map(Service::requests).collect() };
    let ask = |tenant: &str| {
        let before = asked();
        for _ in 0..5 {
            let request = format!("GET /open/x HTTP/1.1\r\nhost: gw.test\r\nx-tenant: {tenant}\r\n\r\n");
            assert_eq!(gateway.send(request).status, 200);
        }
        let after = asked();
        let here: Vec<usize> = (0..3).filter(|place| after[*place] - before[*place] == 5).collect();
        assert_eq!(here.len(), 1, "{tenant}: {before:?} {after:?}");
        here[0]
    };
    let tenants: Vec<String> = (0..30).map(|number| format!("tenant-{number}")).collect();
    let places: Vec<usize> = tenants.iter().map(|tenant| ask(tenant)).collect();
    assert!((0..3).all(|place| places.contains(&place)), "{places:?}");
    // Another gateway comes to the same answer.
    let other = super::balancing::gateway(&services, keys);
    let before = asked();
    let request = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\nx-tenant: tenant-0\r\n\r\n";
    assert_eq!(other.send(request).status, 200);
    assert_eq!(asked()[places[0]], before[places[0]] + 1);
    // Who says nothing is balanced.
    let before = asked();
    assert_eq!(load(&gateway, 1, 30, GET), 0);
    assert!(asked().iter().zip(&before).all(|(after, before)| after > before));
    // Of one in trouble the others take over, and who was elsewhere stays there.
    services[places[0]].becomes(RESETS);
    assert_eq!(gateway.send(request).status, 200);
    for (tenant, place) in tenants.iter().zip(&places).filter(|(_, place)| **place != places[0]) {
        assert_eq!(ask(tenant), *place, "{tenant}");
    }
}

/// A route's own limit of the whole answer, shorter than the upstream's, says nothing of the target.
#[test]
fn a_short_limit_of_the_whole_answer_ejects_nobody() {
    let services = [Service::start()];
    let targets = [format!("\"http://{}\"", services[0].address())];
    let hasty = r#"{ id: hasty, match: { path: "/hasty" }, upstream: echo, access: public, limits: { answer_timeout: 100ms } }"#;
    let yaml = yaml(&services, &targets, "retries: 0, ejection: { failures: 2, time: 1m }");
    let gateway = Gateway::start(&yaml.replacen("  - { id: open", &format!("  - {hasty}\n  - {{ id: open"), 1));
    services[0].becomes(SILENT);
    let answers: Vec<u16> = (0..4).map(|_| gateway.get("/hasty", None).status).collect();
    assert_eq!(answers, [504; 4]);
    assert_eq!(gateway.metric(&target("target_up", &services[0])), 1.0);
}
