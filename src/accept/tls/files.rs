//! Certificates from files: a chain and its key in PEM, the names they are for, and when they end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Largest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and those that it was signed by, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Which of the two files is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The certificate's.
    Cert(String),
    /// The key's, or they do not belong together.
    Key(String),
}

/// A certificate that can be shown to clients.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    /// Unix time in seconds after which nobody accepts it.
    pub expires: i64,
}

impl Certificate {
    /// The chain and its key, for handshakes.
    #[must_use]
    pub fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

/// What is seen of a file without reading it; it changes with the file, and with links on the way to it.
pub(super) type Stamp = Option<(u64, u64, u128)>;

impl Files {
    /// Reads both files.
    ///
    /// # Errors
    /// [`Fault`]: it cannot be read, is no certificate or key, or the key is of another certificate.
    pub fn load(&self) -> Result<Certificate, Fault> {
        let content = content(&self.cert).map_err(Fault::Cert)?;
        let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let chain = chain.map_err(|error| Fault::Cert(format!("this is no PEM: {error}")))?;
        let first = chain.first().ok_or_else(|| Fault::Cert("there is no certificate in it (PEM)".to_owned()))?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|_| Fault::Cert("the certificate cannot be read".to_owned()))?;
        let names = match parsed.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(dns_name).collect(),
            Ok(None) => Vec::new(),
            Err(_) => return Err(Fault::Cert("its names cannot be read".to_owned())),
        };
        let expires = parsed.validity().not_after.timestamp();
        let content = self::content(&self.key).map_err(Fault::Key)?;
        let key = PrivateKeyDer::from_pem_slice(&content);
        // The error is not shown: it may quote the key.
        let key = key.map_err(|_| Fault::Key("there is no private key in it (PEM, not encrypted)".to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| {
            let is_of_another = matches!(error, rustls::Error::InconsistentKeys(_));
            Fault::Key(if is_of_another {
                "the key is not that of the certificate".to_owned()
            } else {
                "the key, or the certificate's, is of a kind that cannot be used".to_owned()
            })
        })?;
        Ok(Certificate { key: Arc::new(key), names, expires })
    }

    pub(super) fn stamps(&self) -> [Stamp; 2] {
        [&self.cert, &self.key].map(|path| stamp(path))
    }
}

/// A name in lower case; `*.example.com` is one as well.
fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None }
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let reason = |error: std::io::Error| {
        let is_absent = error.kind() == std::io::ErrorKind::NotFound;
        if is_absent { "there is no such file".to_owned() } else { format!("the file cannot be read: {error}") }
    };
    if std::fs::metadata(path).map_err(reason)?.len() > MAX_FILE {
        return Err(format!("the file is longer than {MAX_FILE} bytes"));
    }
    std::fs::read(path).map_err(reason)
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let seen = std::fs::metadata(path).ok()?;
    let changed = seen.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some((seen.ino(), seen.len(), changed))
}
