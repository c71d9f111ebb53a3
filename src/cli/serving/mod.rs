//! A running gateway: what it is made of, and how another configuration takes its place (`reload`).
//!
//! 1. The file is read on HUP, and when it or a file that it names has changed and then stood still for
//!    a moment. Looked at by name, so that editors that rename and links that are swapped (Kubernetes)
//!    count as changes.
//! 2. All or nothing: a file with a mistake, an address that cannot be listened on, a store's file that
//!    cannot be opened change nothing; the log says what and where, once. While files are watched it is tried again every few
//!    seconds: what was missing may have come.
//! 3. What is described as before goes on as it is: the store and what it told, published keys,
//!    listeners and their connections. What is new is reached before requests see it, if it can be
//!    reached within a moment.

mod beside;
mod reload;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use self::beside::{Running, end, keep, reach, spawn, watch_clock};
use super::Failure;
use super::config_file::ConfigFile;
use super::handover::Program;
use super::manager;
use crate::accept::listen::Inherited;
use crate::accept::tls::Tls;
use crate::accept::{Listener, Workers};
use crate::authenticate::keys::remote::RemoteKeys;
use crate::clock;
use crate::config::compile::{Compiled, Kept};
use crate::forward::check;
use crate::gateway::Gateway;
use crate::observe::admin::{Admin, Shown};
use crate::observe::sink;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a file that was refused stands before it is read again, though nothing is seen to have changed.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// A running gateway.
pub struct Serving {
    gateway: Arc<Gateway>,
    workers: Workers,
    listeners: Vec<Listener>,
    admin: Arc<Admin>,
    admin_address: SocketAddr,
    admin_configured: SocketAddr,
    admin_task: JoinHandle<()>,
    admin_listener: TcpListener,
    kept: Arc<Kept>,
    /// What keeps published keys up to date, and certificates; others end with what they serve.
    refreshers: Running<RemoteKeys>,
    keepers: Running<Tls>,
    /// Checks of targets.
    checks: JoinSet<()>,
    /// How long requests under way are waited for at the end.
    drain_timeout: Duration,
}

/// What a process is told from outside; listened for from before it says that it serves, since an early USR2 would end
/// it.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr2: Signal,
}

/// Why the file was not taken, and when.
struct Refused {
    reason: String,
    at: Instant,
}

impl Refused {
    /// Whether it may be taken by now: a file that it names may have come, a store may have been let go.
    fn is_due(&self) -> bool {
        clock::monotonic().saturating_duration_since(self.at) > TRY_AGAIN
    }
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Runtime(format!("no signals: {error}")));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
            usr2: listen(SignalKind::user_defined2())?,
        })
    }
}

impl Serving {
    /// Opens everything and starts to serve. Who takes the place of another process first reaches what requests need:
    /// that one has it.
    ///
    /// # Errors
    /// When a socket cannot be opened; in the place of another process also where an issuer has no keys, or the store
    /// is not reached.
    pub async fn start(compiled: Compiled, workers: usize, mut inherited: Inherited) -> Result<Self, Failure> {
        let Compiled { gateway, listeners, admin, limits, background, kept, files: _ } = compiled;
        let gateway = Arc::new(gateway);
        let admin_listener = bind_admin(admin, inherited.take_admin(admin))?;
        let admin_address = admin_listener.local_addr().map_err(|error| no_admin(admin, &error))?;
        tokio::spawn(watch_clock());
        let refreshers = spawn(background)?;
        let is_successor = inherited.is_handed_over();
        if is_successor {
            reach(&gateway).await;
            let keyless = gateway.authenticator.issuers().iter().find(|issuer| issuer.keys.current().is_err());
            if let Some(issuer) = keyless {
                return Err(Failure::Runtime(format!("issuer `{}` has no keys: nobody's place is taken", issuer.name)));
            }
            if let Some(trouble) = gateway.authenticator.store().and_then(|store| store.trouble()) {
                return Err(Failure::Runtime(format!("{trouble}: nobody's place is taken")));
            }
        }
        let mut workers = Workers::start(&gateway, (&listeners, inherited), limits, workers).map_err(|error| {
            let listeners =
                listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>().join(", ");
            Failure::Runtime(format!("cannot listen on {listeners}: {error}"))
        })?;
        if is_successor && !workers.started().await {
            return Err(Failure::Runtime("a worker does not accept connections: nobody's place is taken".to_owned()));
        }
        let keepers = keep(&listeners, Vec::new());
        let checks = check::start(gateway.forwarder.upstreams());
        let admin_page = Arc::new(Admin::new(shown(&gateway, &workers, &listeners)));
        let admin_task = serve_admin(&admin_page, &admin_listener).map_err(|error| no_admin(admin, &error))?;
        tell(&workers, &listeners);
        tracing::info!(address = %admin_address, "admin listening");
        Ok(Self {
            gateway,
            workers,
            listeners,
            admin: admin_page,
            admin_address,
            admin_configured: admin,
            admin_task,
            admin_listener,
            kept: Arc::new(kept),
            refreshers,
            keepers,
            checks,
            drain_timeout: limits.drain_timeout,
        })
    }

    /// Where clients connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.workers.addresses()
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Tells the service manager that it serves.
    pub async fn tell_manager(&self) {
        manager::serves(self.workers.generation()).await;
    }

    /// Serves until TERM or INT, or until another process has taken this one's place on USR2; then drains. A second one of
    /// them stops at once. `file` is read again on HUP, and when it changes.
    pub async fn until_told(mut self, file: Option<ConfigFile>, signals: Signals) -> Result<(), Failure> {
        let Signals { mut term, mut int, mut hup, mut usr2 } = signals;
        let program = Program::of_this_process();
        let is_service = tokio::select! {
            _ = term.recv() => true,
            _ = int.recv() => true,
            () = self.follow(file, &mut hup, (&mut usr2, program)) => false,
        };
        if is_service {
            manager::drains(self.drain_timeout).await;
        }
        tracing::info!("draining: requests under way are answered, new connections are not taken");
        tokio::select! {
            () = self.drain() => {
                tracing::info!("drained");
                Ok(())
            }
            _ = int.recv() => Err(Failure::Runtime("stopped before everything was answered".to_owned())),
            _ = term.recv() => Err(Failure::Runtime("stopped before everything was answered".to_owned())),
        }
    }

    /// Reads the file again whenever there is reason to; ends when another process has taken this one's place.
    async fn follow(
        &mut self,
        file: Option<ConfigFile>,
        hup: &mut Signal,
        (usr2, program): (&mut Signal, Option<Program>),
    ) {
        let Some(mut file) = file else { return std::future::pending().await };
        let program = program.map(Arc::new);
        let mut refused: Option<Refused> = None;
        loop {
            let is_told = tokio::select! {
                _ = hup.recv() => true,
                _ = usr2.recv() => match self.hand_over(program.clone()).await {
                    Ok(process) => {
                        // Who asks from now on is answered by the other one.
                        self.admin_task.abort();
                        manager::is_replaced_by(process).await;
                        return;
                    }
                    Err(reason) => {
                        tracing::error!(reason, "no other process takes this one's place: it goes on");
                        false
                    }
                },
                () = sleep(LOOK) => false,
            };
            let has_changed = file.has_changed();
            let is_due = refused.as_ref().is_some_and(|refused| file.is_watched() && refused.is_due());
            if is_told || has_changed || is_due {
                let before = refused.take().filter(|_| !is_told && !has_changed);
                refused = self.take(&mut file, before).await;
            }
        }
    }

    /// Takes what the file says now; why not, which is told unless it is what was told `before`.
    async fn take(&mut self, file: &mut ConfigFile, before: Option<Refused>) -> Option<Refused> {
        file.begin();
        // What was refused is tried again and again, which is no news.
        if before.is_none() {
            manager::reads_again().await;
        }
        match self.replace(&file.path).await {
            Ok(files) => {
                file.taken(files);
                let generation = self.workers.generation();
                let routes = self.gateway.routes.all().len();
                tracing::info!(generation, routes, config = %file.path.display(), "configuration taken");
                self.tell_manager().await;
                None
            }
            Err(Failure::Runtime(reason) | Failure::Usage(reason) | Failure::Configuration(reason)) => {
                let reason = reason.trim_end().to_owned();
                if before.is_none_or(|before| before.reason != reason) {
                    self.admin.refused();
                    let config = file.path.display();
                    tracing::error!(%config, reason, "configuration refused: nothing was changed");
                    manager::goes_on(&reason).await;
                }
                Some(Refused { reason, at: clock::monotonic() })
            }
        }
    }

    /// Has another process take this one's place; its id.
    async fn hand_over(&self, program: Option<Arc<Program>>) -> Result<u32, String> {
        Program::may_be_replaced(std::process::id(), Program::first_above().as_deref())?;
        let program = program.ok_or("the program's own file is not known")?;
        let admin = self.admin_listener.try_clone();
        let sockets = self.workers.sockets().and_then(|sockets| Ok((sockets, admin?)));
        let (sockets, admin) = sockets.map_err(|error| format!("its sockets cannot be handed on: {error}"))?;
        tracing::info!("another process is started to take this one's place");
        sink::share();
        let started = tokio::task::spawn_blocking(move || program.start_again(sockets, admin)).await;
        started.map_err(|error| error.to_string())??.serves().await
    }

    /// Stops taking connections and answers what is under way.
    pub async fn drain(self) {
        self.admin.drain();
        // It may belong to another process now, which answers for itself.
        drop(self.admin_listener);
        let workers = self.workers;
        // Why: waiting for threads blocks, and the store and the keys are served from this one.
        drop(tokio::task::spawn_blocking(move || workers.drain()).await);
        if let Some(store) = self.gateway.authenticator.store()
            && let Err(error) = store.leave().await
        {
            tracing::debug!(%error, "the lease stays until its end");
        }
        self.admin_task.abort();
        end(self.refreshers);
        end(self.keepers);
    }
}

fn no_admin(address: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::Runtime(format!("admin.address {address} cannot be listened on: {error}"))
}

/// The operators' socket: the one that was given, or a new one.
fn bind_admin(address: SocketAddr, given: Option<TcpListener>) -> Result<TcpListener, Failure> {
    let listener = given.map_or_else(|| TcpListener::bind(address), Ok).map_err(|error| no_admin(address, &error))?;
    listener.set_nonblocking(true).map_err(|error| no_admin(address, &error))?;
    let is_near = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    if !is_near {
        tracing::warn!(%address, "admin is reachable from elsewhere: whoever reaches it can revoke");
    }
    Ok(listener)
}

fn serve_admin(admin: &Arc<Admin>, listener: &TcpListener) -> std::io::Result<JoinHandle<()>> {
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    Ok(tokio::spawn(Arc::clone(admin).serve(listener)))
}

fn shown(gateway: &Arc<Gateway>, workers: &Workers, listeners: &[Listener]) -> Shown {
    Shown {
        generation: workers.generation(),
        gateway: Arc::clone(gateway),
        counters: workers.counters(),
        tls: listeners.iter().filter_map(|listener| listener.tls.clone()).collect(),
    }
}

fn tell(workers: &Workers, listeners: &[Listener]) {
    for (address, listener) in workers.addresses().iter().zip(listeners) {
        tracing::info!(%address, tls = listener.tls.is_some(), "listening");
    }
}
