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

mod field;
mod file;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use self::field::{Connection, Field, tokens};

const MAX_STALENESS: Duration = Duration::from_secs(1);
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

/// Ends the threads that look at it, when it goes.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
        return file::measure(options.revocations);
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
