//! `bearward run`: serve until TERM or INT, then drain.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::{ConfigPath, Failure, LogFormat};
use crate::accept::Workers;
use crate::accept::tls::Tls;
use crate::config::compile::{Background, Compiled};
use crate::observe::admin::Admin;
use crate::observe::log;
use crate::store::Writer;

/// Serve until TERM or INT, then drain. A second INT stops at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward run\n  bearward run --config /etc/bearward/gateway.yaml --workers 4 --log-format json"
)]
pub struct Run {
    #[command(flatten)]
    config: ConfigPath,
    #[command(flatten)]
    format: LogFormat,
    /// Threads that serve requests; otherwise one for each core.
    #[arg(long, env = "BEARWARD_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
}

impl Run {
    /// Serves.
    pub fn run(self) -> Result<(), Failure> {
        log::start(self.format.log_format).map_err(Failure::Usage)?;
        let (path, compiled) = self.config.load()?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "bearward starts");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.map_or(cores, usize::from);
        super::runtime()?.block_on(async {
            let serving = Serving::start(compiled, workers).await?;
            serving.until_told().await
        })
    }
}

/// A running gateway.
pub struct Serving {
    workers: Workers,
    admin: Arc<Admin>,
    admin_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Opens everything and starts to serve.
    pub async fn start(compiled: Compiled, workers: usize) -> Result<Self, Failure> {
        let Compiled { gateway, listeners, admin, limits, background } = compiled;
        let gateway = Arc::new(gateway);
        let no_admin = |error| Failure::Runtime(format!("admin.address {admin} cannot be listened on: {error}"));
        let admin_listener = TcpListener::bind(admin).await.map_err(no_admin)?;
        let admin_address = admin_listener.local_addr().map_err(no_admin)?;
        if !admin_address.ip().is_loopback() {
            tracing::warn!(address = %admin_address, "admin is reachable from elsewhere: whoever reaches it can revoke");
        }
        let mut tasks = spawn(background)?;
        let tls: Vec<Arc<Tls>> = listeners.iter().filter_map(|listener| listener.tls.clone()).collect();
        tasks.extend(tls.iter().map(|tls| tokio::spawn(Arc::clone(tls).keep())));
        let workers = Workers::start(&gateway, &listeners, limits, workers).map_err(|error| {
            let listeners =
                listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>().join(", ");
            Failure::Runtime(format!("cannot listen on {listeners}: {error}"))
        })?;
        let admin = Arc::new(Admin::new(gateway, workers.counters().to_vec(), tls));
        tasks.push(tokio::spawn(Arc::clone(&admin).serve(admin_listener)));
        for (address, listener) in workers.addresses().iter().zip(&listeners) {
            tracing::info!(%address, tls = listener.tls.is_some(), "listening");
        }
        tracing::info!(address = %admin_address, "admin listening");
        Ok(Self { workers, admin, admin_address, tasks })
    }

    /// Where clients connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.workers.addresses()
    }

    /// Where operators connect.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until TERM or INT, then drains; a second one of them stops at once.
    pub async fn until_told(self) -> Result<(), Failure> {
        let no_signals = |error| Failure::Runtime(format!("signals cannot be received: {error}"));
        let mut term = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut int = signal(SignalKind::interrupt()).map_err(no_signals)?;
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
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

    /// Stops taking connections and answers what is under way.
    pub async fn drain(self) {
        self.admin.drain();
        let workers = self.workers;
        // Why: waiting for threads blocks, and the store and the keys are served from this one.
        drop(tokio::task::spawn_blocking(move || workers.drain()).await);
        for task in self.tasks {
            task.abort();
        }
    }
}

fn spawn(background: Background) -> Result<Vec<JoinHandle<()>>, Failure> {
    let Background { store, writer, tracker, keys } = background;
    writer.map_or(Ok(()), Writer::start).map_err(Failure::Runtime)?;
    let store = store.map(|driver| tokio::spawn(driver.run()));
    let tracker = tracker.map(|tracker| tokio::spawn(tracker.run()));
    let keys = keys.into_iter().map(|refresher| tokio::spawn(refresher.run()));
    Ok(store.into_iter().chain(tracker).chain(keys).collect())
}
