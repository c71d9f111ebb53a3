//! How long the way of a request takes, stage by stage: `cargo bench --bench request`.
//!
//! Wall-clock times, so only as good as the machine is quiet; `instructions` counts instead. Without
//! a log: a line for each request would stand between the figures.

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

mod subject;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use self::subject::{Signed, Subject, Whole};

/// See `docs/decisions/0004-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn stages(criterion: &mut Criterion) {
    let (subject, large) = (Subject::new(10, Signed::Es256), Subject::new(10_000, Signed::Es256));
    criterion.bench_function("admit, 10 routes", |bench| bench.iter(|| black_box(subject.admit())));
    criterion.bench_function("admit, 10,000 routes", |bench| bench.iter(|| black_box(large.admit())));
    for (name, signed) in
        [("verify HS256", Signed::Hs256), ("verify RS256", Signed::Rs256), ("verify ES256", Signed::Es256)]
    {
        let subject = Subject::new(10, signed);
        criterion.bench_function(name, |bench| bench.iter(|| black_box(subject.verify())));
    }
    criterion.bench_function("identify, remembered token", |bench| {
        bench.iter_batched(|| subject.admit(), |admitted| subject.identify(admitted), BatchSize::SmallInput);
    });
    criterion.bench_function("decide", |bench| {
        bench.iter_batched(|| subject.arrived(), |arrived| subject.decide(arrived), BatchSize::SmallInput);
    });
    let permit = subject.decide(subject.arrived());
    criterion.bench_function("write head", |bench| bench.iter(|| black_box(subject.write(&permit))));
}

fn whole(criterion: &mut Criterion) {
    let mut whole = Whole::new();
    criterion.bench_function("a request with its client and upstream", |bench| bench.iter(|| whole.exchange()));
}

criterion_group!(benches, stages, whole);
criterion_main!(benches);
