//! Where clients connect, and how they may prove who they are there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::accept::tls::{ClientAuth as Mode, MinVersion};
use crate::authenticate::certificate::Subject;
use crate::config::place::At;
use crate::config::section::section;

section! {
    /// One address that clients connect to.
    pub struct Listener {
        /// Address and port; port 0 takes a free one.
        required address: SocketAddr,
        /// TLS; left out: plain HTTP.
        optional tls: Tls,
        /// Networks of load balancers whose connections begin with a header of the PROXY protocol (version 1 or 2), and
        /// have to; of nobody else is one taken.
        default proxy_protocol: Vec<At<IpNet>> = "[]",
    }
}

section! {
    /// TLS on a listener.
    pub struct Tls {
        /// The name that a client asks for (SNI) picks one; the first where none fits. Read again when the files change.
        required certificates: Vec<At<Certificate>>,
        /// The oldest version that is spoken: `"1.2"` or `"1.3"`.
        default min_version: MinVersion = "1.2",
        /// Whether clients are asked for a certificate; left out: they are not.
        optional client_auth: ClientAuth,
    }
}

section! {
    /// How clients prove in the handshake who they are.
    pub struct ClientAuth {
        /// Whose certificates are taken: a name of `client_certificates`.
        required by: String,
        /// `required`: a client without one gets no connection; `optional`: it has other ways to say who it is.
        default mode: Mode = "required",
    }
}

section! {
    /// Authorities that sign certificates of clients. Named in `auth`, such a certificate proves who is calling.
    pub struct ClientCertificates {
        /// File with the certificates of the authorities, in PEM.
        required ca_file: PathBuf,
        /// File with their revocation lists (CRL), in PEM; each authority of a client's chain needs one in it.
        optional crl_file: PathBuf,
        /// What of a certificate is `sub`: `dn` (its subject: `CN=orders,O=Shop`), `cn`, `dns`, `uri` or `email` (the
        /// first one).
        default subject: Subject = "dn",
        /// Longest life of a certificate; a longer one is refused.
        default max_lifetime: Duration = "398d",
    }
}

section! {
    /// A certificate and its key.
    pub struct Certificate {
        /// File with the certificate and those that it was signed by, in PEM.
        required cert_file: PathBuf,
        /// File with its private key, in PEM.
        required key_file: PathBuf,
    }
}
