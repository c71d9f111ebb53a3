//! One stage of the way of a request, once, for `benches/instructions` to count under callgrind:
//! everything before `measured` is warm-up and is not counted.

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

#[allow(dead_code, reason = "shared with another benchmark; each uses its part")]
mod subject;

use std::process::ExitCode;

use self::subject::{Signed, Subject, Whole};

/// See `docs/decisions/0004-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What callgrind counts: this function and what it calls.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    std::hint::black_box(work)();
}

fn run(stage: &str) -> bool {
    let subject = |routes| {
        let subject = Subject::new(routes, Signed::Es256);
        // What is done for the first time is done once.
        (0..3).for_each(|_| drop(subject.write(&subject.decide(subject.arrived()))));
        subject
    };
    match stage {
        "admit, 10 routes" => {
            let subject = subject(10);
            measured(&mut || drop(subject.admit()));
        }
        "admit, 10,000 routes" => {
            let subject = subject(10_000);
            measured(&mut || drop(subject.admit()));
        }
        "identify, remembered token" => {
            let subject = subject(10);
            let mut admitted = Some(subject.admit());
            measured(&mut || drop(admitted.take().map(|admitted| subject.identify(admitted))));
        }
        "decide" => {
            let subject = subject(10);
            let mut arrived = Some(subject.arrived());
            measured(&mut || drop(arrived.take().map(|arrived| subject.decide(arrived))));
        }
        "write head" => {
            let subject = subject(10);
            let permit = subject.decide(subject.arrived());
            measured(&mut || drop(subject.write(&permit)));
        }
        "verify HS256" => {
            let subject = Subject::new(10, Signed::Hs256);
            drop(subject.verify());
            measured(&mut || drop(subject.verify()));
        }
        "a request with its client and upstream" => {
            let mut whole = Whole::new();
            measured(&mut || whole.exchange());
        }
        _ => return false,
    }
    true
}

fn main() -> ExitCode {
    // What cargo adds is passed over.
    let stage = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    // Without a stage there is nothing to count: this is `cargo test` or `cargo bench` for all.
    if stage.is_none_or(|stage| run(&stage)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
