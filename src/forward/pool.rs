//! A worker's connections to the upstreams: no lock, no other thread.
//!
//! 1. The connection that came back last goes out first, so that the rest grow old and are closed.
//! 2. One that is closed, still busy, or older than `keep_alive` is not used again. `keep_alive` is
//!    shorter than what servers usually grant (5 s), so that they rarely close first.
//! 3. Connections of one target never serve another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::Upload;
use super::error::{ForwardError, Phase};
use crate::clock;

/// Idle connections that are kept for one target by one worker.
const MAX_IDLE: usize = 512;
/// Largest head of an answer, in bytes.
const MAX_ANSWER_HEAD: usize = 64 * 1024;
/// What one connection may hold back, in bytes, while its client reads slowly.
const MAX_BUFFER: usize = 64 * 1024;

/// One address of an upstream.
#[derive(Debug)]
pub struct Target {
    /// `host:port`, the key of its connections.
    pub address: Arc<str>,
}

/// A worker's idle connections by target.
#[derive(Clone, Default)]
pub struct Pool {
    idle: Rc<RefCell<HashMap<Arc<str>, Vec<Idle>>>>,
}

struct Idle {
    sender: SendRequest<Upload>,
    since: Instant,
}

/// One connection, out of the pool for one exchange.
pub struct Lease {
    sender: SendRequest<Upload>,
    address: Arc<str>,
    pool: Pool,
    /// Whether it has served an exchange before.
    pub is_reused: bool,
}

impl Pool {
    /// An idle connection to the target, if there is a usable one.
    pub fn take(&self, target: &Target, keep_alive: Duration, now: Instant) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&target.address)?;
        while let Some(Idle { sender, since }) = stack.pop() {
            if now.saturating_duration_since(since) > keep_alive {
                // Those below came back even earlier.
                stack.clear();
                return None;
            }
            if sender.is_ready() {
                let (address, pool) = (Arc::clone(&target.address), self.clone());
                return Some(Lease { sender, address, pool, is_reused: true });
            }
        }
        None
    }

    /// A new connection to the target.
    ///
    /// # Errors
    /// `Unreachable`, or `TimedOut(Connect)`.
    pub async fn connect(&self, target: &Target, limit: Duration) -> Result<Lease, ForwardError> {
        let connecting = TcpStream::connect(&*target.address);
        let stream = match timeout(limit, connecting).await {
            Err(_) => return Err(ForwardError::TimedOut(Phase::Connect)),
            Ok(Err(_)) => return Err(ForwardError::Unreachable),
            Ok(Ok(stream)) => stream,
        };
        stream.set_nodelay(true).map_err(|_| ForwardError::Unreachable)?;
        let handshake = hyper::client::conn::http1::Builder::new()
            .max_header_size(MAX_ANSWER_HEAD)
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|_| ForwardError::Broken)?;
        // Its errors reach whoever waits for the answer.
        tokio::task::spawn_local(async move { drop(connection.await) });
        let (address, pool) = (Arc::clone(&target.address), self.clone());
        Ok(Lease { sender, address, pool, is_reused: false })
    }

    /// Closes what has been idle for longer than `keep_alive`.
    pub fn sweep(&self, keep_alive: Duration) {
        let now = clock::monotonic();
        for stack in self.idle.borrow_mut().values_mut() {
            stack.retain(|idle| now.saturating_duration_since(idle.since) <= keep_alive && !idle.sender.is_closed());
        }
    }
}

impl Lease {
    /// The connection's sending side.
    pub const fn sender(&mut self) -> &mut SendRequest<Upload> {
        &mut self.sender
    }

    /// Puts the connection back for the next exchange.
    pub(super) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.borrow_mut();
        let stack = idle.entry(self.address).or_default();
        if stack.len() < MAX_IDLE {
            stack.push(Idle { sender: self.sender, since: clock::monotonic() });
        }
    }
}
