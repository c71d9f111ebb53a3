//! Another configuration takes the place of the one that a running gateway serves by: all or nothing.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::{end, keep, reach, spawn};
use super::{Serving, bind_admin, serve_admin, shown, tell};
use crate::accept::tls::Tls;
use crate::accept::{Limits, Listener};
use crate::cli::Failure;
use crate::config;
use crate::config::compile::Compiled;
use crate::forward::check;
use crate::gateway::Gateway;

impl Serving {
    /// Takes what the file says now; the files that it names. All or nothing.
    pub(super) async fn replace(&mut self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let Compiled { gateway, mut listeners, admin, limits, background, kept, files } = self.load(path).await?;
        let gateway = Arc::new(gateway);
        // TLS that is described as before goes on, so that clients resume what they had.
        for listener in &mut listeners {
            let before = self.listeners.iter().filter(|before| before.address == listener.address);
            let same = |new: &Arc<Tls>| before.filter_map(|before| before.tls.clone()).find(|tls| tls.is_like(new));
            if let Some(tls) = listener.tls.as_ref().and_then(same) {
                listener.tls = Some(tls);
            }
        }
        let is_elsewhere = background.store.is_some() || !background.keys.is_empty();
        let fresh = spawn(background)?;
        if is_elsewhere {
            reach(&gateway).await;
        }
        let admin_listener = match self.take_over(&gateway, (&listeners, admin), limits).await {
            Ok(admin_listener) => admin_listener,
            Err(failure) => {
                end(fresh);
                return Err(failure);
            }
        };
        let before = std::mem::replace(&mut self.gateway, Arc::clone(&gateway));
        before.authenticator.succeeded_by(&gateway.authenticator);
        self.refreshers.extend(fresh);
        self.refreshers.retain(|(keys, task)| {
            let stays = kept.keys().iter().any(|other| Arc::ptr_eq(keys, other));
            if !stays {
                task.abort();
            }
            stays
        });
        self.keepers = keep(&listeners, std::mem::take(&mut self.keepers));
        self.checks = check::start(gateway.forwarder.upstreams());
        tell(&self.workers, &listeners);
        self.kept = Arc::new(kept);
        self.admin.show(shown(&gateway, &self.workers, &listeners));
        if let Some(listener) = admin_listener {
            self.move_admin(admin, listener);
        }
        self.listeners = listeners;
        self.drain_timeout = limits.drain_timeout;
        Ok(files)
    }

    /// Reads the file where that holds up nobody: it and those that it names may be large, or slow to come.
    async fn load(&self, path: &Path) -> Result<Compiled, Failure> {
        let (path, kept) = (path.to_owned(), Arc::clone(&self.kept));
        let read = tokio::task::spawn_blocking(move || config::load_again(&path, &kept)).await;
        let read = read.map_err(|error| Failure::Runtime(error.to_string()))?;
        read.map_err(|errors| Failure::Configuration(errors.to_string()))
    }

    /// Has the workers serve by another configuration; the operators' socket, where that is a new one.
    async fn take_over(
        &mut self,
        gateway: &Arc<Gateway>,
        (listeners, admin): (&[Listener], SocketAddr),
        limits: Limits,
    ) -> Result<Option<TcpListener>, Failure> {
        if admin == self.admin_configured {
            self.workers.replace(gateway, listeners, limits).await.map_err(|error| not_open(&error))?;
            return Ok(None);
        }
        let given = self.workers.take_admin(admin);
        let is_given = given.is_some();
        let socket = bind_admin(admin, given)?;
        match self.workers.replace(gateway, listeners, limits).await {
            Ok(()) => Ok(Some(socket)),
            Err(error) => {
                if is_given {
                    self.workers.put_admin_back(socket);
                }
                Err(not_open(&error))
            }
        }
    }

    fn move_admin(&mut self, configured: SocketAddr, listener: TcpListener) {
        self.admin_address = listener.local_addr().unwrap_or(configured);
        match serve_admin(&self.admin, &listener) {
            Ok(task) => std::mem::replace(&mut self.admin_task, task).abort(),
            Err(error) => return tracing::error!(%error, "the admin address cannot be moved"),
        }
        self.admin_configured = configured;
        self.admin_listener = listener;
        tracing::info!(address = %self.admin_address, "admin listening");
    }
}

fn not_open(error: &std::io::Error) -> Failure {
    Failure::Runtime(format!("a listener of the new configuration cannot be opened: {error}"))
}
