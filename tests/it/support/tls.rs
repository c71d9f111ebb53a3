//! A certificate authority and TLS clients of the tests' own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Those of clients, the last one last.
    keys: Mutex<Vec<Vec<u8>>>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        // Another name than those that it signs: else they seem to be signed by themselves.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"), keys: Mutex::default() }
    }

    /// Writes `NAME.crt` and `NAME.key` for these names; returns the certificate.
    pub fn write(&self, folder: &Path, name: &str, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(names).expect("names").signed_by(&key, &self.issuer).expect("a certificate");
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
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    /// Settings of a client that trusts `of` and shows a certificate with this subject and these names, which began
    /// yesterday and lives for so many days.
    pub fn showing(
        &self,
        cn: &str,
        names: &[rcgen::SanType],
        days: i64,
        of: &Self,
    ) -> (Arc<ClientConfig>, CertificateDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Shop");
        params.distinguished_name.push(rcgen::DnType::CommonName, cn);
        params.subject_alt_names = names.to_vec();
        let day = |days: i64| {
            let seconds = super::now() + days * 86_400;
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds as u64)
        };
        (params.not_before, params.not_after) = (day(-1), day(days - 1));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let der = certificate.der().clone();
        self.keys.lock().expect("the keys").push(key.serialize_der());
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let config = config.with_root_certificates(of.roots());
        (Arc::new(config.with_client_auth_cert(vec![der.clone()], key).expect("a certificate")), der)
    }

    /// Settings of a client that trusts `of` and shows a chain: the first of `middles` is signed by this authority, each by the
    /// one before it, and the client's own by the last. Each is made of the usual parameters by one of the functions.
    pub fn showing_chain(
        &self,
        own: &dyn Fn(&mut CertificateParams),
        middles: &[&dyn Fn(&mut CertificateParams)],
        of: &Self,
    ) -> (Arc<ClientConfig>, Vec<CertificateDer<'static>>) {
        let mut issuers: Vec<CertifiedIssuer<'static, KeyPair>> = Vec::new();
        for (place, shape) in middles.iter().enumerate() {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("middle {place}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            shape(&mut params);
            let key = KeyPair::generate().expect("a key");
            let issuer = issuers.last().unwrap_or(&self.issuer);
            issuers.push(CertifiedIssuer::signed_by(params, key, issuer).expect("an authority"));
        }
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "orders");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let day = |days: i64| {
            let seconds = super::now() + days * 86_400;
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds as u64)
        };
        (params.not_before, params.not_after) = (day(-1), day(30));
        own(&mut params);
        let leaf = params.signed_by(&key, issuers.last().unwrap_or(&self.issuer)).expect("a certificate");
        let above = issuers.iter().rev().map(|issuer| issuer.der().clone());
        let chain: Vec<CertificateDer<'static>> = std::iter::once(leaf.der().clone()).chain(above).collect();
        self.keys.lock().expect("the keys").push(key.serialize_der());
        (self.showing_as(chain.clone(), of), chain)
    }

    /// Settings of a client that shows this, with the last key, whatever it is.
    pub fn showing_as(&self, chain: Vec<CertificateDer<'static>>, of: &Self) -> Arc<ClientConfig> {
        let known = self.keys.lock().expect("the keys").last().expect("a key").clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(known).expect("a key");
        let signing = default_provider().key_provider.load_private_key(key).expect("a key");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let mut config = config.with_root_certificates(of.roots()).with_no_client_auth();
        let certified = rustls::sign::CertifiedKey::new(chain, signing);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// The same client with its certificate's signature in its second spelling: `(r, n - s)` for `(r, s)`.
    pub fn respelled(&self, client: &Arc<ClientConfig>, der: &CertificateDer<'static>) -> Arc<ClientConfig> {
        let (_, read) = x509_parser::parse_x509_certificate(der).expect("a certificate");
        let signature = read.signature_value.data.as_ref();
        let r_length = usize::from(signature[3]);
        let (r, s) = (&signature[4..4 + r_length], &signature[6 + r_length..]);
        let other = super::sign::other_s(s);
        let tagged = |tag: u8, content: &[u8]| -> Vec<u8> {
            let length = content.len();
            let head = match length {
                0..128 => vec![tag, length as u8],
                128..256 => vec![tag, 0x81, length as u8],
                _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
            };
            [head, content.to_vec()].concat()
        };
        let number = |bytes: &[u8]| {
            let digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            let sign = if digits.first().is_some_and(|byte| *byte >= 128) { vec![0] } else { Vec::new() };
            tagged(2, &[sign, digits].concat())
        };
        let signature = tagged(0x30, &[number(r), number(&other)].concat());
        // ecdsa-with-SHA256 (RFC 5758 §3.2).
        let algorithm = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let bits = tagged(3, &[vec![0], signature].concat());
        let der = tagged(0x30, &[read.tbs_certificate.as_ref(), &algorithm, &bits].concat());
        let mut config = (**client).clone();
        let known = self.keys.lock().expect("the keys").last().expect("a key").clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(known).expect("a key");
        let signing = default_provider().key_provider.load_private_key(key).expect("a key");
        let certified = rustls::sign::CertifiedKey::new(vec![der.into()], signing);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }

    /// Writes a list of what it has taken back.
    pub fn write_list(&self, path: &Path, taken_back: &[&CertificateDer<'static>]) {
        let day = |days: i64| {
            let seconds = super::now() + days * 86_400;
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds as u64)
        };
        let entry = |der: &&CertificateDer<'static>| {
            let (_, read) = x509_parser::parse_x509_certificate(der).expect("a certificate");
            rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from_slice(read.raw_serial()),
                revocation_time: day(-1),
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: day(-1),
            next_update: day(1),
            crl_number: rcgen::SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: taken_back.iter().map(entry).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        std::fs::write(path, list.pem().expect("PEM")).expect("a file");
    }

    /// Writes its own certificate.
    pub fn write_own(&self, path: &Path) {
        std::fs::write(path, self.issuer.pem()).expect("a file");
    }

    /// Settings of a client that trusts it, and speaks these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_protocol_versions(versions).expect("versions");
        Arc::new(config.with_root_certificates(self.roots()).with_no_client_auth())
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

    /// The same, where there may be no answer.
    pub fn try_send(&mut self, request: &str) -> Option<(u16, String, String)> {
        self.0.write_all(request.as_bytes()).ok()?;
        self.read()
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
