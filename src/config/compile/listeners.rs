//! Listeners: their addresses differ, and their certificates are loaded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::client_certificates::{self, Read};
use crate::accept::Listener;
use crate::accept::tls::{Certificate, Fault, Files, Tls};
use crate::config::file::{Config, Tls as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;

/// Compiles the listeners, in the order of the file.
pub fn compile(config: &Config, folder: &Path, authorities: &[Read], mistakes: &mut Mistakes) -> Vec<Listener> {
    if config.listeners.is_empty() && !mistakes.is_known(&config.listeners) {
        let mistake = Mistake::at(&config.listeners, "the list is empty");
        mistakes.add(mistake.allowed("at least one").remedy("listeners: [ { address: \"0.0.0.0:8080\" } ]"));
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut listeners = Vec::new();
    for listener in config.listeners.iter() {
        let address = *listener.address;
        let admin = std::iter::once(&*config.admin.address);
        if let Some(other) = addresses.iter().chain(admin).find(|other| are_one(address, **other)) {
            let found = if *other == address {
                format!("`{address}` is used twice")
            } else {
                format!("`{address}` and `{other}` cannot both be listened on")
            };
            let mistake = Mistake::at(&listener.address, found);
            mistakes.add(mistake.allowed("every listener, and `admin`, needs an address of its own"));
        }
        addresses.push(address);
        let tls = listener.tls.as_ref().and_then(|section| tls(section, (config, folder), authorities, mistakes));
        let proxied = listener.proxy_protocol.iter().map(|network| network.value).collect();
        listeners.push(Listener { address, tls: tls.map(Arc::new), proxied });
    }
    listeners
}

/// Whether only one of two addresses can be listened on: they are the same, or one of them is all of the machine's (`[::]` is
/// those of IPv4 as well).
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    let takes_in = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let is_shared = one.ip() == other.ip() || takes_in(one, other) || takes_in(other, one);
    one.port() != 0 && one.port() == other.port() && is_shared
}

fn tls(
    section: &At<Section>,
    (config, folder): (&Config, &Path),
    authorities: &[Read],
    mistakes: &mut Mistakes,
) -> Option<Tls> {
    if section.certificates.is_empty() && !mistakes.is_known(&section.certificates) {
        let mistake = Mistake::at(&section.certificates, "the list is empty");
        mistakes.add(
            mistake.allowed("at least one certificate").remedy("`bearward keys generate --tls localhost` makes one"),
        );
    }
    let loaded: Vec<_> =
        section.certificates.iter().map(|one| load(&one.cert_file, &one.key_file, folder, mistakes)).collect();
    let loaded = loaded.into_iter().collect::<Option<Vec<_>>>().filter(|loaded| !loaded.is_empty())?;
    let clients = match &section.client_auth {
        None => None,
        Some(asked) => Some(client_certificates::asked(asked, config, authorities, mistakes)?),
    };
    match Tls::new(loaded, *section.min_version, clients) {
        Ok(tls) => Some(tls),
        Err(reason) => {
            mistakes.add(Mistake::at(section, format!("TLS cannot be set up: {reason}")).allowed("see the reason"));
            None
        }
    }
}

/// Loads a certificate and its key.
pub fn load(
    cert: &At<PathBuf>,
    key: &At<PathBuf>,
    folder: &Path,
    mistakes: &mut Mistakes,
) -> Option<(Files, Certificate)> {
    let files = Files { cert: folder.join(&cert.value), key: folder.join(&key.value) };
    let (at, reason) = match files.load() {
        Ok(certificate) => return Some((files, certificate)),
        Err(Fault::Cert(reason)) => (cert, reason),
        Err(Fault::Key(reason)) => (key, reason),
    };
    let mistake = Mistake::at(at, format!("`{}`: {reason}", at.display()));
    mistakes.add(mistake.allowed(format!("files are found from `{}`", folder.display())));
    None
}
