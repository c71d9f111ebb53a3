//! A connection becomes requests.
//!
//! 1. One worker a core: a `current_thread` runtime with a listener of its own (`SO_REUSEPORT`), so
//!    that the kernel spreads connections and no request crosses a thread.
//! 2. Connections over the limit are closed at once; an accept that fails (no file descriptor left)
//!    pauses and does not spin.
//! 3. Draining: no new connections, those that wait are closed, requests under way are answered,
//!    for at most `drain_timeout`.
//!
//! What it does not do: look at what a request says (`admit`).

pub mod connection;
pub mod guard;
mod listen;
mod peer;
pub mod phase;
pub mod tls;
mod watched;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

pub use self::peer::Peer;
pub use self::phase::Busy;
use self::phase::Watch;
use self::tls::Tls;
use crate::clock;
use crate::forward::Connections;
use crate::gateway::{Gateway, Worker};
use crate::observe::metrics::Counters;
use crate::store::Asker;

/// How often a worker looks at its time limits.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many of those looks pass before it looks after idle connections.
const SWEEP_EVERY: u32 = 5;
/// The same while draining, which looks every 5 ms.
const DRAINING_LOOKS: u32 = 50;
/// How long an accept that failed is not tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How much and how long, for connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most client connections at one time, of all workers together.
    pub connections: usize,
    /// Largest request head that is parsed at all; `admit` has the finer limits.
    pub head: usize,
    /// From a head's first byte to its last; also from connecting to the first head's end.
    pub header_timeout: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub keep_alive_timeout: Duration,
    /// From the order to drain to closing what is still open.
    pub drain_timeout: Duration,
}

/// Where clients connect, and how.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Nothing where it speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

/// A worker's socket on a listener.
type Socket = (TcpListener, Option<Arc<Tls>>);

/// The workers of a process.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    addresses: Vec<SocketAddr>,
    drain: watch::Sender<bool>,
}

impl Workers {
    /// Opens the listeners and starts `count` workers on them.
    ///
    /// # Errors
    /// When an address cannot be listened on, or a thread cannot be started.
    pub fn start(gateway: &Arc<Gateway>, listeners: &[Listener], limits: Limits, count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let mut sockets: Vec<Vec<Socket>> = (0..count).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for Listener { address, tls } in listeners {
            let opened = listen::open(*address, count)?;
            addresses.extend(opened.first().map(TcpListener::local_addr).transpose()?);
            sockets.iter_mut().zip(opened).for_each(|(worker, socket)| worker.push((socket, tls.clone())));
        }
        let (drain, draining) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        let mut workers = Self { threads: Vec::new(), counters: Vec::new(), addresses, drain };
        for (number, sockets) in sockets.into_iter().enumerate() {
            let counters = Arc::new(Counters::new(gateway.routes.all().len()));
            workers.counters.push(Arc::clone(&counters));
            let seat = Seat {
                gateway: Arc::clone(gateway),
                counters,
                limits,
                open: Arc::clone(&open),
                draining: draining.clone(),
            };
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            workers.threads.push(thread.spawn(move || seat.run(sockets))?);
        }
        Ok(workers)
    }

    /// Where the listeners are, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The counters of every worker.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Drains every worker and waits until they have ended; not for an async thread.
    pub fn drain(self) {
        self.drain.send_replace(true);
        for thread in self.threads {
            // A worker that panicked has logged it and has nothing left to drain.
            drop(thread.join());
        }
    }
}

/// What a worker's thread starts with.
struct Seat {
    gateway: Arc<Gateway>,
    counters: Arc<Counters>,
    limits: Limits,
    open: Arc<AtomicUsize>,
    draining: watch::Receiver<bool>,
}

/// Counts one open connection for as long as it lives.
struct OpenConnection {
    open: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.counters.connection_closed();
    }
}

impl Seat {
    fn run(self, sockets: Vec<Socket>) {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker cannot start"),
        };
        runtime.block_on(self.work(sockets));
    }

    async fn work(self, sockets: Vec<Socket>) {
        let (gateway, counters) = (Arc::clone(&self.gateway), Arc::clone(&self.counters));
        let (store, driver) = gateway.authenticator.store().map_or((Asker::None, None), |store| store.asker());
        if let Some(driver) = driver {
            tokio::task::spawn_local(driver.run());
        }
        let worker = Rc::new(Worker { gateway, store, connections: Connections::default(), counters });
        let watch = Rc::new(Watch::default());
        let seat = Rc::new(self);
        for socket in sockets {
            let accepting = accept(socket, Rc::clone(&seat), Rc::clone(&worker), Rc::clone(&watch));
            tokio::task::spawn_local(accepting);
        }
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = seat.draining.clone();
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                _ = draining.wait_for(|&draining| draining) => break,
                _ = look.tick() => {
                    worker.connections.look(clock::monotonic());
                    looks = looks.wrapping_add(1);
                    if looks.is_multiple_of(SWEEP_EVERY) {
                        watch.look(&seat.limits);
                        worker.connections.sweep(&worker.gateway.forwarder);
                        Gateway::look(&worker);
                    }
                }
            }
        }
        let end = clock::monotonic() + seat.limits.drain_timeout;
        // Connections that were accepted in the last moment are told as well.
        while Rc::strong_count(&seat) > 1 || watch.count() > 0 {
            watch.finish();
            worker.connections.look(clock::monotonic());
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(DRAINING_LOOKS) {
                watch.look(&seat.limits);
                Gateway::look(&worker);
            }
            tokio::select! {
                () = sleep_until(end.into()) => break,
                () = sleep(Duration::from_millis(5)) => {}
            }
        }
    }
}

/// Accepts connections until draining begins.
async fn accept((socket, tls): Socket, seat: Rc<Seat>, worker: Rc<Worker>, watch: Rc<Watch>) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    let mut draining = seat.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(|&draining| draining) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                if seat.open.fetch_add(1, Ordering::Relaxed) >= seat.limits.connections {
                    seat.open.fetch_sub(1, Ordering::Relaxed);
                    seat.counters.connection_refused();
                    continue;
                }
                seat.counters.connection_opened();
                let counted = OpenConnection { open: Arc::clone(&seat.open), counters: Arc::clone(&seat.counters) };
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                let peer = Peer::new(address.ip(), &worker.gateway.trusted_proxies, tls.is_some());
                let (worker, watch) = (Rc::clone(&worker), Rc::clone(&watch));
                let serving = connection::serve(stream, tls.clone(), peer, worker, watch, seat.limits);
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(counted);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
