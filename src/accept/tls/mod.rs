//! TLS on a listener: which certificate a client is shown, and that it is the one in the files.
//!
//! 1. TLS 1.3, and 1.2 unless it is ruled out. The client's name for us (SNI) picks the certificate:
//!    the exact name first, then a wildcard for its first label, then the first certificate of the
//!    list. Of several that fit, the first whose key the client can check.
//! 2. Files are looked at twice a second. What is new and whole takes the place of what was there, for
//!    new connections; what is half written or wrong changes nothing.
//! 3. Where clients are asked for a certificate, one that the authorities did not sign ends the handshake; so does
//!    none, where one has to be shown.
//! 4. No early data: a request that can be replayed is not taken.
//!
//! What it does not do: look at requests. HTTP begins where the handshake ends.

mod files;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use self::files::{Certificate, Fault, Files};
use crate::certificate::{self, Authority, ClientCertificate};
use crate::clock;
use crate::stream::Stream;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Days before its end at which a certificate is warned about, the last first.
const WARN_DAYS: [i64; 3] = [1, 7, 30];
const DAY: i64 = 86_400;
/// What a handshake begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// For clients that speak plain HTTP here.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 28\r\n\r\nThis address speaks HTTPS.\r\n";

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They may.
    Optional,
    /// They have to.
    Required,
}

/// How clients prove who they are in the handshake.
#[derive(Debug)]
pub struct Clients {
    /// Whether they have to.
    pub mode: ClientAuth,
    /// Who signs their certificates.
    pub authority: Authority,
    /// What checks them.
    pub verifier: Arc<dyn ClientCertVerifier>,
}

impl Clients {
    /// The certificate that a client has shown, now or in the handshake that it resumes.
    fn read(&self, chain: &[CertificateDer<'_>], is_resumed: bool) -> Result<ClientCertificate, String> {
        if is_resumed {
            // SECURITY: who resumes is not asked again; a list may have ended since, or the certificate.
            certificate::verify(&*self.verifier, chain, clock::unix_seconds(clock::wall()))
                .map_err(|error| error.to_string())?;
        }
        let read = ClientCertificate::read(chain, self.authority.clone());
        read.ok_or_else(|| "the client's certificate cannot be read".to_owned())
    }
}

/// TLS on one listener; shared by the workers.
pub struct Tls {
    clients: Option<Clients>,
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    min_version: MinVersion,
}

/// The certificates of one listener, as they are in their files now.
#[derive(Debug)]
struct Certificates {
    files: Vec<Files>,
    current: ArcSwap<Vec<Certificate>>,
}

/// Why there is no conversation.
#[derive(Debug)]
pub(super) enum Refused {
    /// The client spoke plain HTTP, and was told.
    Plain,
    /// The handshake failed; why.
    Handshake(String),
    /// The client said nothing, or left.
    Gone,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS with certificates that were loaded from these files, the default one first.
    ///
    /// # Errors
    /// Why the settings cannot be used.
    pub fn new(
        loaded: Vec<(Files, Certificate)>,
        min_version: MinVersion,
        clients: Option<Clients>,
    ) -> Result<Self, String> {
        let (files, current): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
        let certificates = Arc::new(Certificates { files, current: ArcSwap::from_pointee(current) });
        let versions: &[&rustls::SupportedProtocolVersion] = match min_version {
            MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_protocol_versions(versions).map_err(|error| error.to_string())?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&certificates) as _;
        let config = match &clients {
            None => config.with_no_client_auth(),
            Some(clients) => config.with_client_cert_verifier(Arc::clone(&clients.verifier)),
        };
        let mut config = config.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Workers share it, so that a client resumes at whichever it comes back to.
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        config.send_tls13_tickets = 1;
        Ok(Self { clients, config: Arc::new(config), certificates, min_version })
    }

    /// Unix time in seconds at which the first of its certificates ends.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        self.certificates.current.load().iter().map(|certificate| certificate.expires).min()
    }

    /// Whether it is described like another one: then it goes on, and clients resume what they had.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let asked = |tls: &Self| tls.clients.as_ref().map(|clients| (clients.mode, clients.authority.clone()));
        self.certificates.files == other.certificates.files
            && self.min_version == other.min_version
            && asked(self) == asked(other)
    }

    /// Whether clients are asked for certificates.
    #[must_use]
    pub const fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Does the handshake; what the client has proved in it.
    pub(super) async fn open(&self, socket: TcpStream) -> Result<(Stream, Option<Arc<ClientCertificate>>), Refused> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(1) if first == [HANDSHAKE] => {}
            Ok(1) if first.iter().all(u8::is_ascii_uppercase) => {
                Stream::Plain(socket).say(PLAIN).await;
                return Err(Refused::Plain);
            }
            Ok(1..) => return Err(Refused::Handshake("this is no TLS".to_owned())),
            Ok(0) | Err(_) => return Err(Refused::Gone),
        }
        match TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates();
                let certificate = match (&self.clients, shown) {
                    (None, _) | (_, None) => None,
                    (Some(clients), Some(chain)) => {
                        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                        Some(Arc::new(clients.read(chain, is_resumed).map_err(Refused::Handshake)?))
                    }
                };
                Ok((Stream::Tls(Box::new(stream.into())), certificate))
            }
            Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(reason) => Refused::Handshake(reason.to_string()),
                None => Refused::Gone,
            }),
        }
    }

    /// Keeps the certificates as their files are, and warns before they end.
    pub async fn keep(self: Arc<Self>) {
        let certificates = &self.certificates;
        // At first they are read in any case: they may have changed since they were loaded.
        let (mut seen, mut warned, mut failures) = (Vec::new(), None, 0_u32);
        loop {
            self.warn(&mut warned);
            tokio::time::sleep(LOOK).await;
            let now: Vec<_> = certificates.files.iter().map(Files::stamps).collect();
            if now == seen && failures == 0 {
                continue;
            }
            seen = now;
            match certificates.load() {
                Ok(is_new) => {
                    if is_new || failures > 1 {
                        tracing::info!(certificates = certificates.files.len(), "certificates were read again");
                    }
                    failures = 0;
                }
                Err((file, reason)) => {
                    failures = failures.saturating_add(1);
                    // Two files cannot be written at once: only what stays wrong is told.
                    if failures == 2 {
                        tracing::error!(file, reason, "certificates are not read again: those from before stay");
                    }
                }
            }
        }
    }

    /// Warns once for each limit of days that is passed.
    fn warn(&self, warned: &mut Option<i64>) {
        let Some(expires) = self.expires() else { return };
        let left = expires - clock::unix_seconds(clock::wall());
        let Some(days) = WARN_DAYS.into_iter().find(|days| left < days * DAY) else { return };
        if warned.replace(days) != Some(days) {
            let days_left = left.div_euclid(DAY);
            tracing::warn!(days_left, expires, "a certificate ends soon, or has ended: clients will refuse it");
        }
    }
}

impl Certificates {
    /// Reads all files; whether anything is new. All or nothing.
    fn load(&self) -> Result<bool, (String, String)> {
        let loaded = self.files.iter().map(|files| {
            files.load().map_err(|fault| match fault {
                Fault::Cert(reason) => (files.cert.display().to_string(), reason),
                Fault::Key(reason) => (files.key.display().to_string(), reason),
            })
        });
        let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
        let before = self.current.load();
        let is_new = loaded.iter().zip(before.iter()).any(|(new, old)| new.key.cert != old.key.cert);
        self.current.store(Arc::new(loaded));
        Ok(is_new)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let fits = fitting(&current, hello.server_name());
        let can_check =
            |certificate: &&&Certificate| certificate.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = fits.iter().find(can_check).or_else(|| fits.first());
        chosen.map(|certificate| Arc::clone(&certificate.key))
    }
}

/// The certificates for a name, the best first; the first of all where there is none.
fn fitting<'c>(all: &'c [Certificate], name: Option<&str>) -> Vec<&'c Certificate> {
    let named = |wanted: &str| all.iter().filter(|it| it.names.iter().any(|name| name == wanted)).collect::<Vec<_>>();
    let name = name.map(str::to_ascii_lowercase);
    let exact = name.as_deref().map(named).unwrap_or_default();
    let wildcard = || name.as_deref()?.split_once('.').map(|(_, parent)| named(&format!("*.{parent}")));
    let fits = if exact.is_empty() { wildcard().unwrap_or_default() } else { exact };
    if fits.is_empty() { all.iter().take(1).collect() } else { fits }
}
