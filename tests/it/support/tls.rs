//! A certificate authority and TLS clients of the tests' own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        // Another name than those that it signs: else they seem to be signed by themselves.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Writes `NAME.crt` and `NAME.key` for these names; returns the certificate.
    pub fn write(&self, folder: &Path, name: &str, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(names).expect("names").signed_by(&key, &self.0).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
        certificate.der().clone()
    }

    /// Writes `NAME.crt` and `NAME.key` for a name whose certificate ended yesterday.
    pub fn write_expired(&self, folder: &Path, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(super::now() as u64 - 86_400);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    /// Writes its own certificate.
    pub fn write_own(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).expect("a file");
    }

    /// Settings of a client that trusts it, and speaks these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_protocol_versions(versions).expect("versions");
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

/// One connection.
pub struct TlsClient(pub StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects, and does the handshake.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Result<Self, String> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a connection");
        let mut socket = TcpStream::connect(address).expect("a socket");
        socket.set_read_timeout(Some(super::DEADLINE)).expect("a limit");
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|error| error.to_string())?;
        }
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// The certificate that it was shown.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().expect("certificates")[0].clone()
    }

    /// Sends a request, and returns status, head and body of the answer.
    pub fn send(&mut self, request: &str) -> (u16, String, String) {
        self.0.write_all(request.as_bytes()).expect("it is sent");
        self.read().expect("an answer")
    }

    pub fn read(&mut self) -> Option<(u16, String, String)> {
        let mut text = Vec::new();
        let end = loop {
            if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut byte = [0];
            if self.0.read(&mut byte).ok()? == 0 {
                return None;
            }
            text.push(byte[0]);
        };
        let head = String::from_utf8(text[..end].to_vec()).expect("text").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, head, String::from_utf8(body).expect("text")))
    }
}
