//! One worker: a thread with a runtime, sockets and connections of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::connection::{self, Client};
use super::memory;
use super::phase::Watch;
use super::tls::Tls;
use super::{Limits, Listener, Open};
use crate::clock;
use crate::forward::leash::Leashes;
use crate::gateway::{Gateway, LiveGateway, Worker};
use crate::observe::metrics::Counters;
use crate::store::Asker;

/// How often a worker looks at its time limits.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// In how many parts it looks after its connections, one with each of those looks.
const PARTS: usize = 5;
/// How many looks pass for one part while draining, which looks every 5 ms.
const DRAINING_LOOKS: usize = 10;
/// How many turns answers have, at the end of draining, to be broken off so that their clients see it.
const BREAKING_OFF: usize = 1000;
/// How long an accept that failed is not tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a new way to a store may take before requests go there all the same.
const STORE_REACHED: Duration = Duration::from_secs(5);

/// A worker's socket on a listener, by the number of the listener.
pub(super) type Socket = (u64, TcpListener);

/// What a worker is told to serve by.
pub(super) struct Next {
    pub(super) gateway: Arc<Gateway>,
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    pub(super) number: u64,
    /// All listeners.
    pub(super) open: Vec<Open>,
    /// Sockets of those that are new.
    pub(super) sockets: Vec<Socket>,
    pub(super) done: oneshot::Sender<()>,
    /// Whether requests are served meanwhile by who was there before.
    pub(super) has_time: bool,
}

impl Next {
    /// What the worker serves by, with its way to the store: that of `before` where it is the same store.
    async fn live(&self, before: Option<&LiveGateway>) -> LiveGateway {
        let store = self.gateway.authenticator.store();
        let known = before.filter(|before| match (before.gateway.authenticator.store(), store) {
            (Some(known), Some(store)) => Arc::ptr_eq(known, store),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
        let asker = match known {
            Some(known) => Rc::clone(&known.store),
            None => Rc::new(self.asker(self.has_time).await),
        };
        LiveGateway {
            number: self.number,
            gateway: Arc::clone(&self.gateway),
            store: asker,
            counters: Rc::new(Arc::clone(&self.counters)),
            limits: self.limits,
            leashes: Leashes::default(),
        }
    }

    /// A new way to the store; where there is time, one that has been gone.
    async fn asker(&self, has_time: bool) -> Asker {
        let (asker, driver) = self.gateway.authenticator.store().map_or((Asker::None, None), |store| store.asker());
        if let Some(driver) = driver {
            spawn_local(driver.run());
        }
        let reached = async |asker: &Asker| {
            while !asker.is_connected() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if has_time && timeout(STORE_REACHED, reached(&asker)).await.is_err() {
            tracing::warn!(
                "the store of the new configuration is not reached: protected routes answer 503 until it is"
            );
        }
        asker
    }
}

/// What a worker's thread starts with.
pub(super) struct Seat {
    open: Arc<AtomicUsize>,
    draining: watch::Receiver<bool>,
    inbox: mpsc::UnboundedReceiver<Next>,
}

/// What a worker's tasks share.
struct Shared {
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    open: Arc<AtomicUsize>,
    draining: watch::Receiver<bool>,
    doors: RefCell<HashMap<u64, Door>>,
    /// Accept loops that have not ended.
    accepting: Cell<usize>,
    /// The part of the connections that is looked at next; nothing while one is.
    next_part: Cell<Option<usize>>,
}

/// A listener of this worker.
struct Door {
    /// As it is described now.
    listener: Rc<RefCell<Listener>>,
    accepting: Vec<JoinHandle<()>>,
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

/// Counts an accept loop for as long as it runs.
struct Accepting(Rc<Shared>);

impl Accepting {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.accepting.set(shared.accepting.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.set(self.0.accepting.get().saturating_sub(1));
    }
}

impl Seat {
    pub(super) const fn new(
        open: Arc<AtomicUsize>,
        draining: watch::Receiver<bool>,
        inbox: mpsc::UnboundedReceiver<Next>,
    ) -> Self {
        Self { open, draining, inbox }
    }

    /// Works until it is drained.
    pub(super) fn run(self, first: Next) {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker cannot start"),
        };
        runtime.block_on(self.work(first));
    }

    async fn work(self, first: Next) {
        let Self { open, draining, mut inbox } = self;
        let worker = Rc::new(Worker::new(first.live(None).await));
        let (watch, doors) = (Rc::new(Watch::default()), RefCell::default());
        let shared = Rc::new(Shared {
            worker,
            watch,
            open,
            draining,
            doors,
            accepting: Cell::new(0),
            next_part: Cell::new(Some(0)),
        });
        shared.open_doors(first);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = shared.draining.clone();
        let mut looks = 0_usize;
        loop {
            tokio::select! {
                _ = draining.wait_for(|&draining| draining) => break,
                Some(next) = inbox.recv() => drop(spawn_local(Rc::clone(&shared).replace(next))),
                _ = look.tick() => {
                    shared.worker.connections.look(clock::monotonic());
                    looks = looks.wrapping_add(1);
                    shared.tend(looks % PARTS);
                }
            }
        }
        let end = clock::monotonic() + shared.worker.live().limits.drain_timeout;
        // Connections that were accepted in the last moment are told as well.
        while shared.accepting.get() > 0 || shared.watch.count() > 0 {
            shared.watch.finish();
            shared.worker.connections.look(clock::monotonic());
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(DRAINING_LOOKS) {
                shared.tend(looks / DRAINING_LOOKS % PARTS);
            }
            tokio::select! {
                () = sleep_until(end.into()) => break,
                () = sleep(Duration::from_millis(5)) => {}
            }
        }
        // To their clients a clean end would be that of the answer.
        let mut turns = 0..BREAKING_OFF;
        while shared.watch.break_off() && turns.next().is_some() {
            yield_now().await;
        }
    }
}

impl Shared {
    /// Looks after a part of what waits.
    fn tend(self: &Rc<Self>, part: usize) {
        memory::give_back();
        match part {
            0 => self.worker.connections.sweep(&self.worker.live().gateway.forwarder),
            1 => Gateway::look(&self.worker),
            _ => {}
        }
        // Beside, and one at a time: where many connections end together it takes longer than until the next look.
        if let Some(part) = self.next_part.take() {
            spawn_local(Rc::clone(self).sweep(part));
        }
    }

    /// Looks at a part of the connections, step by step: requests that come meanwhile come in between.
    async fn sweep(self: Rc<Self>, part: usize) {
        let live = self.worker.live();
        let mut places = self.watch.places((part, PARTS));
        while !places.is_empty() {
            places = self.watch.look(&live.limits, places);
            yield_now().await;
        }
        self.next_part.set(Some((part + 1) % PARTS));
    }

    /// Serves by `next` from now on.
    async fn replace(self: Rc<Self>, next: Next) {
        let before = self.worker.live();
        let live = next.live(Some(&before)).await;
        drop(before);
        self.worker.replace(live);
        self.open_doors(next);
    }

    /// Opens, changes and closes listeners until they are those of `next`.
    fn open_doors(self: &Rc<Self>, next: Next) {
        let Next { open, sockets, done, .. } = next;
        let listeners: HashMap<u64, Listener> = open.into_iter().map(|open| (open.door, open.listener)).collect();
        let mut doors = self.doors.borrow_mut();
        doors.retain(|number, door| {
            let stays = listeners.get(number);
            if let Some(listener) = stays {
                let before = door.listener.replace(listener.clone());
                if asks_otherwise(&before, listener) {
                    // Who came in as they were asked before would not get in now, or as somebody else.
                    self.watch.finish_at(*number);
                }
            } else {
                door.accepting.iter().for_each(JoinHandle::abort);
                self.watch.finish_at(*number);
            }
            stays.is_some()
        });
        for (number, socket) in sockets {
            let Some(listener) = listeners.get(&number) else { continue };
            let listener = || Rc::new(RefCell::new(listener.clone()));
            let door = doors.entry(number).or_insert_with(|| Door { listener: listener(), accepting: Vec::new() });
            let accepting = Accepting::begin(self);
            door.accepting.push(spawn_local(accept(number, socket, Rc::clone(&door.listener), accepting)));
        }
        // Nobody waits for the first ones.
        let _nobody = done.send(());
    }
}

/// Whether who came in as clients were asked before would not get in now: TLS has come, or clients' certificates are asked
/// for in another way.
fn asks_otherwise(before: &Listener, now: &Listener) -> bool {
    let asks = |tls: &Option<Arc<Tls>>| tls.as_ref().is_some_and(|tls| tls.asks_clients());
    match (&before.tls, &now.tls) {
        (None, Some(_)) => true,
        (Some(was), Some(is)) if Arc::ptr_eq(was, is) => false,
        (Some(_), _) => asks(&before.tls) || asks(&now.tls),
        (None, None) => false,
    }
}

/// Accepts connections until draining begins.
async fn accept(door: u64, socket: TcpListener, described: Rc<RefCell<Listener>>, accepting: Accepting) {
    let shared = &accepting.0;
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    let mut draining = shared.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(|&draining| draining) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let live = shared.worker.live();
                if shared.open.fetch_add(1, Ordering::Relaxed) >= live.limits.connections {
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                    live.counters.connection_refused();
                    continue;
                }
                live.counters.connection_opened();
                let counted = OpenConnection { open: Arc::clone(&shared.open), counters: Arc::clone(&live.counters) };
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                let Listener { tls, proxied, .. } = described.borrow().clone();
                let client = Client::new(address.ip(), tls.is_some(), &live);
                let is_proxied = proxied.iter().any(|network| network.contains(&client.address.to_canonical()));
                let entry = shared.watch.enter(door);
                let worker = Rc::clone(&shared.worker);
                spawn_local(async move {
                    if is_proxied {
                        connection::serve_proxied(stream, tls, client, worker, entry).await;
                    } else {
                        connection::serve(stream, tls, client, worker, entry).await;
                    }
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
