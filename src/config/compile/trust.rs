//! Whose certificates are believed when the gateway is the client, and what it shows of itself.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

/// TLS with the system's roots; read once, only where something needs them.
pub fn of_the_system() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    CONFIG.get_or_init(|| client(system()?, None)).clone()
}

/// The system's roots.
pub fn system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        return Err(
            "this machine has no root certificates (install `ca-certificates`, or set SSL_CERT_FILE)".to_owned()
        );
    }
    Ok(roots)
}

/// The roots in a file.
pub fn in_file(path: &Path) -> Result<RootCertStore, String> {
    let content = super::issuers::content(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&content) {
        let certificate = certificate.map_err(|error| format!("this is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in it cannot be trusted: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it (PEM)".to_owned());
    }
    Ok(roots)
}

/// TLS that believes these roots, and shows this certificate to who asks for one.
pub fn client(roots: RootCertStore, own: Option<Arc<CertifiedKey>>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let config = match own {
        Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}
