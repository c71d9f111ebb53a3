//! The certificate that a client has proved to be its own, in the handshake of its connection: data only.
//!
//! Whose signature it bears has been checked by then; who it makes its owner is for `authenticate` to say.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Who signs certificates of clients: what the configuration calls them, and which certificates of theirs are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Their name in the configuration.
    pub name: Arc<str>,
    /// The digest of what is believed: another file makes other authorities.
    digest: [u8; 32],
}

impl Authority {
    /// Authorities by this name, whose certificates and revocation lists these bytes are.
    #[must_use]
    pub fn new(name: &str, believed: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for bytes in believed {
            context.update(&bytes.len().to_be_bytes());
            context.update(bytes);
        }
        Self { name: name.into(), digest: fixed(&context.finish()) }
    }
}

/// A client's certificate, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Who signed it.
    pub authority: Authority,
    /// It, and those that it was signed by, as they were shown.
    pub chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the whole certificate, in base64url: `x5t#S256` (RFC 8705 §3.1).
    pub thumbprint: String,
    /// SHA-256 of what is signed of it, in base64url: what it is called where it is taken back.
    ///
    /// SECURITY: an ECDSA signature has a second spelling, and with it a certificate a second thumbprint.
    pub id: String,
    /// Its subject as text, the most specific part first (RFC 4514); empty where it names none.
    pub subject: String,
    /// The common names of its subject.
    pub common_names: Vec<String>,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// Its URIs, of SPIFFE for example.
    pub uris: Vec<String>,
    /// Its mail addresses.
    pub emails: Vec<String>,
    /// From when it holds, in unix seconds.
    pub not_before: i64,
    /// Until when it holds, in unix seconds.
    pub not_after: i64,
}

impl ClientCertificate {
    /// Reads the first certificate of a chain that `authority` has signed; `None` where it cannot be read.
    #[must_use]
    pub fn read(chain: &[CertificateDer<'_>], authority: Authority) -> Option<Self> {
        let der = chain.first()?;
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let (mut dns, mut uris, mut emails) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(names) = parsed.subject_alternative_name().ok()? {
            for name in &names.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    dns.push(name.to_ascii_lowercase());
                } else if let GeneralName::URI(uri) = name {
                    uris.push((*uri).to_owned());
                } else if let GeneralName::RFC822Name(email) = name {
                    emails.push((*email).to_owned());
                }
            }
        }
        let common_names = parsed.subject().iter_common_name().map(|name| name.as_str().map(str::to_owned));
        Some(Self {
            authority,
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            thumbprint: sha256(der),
            id: id_of(der)?,
            subject: written(parsed.subject()),
            common_names: common_names.collect::<Result<_, _>>().ok()?,
            dns,
            uris,
            emails,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }
}

/// Whether a chain is good at `now` (unix seconds) by what a verifier believes.
///
/// # Errors
/// Why not.
pub fn verify(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>], now: i64) -> Result<(), rustls::Error> {
    let (first, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    verifier.verify_client_cert(first, others, now).map(drop)
}

/// What a certificate in DER is called where it is taken back; `None` where it cannot be read.
#[must_use]
pub fn id_of(der: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(sha256(parsed.tbs_certificate.as_ref()))
}

fn sha256(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}

/// Names of attributes that have a short one (RFC 4514 §3, and `SERIALNUMBER` of RFC 4519).
const NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAIL"),
];

/// A name as RFC 4514 §2 writes it: no value can be read as another attribute.
fn written(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"));
    parts.collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    let short = NAMES.iter().find(|(id, _)| *id == kind).map(|(_, name)| *name);
    if let (Some(name), Ok(value)) = (short, attribute.as_str()) {
        return format!("{name}={}", escaped(value));
    }
    // What has no name, or is no text, is written as its bytes.
    let bytes = attribute.as_slice().iter();
    let hex = bytes.flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16));
    format!("{}=#{}", short.unwrap_or(&kind), hex.collect::<String>())
}

/// A value of RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (place, letter) in value.chars().enumerate() {
        let is_edge = (place == 0 && matches!(letter, ' ' | '#')) || (place == last && letter == ' ');
        if letter == '\0' {
            out.push_str("\\00");
            continue;
        }
        if is_edge || matches!(letter, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

fn fixed(digest: &digest::Digest) -> [u8; 32] {
    let mut fixed = [0; 32];
    fixed.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(subject: &[(rcgen::DnType, &str)], names: &[&str]) -> ClientCertificate {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        for name in names {
            let san = match name.split_once("://") {
                Some(_) => rcgen::SanType::URI((*name).try_into().expect("a URI")),
                None if name.contains('@') => rcgen::SanType::Rfc822Name((*name).try_into().expect("an address")),
                None => rcgen::SanType::DnsName((*name).try_into().expect("a name")),
            };
            params.subject_alt_names.push(san);
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a certificate");
        ClientCertificate::read(&[der.der().clone()], Authority::new("mesh", &[])).expect("a certificate")
    }

    // A value that spells another attribute stays a value.
    #[test]
    fn a_subject_is_written_so_that_it_can_be_read_in_one_way() {
        use rcgen::DnType::{CommonName, CountryName, OrganizationName};
        let plain = read(&[(CountryName, "KR"), (OrganizationName, "Shop"), (CommonName, "orders")], &[]);
        assert_eq!(plain.subject, "CN=orders,O=Shop,C=KR");
        assert_eq!(plain.common_names, ["orders"]);
        assert_ne!(plain.id, plain.thumbprint);
        for (value, expected) in [
            ("x,OU=admin", "CN=x\\,OU=admin"),
            ("x+OU=admin", "CN=x\\+OU=admin"),
            ("a\\b\"c;d<e>f", "CN=a\\\\b\\\"c\\;d\\<e\\>f"),
            (" x ", "CN=\\ x\\ "),
            ("#x", "CN=\\#x"),
            (" ", "CN=\\ "),
            ("홍길동", "CN=홍길동"),
        ] {
            assert_eq!(read(&[(CommonName, value)], &[]).subject, expected);
        }
        assert_eq!(read(&[], &[]).subject, "");
    }

    #[test]
    fn names_are_told_apart_by_their_kind() {
        let read = read(&[], &["spiffe://shop/orders", "Orders.Example.com", "kim@example.com"]);
        assert_eq!(read.uris, ["spiffe://shop/orders"]);
        assert_eq!(read.dns, ["orders.example.com"]);
        assert_eq!(read.emails, ["kim@example.com"]);
        assert_eq!((read.common_names.len(), read.thumbprint.len(), read.id.len()), (0, 43, 43));
    }

    #[test]
    fn other_files_make_other_authorities() {
        assert_eq!(Authority::new("a", &[b"x", b"y"]), Authority::new("a", &[b"x", b"y"]));
        assert_ne!(Authority::new("a", &[b"x", b"y"]), Authority::new("a", &[b"xy", b""]));
        assert_ne!(Authority::new("a", &[b"x"]), Authority::new("b", &[b"x"]));
    }
}
