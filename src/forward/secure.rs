//! TLS to a target: whom to trust, under which name, and as whom.
//!
//! Without a certificate that is good for the name there is no connection: a target that cannot prove
//! who it is gets no request, and no claims.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock;
use crate::stream::Stream;

/// Seconds between two lines in the log about one target.
const TELL_AGAIN: i64 = 10;

/// TLS to one target.
pub struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// When a failure was last told, in unix seconds.
    told: AtomicI64,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Secure {
    /// TLS by `config` to what proves to be `name`.
    #[must_use]
    pub const fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { config, name, told: AtomicI64::new(0) }
    }

    /// Does the handshake; why there is none goes to the log.
    ///
    /// # Errors
    /// When it failed.
    pub async fn open(&self, socket: TcpStream, address: &str) -> io::Result<Stream> {
        match TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), socket).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
            Err(error) => {
                let now = clock::unix_seconds(clock::wall());
                let told = self.told.load(Ordering::Relaxed);
                if now.saturating_sub(told) >= TELL_AGAIN && self.told.swap(now, Ordering::Relaxed) == told {
                    tracing::warn!(target_address = address, reason = %error, "no TLS to a target: it gets no request");
                }
                Err(error)
            }
        }
    }
}
