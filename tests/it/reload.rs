//! Another configuration takes the place of the one before: all or nothing, and nobody notices but those
//! whom it concerns.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::gateway::{config, customer, get, token, with_store};
use crate::support::redis::Redis;
use crate::support::sign::{self, Claims};
use crate::support::{Client, Gateway, Upstream, until};

const MORE: &str = "  - { id: more, match: { path: \"/more/**\" }, upstream: echo, access: public }\n";

/// A gateway that reads its configuration again on HUP alone: each order has one outcome.
fn on_hup(yaml: &str) -> Gateway {
    Gateway::start_with(yaml, &["--no-watch"])
}

/// A good token of the HMAC issuer.
fn hmac() -> String {
    sign::hmac_as(sign::SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &Claims::of("https://hmac.test").json())
}

fn more(yaml: &str) -> String {
    format!("{yaml}{MORE}")
}

#[test]
fn hup_takes_another_file_and_keeps_the_connections() {
    let upstream = Upstream::echo();
    let first = config(upstream.address, "");
    let gateway = on_hup(&first);
    let mut client = gateway.client();
    assert_eq!(client.send(get("/more/x", None)).status, 404);
    assert!(gateway.reload(&more(&first)));
    // The same connection sees it with its next request.
    assert_eq!(client.send(get("/more/x", None)).status, 200);
    assert!(gateway.reload(&first.replace("roles: [customer, admin]", "roles: [admin]")));
    assert_eq!(client.send(get("/more/x", None)).status, 404);
    assert_eq!(client.send(get("/orders/1", Some(&customer()))).status, 403);
    assert_eq!(gateway.configurations(), (2, 0));
}

#[test]
fn a_request_ends_as_it_began_whatever_takes_its_place_meanwhile() {
    let go_on = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&go_on);
    let upstream = Upstream::scripted(move |seen, stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha"));
        while seen.line().contains("slow") && !flag.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(b"lf").is_ok()
    });
    let gateway = on_hup(&config(upstream.address, ""));
    let (mut open, mut known) = (gateway.client(), gateway.client());
    open.write(get("/open/slow", None));
    known.write(get("/me/slow", Some(&customer())));
    until("both are under way", || upstream.seen().len() == 2);
    let other = Upstream::echo();
    let routes = "  - { id: other, match: { path: \"/other\" }, upstream: echo, access: public }";
    assert!(gateway.reload(&config(other.address, routes)));
    go_on.store(true, Ordering::SeqCst);
    assert_eq!((open.read().text().as_str(), known.read().text().as_str()), ("half", "half"));
    assert_eq!(open.send(get("/open/x", None)).status, 404);
    assert_eq!(open.send(get("/other", None)).status, 200);
}

#[test]
fn a_file_that_changes_in_any_way_is_taken_without_being_asked() {
    let upstream = Upstream::echo();
    let first = config(upstream.address, "");
    let gateway = Gateway::start(&first);
    let file = gateway.folder().join("gateway.yaml");
    let expect = |what: &str, status: u16| {
        until(what, || gateway.get("/more/x", None).status == status);
    };
    // As a text editor does that writes in place.
    std::fs::write(&file, more(&first)).expect("written");
    expect("a write in place", 200);
    // As one does that writes beside and renames.
    std::fs::write(file.with_extension("tmp"), &first).expect("written");
    std::fs::rename(file.with_extension("tmp"), &file).expect("renamed");
    expect("a rename", 404);
    // As Kubernetes mounts a map: a link to a link to a folder that is swapped as a whole.
    let mount = |name: &str, text: &str| {
        let folder = gateway.folder().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("gateway.yaml"), text).expect("written");
    };
    let link = |to: &Path, at: &str| {
        let beside = gateway.folder().join("link");
        std::os::unix::fs::symlink(to, &beside).expect("a link");
        std::fs::rename(&beside, gateway.folder().join(at)).expect("renamed");
    };
    mount("..1", &more(&first));
    link(Path::new("..1"), "..data");
    link(Path::new("..data/gateway.yaml"), "gateway.yaml");
    expect("a link", 200);
    mount("..2", &first);
    link(Path::new("..2"), "..data");
    expect("a swapped folder", 404);
    assert_eq!(gateway.configurations(), (4, 0));
}

#[test]
fn a_key_file_that_changes_is_taken_without_being_asked() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let old = hmac();
    assert_eq!(gateway.get("/me/x", Some(&old)).status, 200);
    std::fs::write(gateway.folder().join("hmac.secret"), "another-secret-of-more-than-thirty-two-bytes")
        .expect("written");
    until("the old secret is not taken any more", || gateway.get("/me/x", Some(&old)).status == 401);
    assert_eq!(gateway.get("/me/x", Some(&customer())).status, 200, "other issuers' tokens are");
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    let upstream = Upstream::echo();
    let good = config(upstream.address, "");
    let gateway = on_hup(&good);
    let token = customer();
    for (bad, says) in [
        ("version: 1\nlisteners: [", "gateway.yaml:"),
        ("", "gateway.yaml:"),
        (&good.replace("upstream: echo, access: public", "upstream: ecko, access: public"), "did you mean `echo`?"),
        (&more(&good.replace("id: open", "id: more")), "another route is called `more` too"),
        (&good.replace("jwks_file: rsa.jwks.json", "jwks_file: missing.json"), "there is no such file"),
        (&more(&good).replace("rsa.jwks.json", "hmac.secret"), "hmac.secret"),
        (&more(&good).replace("realm: test", "realm: 'test\""), "gateway.yaml:"),
        (&more(&good)[..good.len() / 2], "gateway.yaml:"),
        (&more(&good).replace("127.0.0.1:0\" }]", "203.0.113.1:81\" }]"), "cannot be opened"),
    ] {
        let (_, refused) = gateway.configurations();
        assert!(!gateway.reload(bad), "{says}: {bad}");
        let lines =
            || gateway.lines().into_iter().filter(|line| line.contains("configuration refused")).collect::<Vec<_>>();
        until("it is logged", || lines().len() as u64 == refused + 1);
        assert!(lines().last().is_some_and(|line| line.contains(says)), "{says}: {:?}", lines().last());
        let statuses = ["/open/x", "/me/x", "/more/x"].map(|path| gateway.get(path, Some(&token)).status);
        assert_eq!(statuses, [200, 200, 404], "{says}");
    }
    assert_eq!(gateway.configurations(), (0, 9));
    // What was opened before something failed is closed again.
    let sockets = || std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).expect("a process").count();
    let bad = more(&good)
        .replace("127.0.0.1:0\" }]", "127.0.0.1:0\" }, { address: \"127.0.0.2:0\" }, { address: \"203.0.113.1:81\" }]");
    let before = sockets();
    (0..10).for_each(|_| assert!(!gateway.reload(&bad)));
    assert!(sockets() < before + 10, "{before} before, {} now", sockets());
    assert!(gateway.reload(&more(&good)), "a good one after that is taken");
    assert_eq!(gateway.get("/more/x", None).status, 200);
}

/// Sends requests until it is told to end; how many, and what was wrong with one.
fn hammer(
    address: SocketAddr,
    is_over: &AtomicBool,
    check: impl Fn(&mut Client) -> Option<String>,
) -> (usize, Option<String>) {
    let mut client = Client::connect(address);
    let mut sent = 0;
    while !is_over.load(Ordering::SeqCst) {
        if let Some(fault) = check(&mut client) {
            return (sent, Some(fault));
        }
        sent += 1;
    }
    (sent, None)
}

#[test]
fn hundreds_of_reloads_under_load_fail_no_request_and_mix_no_decision() {
    let redis = Redis::start();
    let (left, right) = (Upstream::echo(), Upstream::echo());
    // What differs: the service, the header with the identity, and who may.
    let side = |upstream: &Upstream, header: &str, role: &str| {
        let yaml = with_store(upstream.address, &redis.url(), "", "");
        yaml.replace("X-User-Id: sub", &format!("X-{header}: sub")).replace("[customer, admin]", &format!("[{role}]"))
    };
    let (one, two) = (side(&left, "Left", "left"), side(&right, "Right", "right"));
    let gateway = on_hup(&one);
    let token = token(&json!({ "roles": ["left"] }));
    until("the store is reached", || gateway.get("/me/x", Some(&token)).status == 200);
    let (is_over, mixed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let check = |path: &'static str| {
            let (token, mixed) = (&token, &mixed);
            move |client: &mut Client| {
                client.try_write(get(path, Some(token)));
                let Some(answer) = client.try_read(false) else { return Some("no answer".to_owned()) };
                let text = answer.text();
                let is_left = text.contains("x-left: ") && !text.contains("x-right: ");
                let is_right = text.contains("x-right: ") && !text.contains("x-left: ");
                mixed.fetch_add(usize::from(is_right), Ordering::Relaxed);
                match (path, answer.status) {
                    // The role is the left one's: on the right it is refused, and never sent on.
                    ("/orders/1", 403) => None,
                    ("/orders/1", 200) if is_left => None,
                    ("/me/x", 200) if is_left || is_right => None,
                    (_, status) => Some(format!("{path}: {status} {text}")),
                }
            }
        };
        let clients = ["/me/x", "/orders/1", "/me/x"].map(|path| {
            let (address, check, is_over) = (gateway.address, check(path), &is_over);
            scope.spawn(move || hammer(address, is_over, check))
        });
        for turn in 0..200 {
            let yaml = if turn % 2 == 0 { &two } else { &one };
            if turn % 10 == 9 {
                assert!(!gateway.reload(&yaml.replace("upstream: echo", "upstream: none")));
            } else {
                assert!(gateway.reload(yaml));
            }
        }
        is_over.store(true, Ordering::SeqCst);
        for client in clients {
            let (sent, fault) = client.join().expect("a thread");
            assert_eq!(fault, None, "after {sent}");
            assert!(sent > 50, "{sent}");
        }
    });
    assert!(mixed.load(Ordering::Relaxed) > 0, "both sides were seen");
    // Each service got only what its own configuration sends.
    assert!(left.seen().iter().all(|seen| seen.value("x-right").is_none()));
    assert!(right.seen().iter().all(|seen| seen.value("x-left").is_none() && !seen.line().contains("/orders")));
    assert_eq!(gateway.configurations(), (180, 20));
    // The store was never left: one tracking connection from the first to the last.
    assert_eq!(gateway.metric("revocation_connections_total").to_bits(), 1.0_f64.to_bits());
}

#[test]
fn what_was_taken_back_stays_taken_back() {
    let upstream = Upstream::echo();
    let first = config(upstream.address, "");
    let gateway = on_hup(&first);
    let (good, bad) = (token(&json!({ "jti": "good" })), token(&json!({ "jti": "bad" })));
    let body = json!({ "jti": "bad" }).to_string();
    assert_eq!(gateway.admin("POST", "/revocations", &body).status, 200);
    for turn in 0..5 {
        let statuses = [&good, &bad].map(|token| gateway.get("/me/x", Some(token)).status);
        assert_eq!(statuses, [200, 401], "turn {turn}");
        assert!(gateway.reload(&if turn % 2 == 0 { more(&first) } else { first.clone() }));
    }
}

#[test]
fn another_store_is_reached_before_requests_see_it() {
    let upstream = Upstream::echo();
    let (one, two) = (Redis::start(), Redis::start());
    let yaml = |redis: &Redis| with_store(upstream.address, &redis.url(), "", "");
    let gateway = on_hup(&yaml(&one));
    let token = token(&json!({ "jti": "x" }));
    until("the store is reached", || gateway.get("/me/x", Some(&token)).status == 200);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let token = &token;
        let check = move |client: &mut Client| {
            client.try_write(get("/me/x", Some(token)));
            let status = client.try_read(false).map(|answer| answer.status);
            (status != Some(200)).then(|| format!("{status:?}"))
        };
        let address = gateway.address;
        let over = &is_over;
        let client = scope.spawn(move || hammer(address, over, check));
        for turn in 0..10 {
            assert!(gateway.reload(&yaml(if turn % 2 == 0 { &two } else { &one })));
        }
        is_over.store(true, Ordering::SeqCst);
        let (sent, fault) = client.join().expect("a thread");
        assert_eq!(fault, None, "after {sent}");
    });
    // The last one is asked, and it alone.
    two.command(&["SET", "blacklist:x", "1"]);
    assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    one.command(&["SET", "blacklist:x", "1"]);
    until("it is refused", || gateway.get("/me/x", Some(&token)).status == 401);
}

#[test]
fn an_issuer_that_is_gone_takes_its_tokens_and_their_streams_with_it() {
    let upstream = Upstream::scripted(|_, stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"));
        std::thread::sleep(Duration::from_secs(30));
        false
    });
    let first = config(upstream.address, "");
    let gateway = on_hup(&first);
    let gone = hmac();
    let stays = customer();
    let (mut ends, mut lasts) = (gateway.client(), gateway.client());
    ends.write(get("/me/x", Some(&gone)));
    lasts.write(get("/me/x", Some(&stays)));
    assert_eq!((ends.read_to_head().status, lasts.read_to_head().status), (200, 200));
    let without: Vec<&str> = first.lines().filter(|line| !line.contains("hmac:")).collect();
    assert!(gateway.reload(&without.join("\n").replace("auth: [rsa, ec, hmac]", "auth: [rsa, ec]")));
    assert_eq!(gateway.get("/me/x", Some(&gone)).status, 401);
    ends.hear("2\r\nhi\r\n");
    assert!(ends.is_closed(), "its stream ends");
    lasts.hear("2\r\nhi\r\n");
    lasts.stream.set_read_timeout(Some(Duration::from_millis(1500))).expect("a limit");
    assert!(!lasts.is_closed(), "the other goes on");
}

#[test]
fn listeners_come_and_go_and_the_others_stay() {
    let upstream = Upstream::echo();
    let first = config(upstream.address, "");
    let gateway = on_hup(&first);
    let stays = gateway.address;
    let two = first.replace("\"127.0.0.1:0\" }]", "\"127.0.0.1:0\" }, { address: \"127.0.0.1:0\" }]");
    let mut kept = gateway.client();
    assert_eq!(kept.send(get("/open/x", None)).status, 200);
    assert!(gateway.reload(&two));
    until("the log says where", || gateway.listening().len() == 3);
    let listening = gateway.listening();
    let [_, again, comes] = listening[..] else { panic!("{listening:?}") };
    assert!(again == stays && comes != stays);
    let mut new = Client::connect(comes);
    assert_eq!(new.send(get("/open/x", None)).status, 200);
    assert!(gateway.reload(&first));
    assert!(new.is_closed(), "a connection that waits on a listener that is gone is closed");
    until("nobody listens", || Client::try_connect(comes).is_none());
    assert_eq!(kept.send(get("/open/x", None)).status, 200);
    // Limits and trusted proxies are those of the present too, on connections of before.
    let trusting = format!("trusted_proxies: [127.0.0.1]\n{first}");
    let asked = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\nx-forwarded-for: 192.0.2.7\r\n\r\n";
    kept.send(asked);
    assert_eq!(upstream.last().value("x-forwarded-for"), Some("127.0.0.1"));
    assert!(gateway.reload(&trusting.replace("[127.0.0.1]", "[127.0.0.1/32]")));
    kept.send(asked);
    assert_eq!(upstream.last().value("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert!(gateway.reload(&first));
    kept.send(asked);
    assert_eq!(upstream.last().value("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn no_number_falls_back_when_a_configuration_is_taken() {
    let upstream = Upstream::echo();
    let first = config(upstream.address, "");
    let gateway = on_hup(&first);
    let requests = || {
        let page = gateway.admin("GET", "/metrics", "").text();
        let line = "bearward_requests_total{route=\"open\",code=\"2xx\"} ";
        page.lines().find_map(|found| found.strip_prefix(line)?.parse::<u64>().ok()).unwrap_or(0)
    };
    for turn in 1..5 {
        assert_eq!(gateway.get("/open/x", None).status, 200);
        until("it is counted", || requests() == turn);
        // Its place among the routes is another one.
        let other = first.replace("routes:\n", &format!("routes:\n{MORE}"));
        assert!(gateway.reload(if turn % 2 == 0 { &first } else { &other }));
        assert_eq!(requests(), turn);
    }
    assert!(gateway.metric("connections_total") >= 4.0);
}

// A file that is refused for what it names is taken once that is there, as one is that changes.
#[test]
fn what_a_refused_file_lacked_may_come_later() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, "");
    let gateway = Gateway::start(&yaml);
    let late = yaml.replace("rsa.jwks.json", "late.jwks.json");
    assert_ne!(late, yaml);
    std::fs::write(gateway.folder().join("gateway.yaml"), more(&late)).expect("a file");
    until("it is refused", || gateway.lines().iter().any(|line| line.contains("late.jwks.json")));
    assert_eq!(gateway.get("/more/x", None).status, 404);
    let keys = std::fs::read(gateway.folder().join("rsa.jwks.json")).expect("a file");
    // The time that it has: an older file that is moved there.
    std::fs::write(gateway.folder().join("late.jwks.json"), keys).expect("a file");
    until("it is taken", || gateway.get("/more/x", None).status == 200);
    assert_eq!(gateway.configurations(), (1, 1), "it is told once that it was refused");
}
