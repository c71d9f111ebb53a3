//! A connection becomes requests.
//!
//! 1. One worker a core: a `current_thread` runtime with a listener of its own (`SO_REUSEPORT`), so
//!    that the kernel spreads connections and no request crosses a thread.
//! 2. Connections over the limit are closed at once; an accept that fails (no file descriptor left)
//!    pauses and does not spin.
//! 3. Sockets may be given open, and handed on: who replaces this process loses no connection that waits.
//! 4. A configuration that takes the place of another is handed to every worker: listeners that stay go
//!    on, with their connections; others are opened before anything changes, and closed after.
//! 5. Draining: no new connections, requests under way are answered, with the word that the connection ends,
//!    and those that wait are closed, for at most `drain_timeout`.
//!
//! What it does not do: look at what a request says (`admit`).

mod bell;
pub mod busy;
pub mod connection;
pub mod http1;
pub mod http2;
pub mod listen;
mod memory;
mod peer;
pub mod phase;
pub mod proxy_protocol;
pub mod tls;
mod watched;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub use self::busy::Busy;
use self::listen::Inherited;
pub use self::peer::Peer;
use self::tls::Tls;
use self::worker::{Next, Seat, Socket};
use crate::gateway::Gateway;
use crate::observe::metrics::Counters;

/// How long workers may take to go over to another configuration before the next one is looked at.
const HANDED_OVER: Duration = Duration::from_secs(10);

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
    /// Longest time in which a client takes nothing of what is written to it.
    pub send_timeout: Duration,
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
    /// From where connections begin with a header of the PROXY protocol.
    pub proxied: Arc<[ipnet::IpNet]>,
}

/// A listener that is open.
#[derive(Clone, Debug)]
struct Open {
    /// Its number; never used again.
    door: u64,
    listener: Listener,
    /// Where it is: of port 0 the port that was free.
    address: SocketAddr,
}

/// The workers of a process.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    posts: Vec<Post>,
    open: Vec<Open>,
    /// Sockets that were given open, and that no listener has taken yet.
    inherited: Inherited,
    /// The sockets of what is open, by door: for who comes after.
    held: BTreeMap<u64, Held>,
    /// Workers that have not begun to accept.
    starting: Vec<oneshot::Receiver<()>>,
    doors: u64,
    generation: u64,
    drain: watch::Sender<bool>,
}

/// The sockets of a listener.
struct Held {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
    /// Whether they were given open.
    is_given: bool,
}

/// A worker as the others see it.
struct Post {
    orders: mpsc::UnboundedSender<Next>,
    counters: Arc<Counters>,
}

impl Workers {
    /// Opens the listeners and starts `count` workers on them.
    ///
    /// # Errors
    /// When an address cannot be listened on, or a thread cannot be started.
    pub fn start(
        gateway: &Arc<Gateway>,
        (listeners, inherited): (&[Listener], Inherited),
        limits: Limits,
        count: usize,
    ) -> io::Result<Self> {
        let (drain, draining) = watch::channel(false);
        let has_time = inherited.is_handed_over();
        let (threads, posts, open, held) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        let starting = Vec::new();
        let mut workers = Self { threads, posts, open, inherited, held, starting, doors: 0, generation: 1, drain };
        let (open, opened) = workers.open(listeners, count.max(1))?;
        let connections = Arc::new(AtomicUsize::new(0));
        for (number, sockets) in opened.into_iter().enumerate() {
            let counters = Arc::new(Counters::new(gateway.routes.all().iter().map(|route| &route.id)));
            let (orders, inbox) = mpsc::unbounded_channel();
            let (done, starting) = oneshot::channel();
            let first = Next {
                gateway: Arc::clone(gateway),
                counters: Arc::clone(&counters),
                limits,
                number: workers.generation,
                open: open.clone(),
                sockets,
                done,
                has_time,
            };
            let seat = Seat::new(Arc::clone(&connections), draining.clone(), inbox);
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            workers.threads.push(thread.spawn(move || seat.run(first))?);
            workers.posts.push(Post { orders, counters });
            workers.starting.push(starting);
        }
        workers.open = open;
        workers.inherited.close_rest();
        for address in workers.inherited.addresses() {
            tracing::warn!(%address, "a socket was given open that no listener of the configuration has");
        }
        Ok(workers)
    }

    /// Waits until every worker accepts connections; whether all do.
    pub async fn started(&mut self) -> bool {
        let mut do_all = true;
        for starting in self.starting.drain(..) {
            do_all &= starting.await.is_ok();
        }
        do_all
    }

    /// The operators' socket, if one that listens on this address was given open and not taken.
    pub fn take_admin(&mut self, wanted: SocketAddr) -> Option<TcpListener> {
        self.inherited.take_admin(wanted)
    }

    /// Takes it back: what it was taken for is not taken.
    pub fn put_admin_back(&mut self, socket: TcpListener) {
        self.inherited.put_admin_back(socket);
    }

    /// Serves by another configuration from now on: listeners that it also has go on, with their
    /// connections; new ones are opened first, and those that are gone are closed, their connections once
    /// they have been answered. Requests that have begun end as they began.
    ///
    /// # Errors
    /// When a new address cannot be listened on; then nothing has changed.
    pub async fn replace(&mut self, gateway: &Arc<Gateway>, listeners: &[Listener], limits: Limits) -> io::Result<()> {
        let opened = self.open(listeners, self.posts.len());
        if opened.is_err() {
            // What was opened before the one that failed is not served by anybody.
            self.let_go();
        }
        let (open, opened) = opened?;
        self.open = open;
        self.let_go();
        self.generation += 1;
        let mut done = Vec::new();
        for (post, sockets) in self.posts.iter_mut().zip(opened) {
            post.counters = Arc::new(post.counters.succeeded_by(gateway.routes.all().iter().map(|route| &route.id)));
            let (told, waits) = oneshot::channel();
            let next = Next {
                gateway: Arc::clone(gateway),
                counters: Arc::clone(&post.counters),
                limits,
                number: self.generation,
                open: self.open.clone(),
                sockets,
                done: told,
                has_time: true,
            };
            // A worker that is gone has said so in the log.
            if post.orders.send(next).is_ok() {
                done.push(waits);
            }
        }
        let all = async {
            for waits in done {
                drop(waits.await);
            }
        };
        if timeout(HANDED_OVER, all).await.is_err() {
            tracing::warn!("a worker has not gone over to the new configuration yet: its requests see the one before");
        }
        Ok(())
    }

    /// What is open with these listeners, and the sockets of those that are not open yet, by worker.
    fn open(&mut self, listeners: &[Listener], count: usize) -> io::Result<(Vec<Open>, Vec<Vec<Socket>>)> {
        let mut before = self.open.clone();
        let mut sockets: Vec<Vec<Socket>> = (0..count).map(|_| Vec::new()).collect();
        let mut open = Vec::new();
        for listener in listeners {
            let listener = listener.clone();
            if let Some(place) = before.iter().position(|known| known.listener.address == listener.address) {
                open.push(Open { listener, ..before.swap_remove(place) });
                continue;
            }
            let given = self.inherited.take(listener.address);
            let is_given = !given.is_empty();
            let opened = listen::open(listener.address, given, count)?;
            let address = opened.first().map_or(Ok(listener.address), TcpListener::local_addr)?;
            self.doors += 1;
            let door = self.doors;
            // Before anything can go wrong: what is held is let go of, or given back.
            let held = self.held.entry(door).or_insert(Held { address, sockets: opened, is_given });
            for (worker, own) in sockets.iter_mut().zip(listen::spread(&held.sockets, count)?) {
                worker.extend(own.into_iter().map(|socket| (door, socket)));
            }
            open.push(Open { door, listener, address });
        }
        Ok((open, sockets))
    }

    /// Lets go of the sockets of what is not open any more.
    fn let_go(&mut self) {
        let held = std::mem::take(&mut self.held).into_iter();
        let (stay, go) = held.partition(|(door, _)| self.open.iter().any(|open| open.door == *door));
        self.held = stay;
        let go: BTreeMap<u64, Held> = go;
        for gone in go.into_values().filter(|gone| gone.is_given) {
            self.inherited.put_back(gone.address, gone.sockets);
        }
    }

    /// All sockets that clients connect to, once more: connections that wait in them are taken by whoever has them.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.held.values().flat_map(|held| &held.sockets).map(TcpListener::try_clone).collect()
    }

    /// Where the listeners are, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.address).collect()
    }

    /// The counters of every worker.
    #[must_use]
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        self.posts.iter().map(|post| Arc::clone(&post.counters)).collect()
    }

    /// Which configuration is served by: the first, or the one after.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Drains every worker and waits until they have ended; not for an async thread.
    pub fn drain(self) {
        drop(self.held);
        self.drain.send_replace(true);
        for thread in self.threads {
            // A worker that panicked has logged it and has nothing left to drain.
            drop(thread.join());
        }
    }
}
