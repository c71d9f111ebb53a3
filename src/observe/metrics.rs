//! What happened becomes numbers: plain counters of one worker each, summed when they are read.
//!
//! Labels are route ids and denial labels alone, both fixed by configuration and code: nothing that
//! a client sends becomes a label, so no client can make a metric grow.

use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;
use crate::denial::Denial;
use crate::forward::health::{Numbers, Standing};
use crate::forward::{ForwardError, Upstream};
use crate::refusal::Refusal;

/// Upper bounds of the duration buckets, in microseconds.
const BOUNDS: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000];

/// The counters of one worker. Only that worker writes them, so a load and a store make an addition.
#[derive(Debug)]
pub struct Counters {
    routes: Vec<Arc<RouteCounters>>,
    /// Those of requests that reached no route.
    nowhere: Arc<RouteCounters>,
    all: Arc<Totals>,
}

/// What is counted whatever the routes are.
#[derive(Debug)]
struct Totals {
    denials: [AtomicU64; Denial::COUNT],
    failures: [AtomicU64; ForwardError::LABELS.len()],
    heads: [AtomicU64; HeadFault::LABELS.len()],
    connections: AtomicU64,
    connections_closed: AtomicU64,
    connections_refused: AtomicU64,
    connections_parked: AtomicU64,
    connections_resumed: AtomicU64,
}

/// The counters of one route.
#[derive(Debug, Default)]
struct RouteCounters {
    id: Arc<str>,
    by_class: [AtomicU64; 6],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// Why a head never became a request: the connection was answered in one line and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// It does not parse: 400.
    Malformed,
    /// It has more bytes or fields than are parsed at all: 414 or 431.
    TooLarge,
    /// It took longer than `header_timeout`: 408.
    TooSlow,
    /// Plain HTTP where TLS is spoken: 400.
    PlainHttp,
    /// There was no TLS to carry it: closed.
    Handshake,
    /// More frames of HTTP/2 that bring nothing than a client may send: GOAWAY.
    Flood,
    /// No header of the PROXY protocol, where one has to come first: closed.
    ProxyHeader,
}

/// A worker's own hold on its counters: who else of it holds them, each request does, is counted without an atomic.
#[allow(clippy::redundant_allocation, reason = "one of a worker, and not of a request")]
pub type OwnCounters = Rc<Arc<Counters>>;

impl HeadFault {
    /// All labels, in the order of the variants.
    pub const LABELS: [&'static str; 7] =
        ["malformed_head", "head_too_large", "head_timeout", "plain_http", "tls_handshake", "flood", "proxy_header"];

    const fn number(self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::TooLarge => 1,
            Self::TooSlow => 2,
            Self::PlainHttp => 3,
            Self::Handshake => 4,
            Self::Flood => 5,
            Self::ProxyHeader => 6,
        }
    }

    /// Stable snake_case name for logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        Self::LABELS.get(self.number()).copied().unwrap_or("unknown")
    }
}

impl Counters {
    /// Counters for routes with these ids, in their order.
    #[must_use]
    pub fn new<'r>(ids: impl Iterator<Item = &'r Arc<str>>) -> Self {
        Self {
            routes: ids.map(RouteCounters::of).collect(),
            nowhere: Arc::default(),
            all: Arc::new(Totals {
                denials: [const { AtomicU64::new(0) }; Denial::COUNT],
                failures: [const { AtomicU64::new(0) }; ForwardError::LABELS.len()],
                heads: [const { AtomicU64::new(0) }; HeadFault::LABELS.len()],
                connections: AtomicU64::new(0),
                connections_closed: AtomicU64::new(0),
                connections_refused: AtomicU64::new(0),
                connections_parked: AtomicU64::new(0),
                connections_resumed: AtomicU64::new(0),
            }),
        }
    }

    /// Counters for the routes that come after these: whose id stays goes on counting, so that no
    /// number falls back when a configuration is read again.
    #[must_use]
    pub fn succeeded_by<'r>(&self, ids: impl Iterator<Item = &'r Arc<str>>) -> Self {
        let known: HashMap<&str, &Arc<RouteCounters>> = self.routes.iter().map(|route| (&*route.id, route)).collect();
        let routes = ids.map(|id| known.get(&**id).map_or_else(|| RouteCounters::of(id), |route| Arc::clone(route)));
        Self { routes: routes.collect(), nowhere: Arc::clone(&self.nowhere), all: Arc::clone(&self.all) }
    }

    /// Counts one answered request; `route` is its number, `None` where it reached none.
    pub fn answered(&self, route: Option<usize>, status: u16, duration: Duration) {
        let route = self.route(route.unwrap_or(usize::MAX));
        add(route.by_class.get(usize::from(status / 100)), 1);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        add(route.buckets.get(bucket), 1);
        add(Some(&route.micros), micros);
    }

    /// The id of a route by its number.
    #[must_use]
    pub fn id_of(&self, number: usize) -> Option<&str> {
        self.routes.get(number).map(|route| &*route.id)
    }

    /// The counters of a route by its number; past the last one those of no route.
    fn route(&self, number: usize) -> &RouteCounters {
        self.routes.get(number).unwrap_or(&self.nowhere)
    }

    /// Counts one refusal.
    pub fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Denied(denial) => add(self.all.denials.get(denial.number()), 1),
            Refusal::Failed(error) => add(self.all.failures.get(error.number()), 1),
        }
    }

    /// Counts a head that never became a request.
    pub fn head_refused(&self, fault: HeadFault) {
        add(self.all.heads.get(fault.number()), 1);
    }

    /// Counts a connection that was taken.
    pub fn connection_opened(&self) {
        add(Some(&self.all.connections), 1);
    }

    /// Counts a connection that ended.
    pub fn connection_closed(&self) {
        add(Some(&self.all.connections_closed), 1);
    }

    /// Counts a connection that gave its buffers back while it waits.
    pub fn connection_parked(&self) {
        add(Some(&self.all.connections_parked), 1);
    }

    /// Counts a parked connection that goes on, or ends.
    pub fn connection_resumed(&self) {
        add(Some(&self.all.connections_resumed), 1);
    }

    /// Counts a connection that was over the limit.
    pub fn connection_refused(&self) {
        add(Some(&self.all.connections_refused), 1);
    }
}

impl RouteCounters {
    fn of(id: &Arc<str>) -> Arc<Self> {
        Arc::new(Self { id: Arc::clone(id), ..Self::default() })
    }
}

// Why: one writer, so no lost update; a locked instruction per counter would cost more than the sum.
fn add(counter: Option<&AtomicU64>, amount: u64) {
    if let Some(counter) = counter {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
}

/// One number that is not a worker's.
#[derive(Debug)]
pub struct Gauge {
    /// The metric's name, without the prefix.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its value now.
    pub value: f64,
}

/// The page in Prometheus text format (0.0.4).
#[must_use]
pub fn page(workers: &[Arc<Counters>], gauges: &[Gauge], upstreams: &[Arc<Upstream>]) -> String {
    let mut page = Page(String::new());
    let routes = workers.first().map_or(&[][..], |worker| &worker.routes);
    let names: Vec<&str> = routes.iter().map(|route| &*route.id).chain(std::iter::once("")).collect();
    let total = |pick: &dyn Fn(&Counters) -> Option<&AtomicU64>| -> u64 {
        workers.iter().filter_map(|worker| pick(worker)).map(|counter| counter.load(Ordering::Relaxed)).sum()
    };
    page.head("requests_total", "counter", "Requests answered, by route and class of status.");
    for (number, name) in names.iter().enumerate() {
        for class in 1..6 {
            let count = total(&|worker| worker.route(number).by_class.get(class));
            if count > 0 {
                page.line("requests_total", &format!("route=\"{name}\",code=\"{class}xx\""), count);
            }
        }
    }
    page.head(
        "request_duration_seconds",
        "histogram",
        "From the head of a request to the end of its answer, by route.",
    );
    for (number, name) in names.iter().enumerate() {
        page.histogram(
            name,
            &|bucket| total(&|worker| worker.route(number).buckets.get(bucket)),
            total(&|worker| Some(&worker.route(number).micros)),
        );
    }
    page.head("denials_total", "counter", "Requests that were not permitted, by reason.");
    for (number, label) in Denial::LABELS.iter().enumerate() {
        page.line("denials_total", &format!("reason=\"{label}\""), total(&|worker| worker.all.denials.get(number)));
    }
    page.head("forward_errors_total", "counter", "Permitted requests that got no answer, by what went wrong.");
    for (number, label) in ForwardError::LABELS.iter().enumerate() {
        page.line(
            "forward_errors_total",
            &format!("reason=\"{label}\""),
            total(&|worker| worker.all.failures.get(number)),
        );
    }
    page.head("heads_refused_total", "counter", "Heads that never became requests, by reason.");
    for (number, label) in HeadFault::LABELS.iter().enumerate() {
        page.line("heads_refused_total", &format!("reason=\"{label}\""), total(&|worker| worker.all.heads.get(number)));
    }
    let opened = total(&|worker| Some(&worker.all.connections));
    page.head("connections_total", "counter", "Client connections taken.");
    page.line("connections_total", "", opened);
    page.head("connections_refused_total", "counter", "Client connections closed at once, being over the limit.");
    page.line("connections_refused_total", "", total(&|worker| Some(&worker.all.connections_refused)));
    page.head("connections", "gauge", "Client connections open now.");
    page.line("connections", "", opened.saturating_sub(total(&|worker| Some(&worker.all.connections_closed))));
    let parked = total(&|worker| Some(&worker.all.connections_parked));
    page.head("connections_parked", "gauge", "Of those, the ones that wait and hold no buffers.");
    page.line("connections_parked", "", parked.saturating_sub(total(&|worker| Some(&worker.all.connections_resumed))));
    page.targets(upstreams);
    for gauge in gauges {
        page.head(gauge.name, if gauge.name.ends_with("_total") { "counter" } else { "gauge" }, gauge.help);
        page.line(gauge.name, "", gauge.value);
    }
    page.0
}

struct Page(String);

impl Page {
    // Writing to a String cannot fail.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP bearward_{name} {help}\n# TYPE bearward_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "bearward_{name} {value}")
        } else {
            writeln!(self.0, "bearward_{name}{{{labels}}} {value}")
        };
    }

    fn targets(&mut self, upstreams: &[Arc<Upstream>]) {
        let targets: Vec<(String, Numbers, Standing)> = upstreams
            .iter()
            .flat_map(|upstream| upstream.targets.iter().map(move |target| (upstream, target)))
            .map(|(upstream, target)| {
                let labels = format!("upstream=\"{}\",target=\"{}\"", upstream.name.escape_debug(), target.address);
                (labels, target.health.numbers(), target.health.standing(clock::monotonic()))
            })
            .collect();
        self.head("target_requests", "gauge", "Requests under way at a target.");
        for (labels, numbers, _) in &targets {
            self.line("target_requests", labels, numbers.requests);
        }
        self.head("target_up", "gauge", "Whether a target gets requests (1), or is down or passed over (0).");
        for (labels, _, standing) in &targets {
            self.line("target_up", labels, u8::from(matches!(standing, Standing::Open | Standing::Trial)));
        }
        self.head(
            "target_ejections_total",
            "counter",
            "How often a target was passed over, having given no usable answers.",
        );
        for (labels, numbers, _) in &targets {
            self.line("target_ejections_total", labels, numbers.ejections);
        }
        self.head(
            "target_retries_total",
            "counter",
            "Requests that failed at a target and were sent again, to it or to another one.",
        );
        for (labels, numbers, _) in &targets {
            self.line("target_retries_total", labels, numbers.retries);
        }
    }

    fn histogram(&mut self, route: &str, count: &dyn Fn(usize) -> u64, micros: u64) {
        let counts: Vec<u64> = (0..=BOUNDS.len()).map(count).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return;
        }
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(&counts) {
            below += count;
            let bound = seconds(*bound);
            self.line("request_duration_seconds_bucket", &format!("route=\"{route}\",le=\"{bound}\""), below);
        }
        self.line("request_duration_seconds_bucket", &format!("route=\"{route}\",le=\"+Inf\""), all);
        self.line("request_duration_seconds_sum", &format!("route=\"{route}\""), seconds(micros));
        self.line("request_duration_seconds_count", &format!("route=\"{route}\""), all);
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
