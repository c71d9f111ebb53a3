//! Authorities of clients' certificates: their files are read here, and listeners ask for what they have signed.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{Kept, issuers, trust};
use crate::accept::tls::{ClientAuth, Clients};
use crate::authenticate::certificate::ClientCertificates;
use crate::certificate::Authority;
use crate::config::file::{ClientAuth as Asked, ClientCertificates as Section, Config};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::route::{Proof, RevocationMode, Route};

/// Largest file of revocation lists, in bytes.
const MAX_LISTS: u64 = 64 * 1024 * 1024;

/// What was read of authorities: for listeners, and for identities.
pub struct Read {
    authority: Authority,
    roots: Arc<RootCertStore>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    section: At<Section>,
}

/// Reads the authorities, in the order of the file.
pub fn read(config: &Config, folder: &Path, mistakes: &mut Mistakes) -> Vec<Read> {
    let mut all = Vec::new();
    for (name, section) in &config.client_certificates.entries {
        if let Some(twin) = config.issuers.declared.iter().find(|other| other.value == name.value) {
            let mistake = Mistake::at(name, format!("an issuer is called `{}` too", name.value.escape_debug()));
            mistakes.add(mistake.allowed("`auth` needs names that differ").also(twin.place, "the other one"));
        }
        let issuers = &config.issuers.entries;
        if let Some((_, twin)) = issuers.iter().find(|(_, issuer)| issuer.issuer.value == name.value) {
            let mistake = Mistake::at(name, format!("`{}` is the `iss` of tokens", name.value.escape_debug()));
            let mistake = mistake.allowed("a name of its own: it is the `iss` of certificates");
            mistakes.add(mistake.also(twin.issuer.place, "their issuer"));
        }
        if section.max_lifetime.is_zero() || section.max_lifetime.subsec_nanos() > 0 {
            let mistake = Mistake::at(&section.max_lifetime, "no certificate lives so long");
            mistakes.add(mistake.allowed("whole seconds, at least `1s`"));
        }
        if !is_asked_for(config, name) {
            let mistake =
                Mistake::at(name, format!("no listener asks for certificates of `{}`", name.value.escape_debug()));
            let remedy = format!("tls: {{ ..., client_auth: {{ by: {} }} }}", name.value.escape_debug());
            mistakes.add(mistake.allowed("`listeners[].tls.client_auth.by` names them").remedy(remedy));
        }
        let wrong = |path: &At<std::path::PathBuf>, reason: String| {
            Mistake::at(path, format!("`{}`: {reason}", path.display()))
                .allowed(format!("files are found from `{}`", folder.display()))
        };
        let path = folder.join(&section.ca_file.value);
        let (bytes, roots) = match issuers::content(&path).and_then(|bytes| Ok((bytes, trust::in_file(&path)?))) {
            Ok(read) => read,
            Err(reason) => {
                mistakes.add(wrong(&section.ca_file, reason));
                continue;
            }
        };
        let listed = section.crl_file.as_ref().map(|file| (file, lists(&folder.join(&file.value))));
        let (list_bytes, lists) = match listed {
            None => (Vec::new(), Vec::new()),
            Some((_, Ok(read))) => read,
            Some((file, Err(reason))) => {
                mistakes.add(wrong(file, reason));
                continue;
            }
        };
        let authority = Authority::new(name, &[&bytes, &list_bytes]);
        all.push(Read { authority, roots: Arc::new(roots), lists, section: section.clone() });
    }
    all
}

/// How a listener asks for certificates.
pub fn asked(section: &At<Asked>, config: &Config, all: &[Read], mistakes: &mut Mistakes) -> Option<Clients> {
    let declared = &config.client_certificates;
    if !declared.declared.iter().any(|name| name.value == section.by.value) {
        let mistake =
            Mistake::at(&section.by, format!("unknown `client_certificates`: `{}`", section.by.escape_debug()));
        let mistake = mistake.allowed(format!("declared: {}", declared.names()));
        mistakes.add(mistake.near(&section.by, declared.declared.iter().map(|known| known.as_str())));
        return None;
    }
    // What could not be read has been said.
    let read = all.iter().find(|read| *read.authority.name == *section.by.value)?;
    match verifier(read, *section.mode) {
        Ok(verifier) => Some(Clients { mode: *section.mode, authority: read.authority.clone(), verifier }),
        Err(reason) => {
            mistakes.add(unbelievable(&section.by, &reason));
            None
        }
    }
}

/// What makes identities of certificates: one for each that was read, in their order, since routes name them by place.
pub fn compile(all: Vec<Read>, before: &Kept, mistakes: &mut Mistakes) -> Vec<ClientCertificates> {
    let mut made = Vec::new();
    for read in all {
        // Whether one has to be shown was asked of the listeners.
        let verifier = match verifier(&read, ClientAuth::Required) {
            Ok(verifier) => verifier,
            Err(reason) => {
                mistakes.add(unbelievable(&read.section.ca_file, &reason));
                continue;
            }
        };
        let Read { authority, section, .. } = read;
        made.push(ClientCertificates {
            retired: before.authority(&authority),
            authority,
            verifier,
            issuer: "certificate".into(),
            subject: *section.subject,
            max_lifetime: i64::try_from(section.max_lifetime.as_secs()).unwrap_or(i64::MAX),
        });
    }
    made
}

fn unbelievable<T>(at: &At<T>, reason: &str) -> Mistake {
    let mistake = Mistake::at(at, format!("they cannot be believed: {reason}"));
    mistake.allowed("certificates of authorities, and lists that they have signed")
}

/// A certificate that a route takes has to be one that can be taken back.
pub fn can_be_taken_back(config: &Config, routes: &[Route], mistakes: &mut Mistakes) {
    if config.revocation.keys.jti.is_some() {
        return;
    }
    let asks = |route: &&Route| route.revocation.mode != RevocationMode::Off;
    for (place, (name, section)) in config.client_certificates.entries.iter().enumerate() {
        let taken = routes.iter().filter(asks).find(|route| route.auth.takes(Proof::Certificate(place)));
        if let Some(route) = taken.filter(|_| section.crl_file.is_none()) {
            let mistake =
                Mistake::at(name, format!("route `{}` takes certificates that could never be taken back", route.id));
            let allowed = "`crl_file`, `revocation.keys.jti`, or `revocation: { mode: off }` on the route, in words";
            mistakes.add(mistake.allowed(allowed).remedy("revocation: { keys: { jti: \"blacklist:{jti}\" } }"));
        }
    }
}

fn is_asked_for(config: &Config, name: &At<String>) -> bool {
    let mut asked = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()?.client_auth.as_ref());
    asked.any(|asked| asked.by.value == name.value)
}

fn verifier(read: &Read, mode: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&read.roots), provider);
    let builder = builder.with_crls(read.lists.iter().cloned());
    // A list that is over says nothing of what was taken back since (RFC 5280 §6.3.3).
    let builder = if read.lists.is_empty() { builder } else { builder.enforce_revocation_expiration() };
    let builder = match mode {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map(|verifier| verifier as _).map_err(|error| error.to_string())
}

fn lists(path: &Path) -> Result<(Vec<u8>, Vec<CertificateRevocationListDer<'static>>), String> {
    let bytes = issuers::content_within(path, MAX_LISTS)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let lists = lists.map_err(|error| format!("this is no PEM: {error}"))?;
    if lists.is_empty() {
        return Err("there is no revocation list in it (PEM)".to_owned());
    }
    Ok((bytes, lists))
}
