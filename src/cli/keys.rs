//! `bearward keys generate`: a key pair, a secret, or a certificate for development, in files.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::{Failure, print};
use crate::authenticate::keys::family;
use crate::authenticate::token::{ALGORITHMS, algorithm_named};
use crate::clock;
use crate::signer::public_jwk;

/// Make keys.
#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// A key pair (private and public PEM, and a JWK set), a secret for HS*, or a certificate with its key.
    Generate(Generate),
}

/// Make a key pair, a secret or a certificate. Files that are there are not overwritten.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward keys generate --alg ES256 --kid 2026-11 --out keys\n  bearward keys generate --alg HS256 --kid batch --out secrets\n  bearward keys generate --tls localhost --tls 127.0.0.1 --out tls"
)]
pub struct Generate {
    /// The algorithm that the key is for.
    #[arg(long, default_value = "ES256", value_parser = algorithm)]
    alg: Algorithm,
    /// The key's name, and the files': letters, digits, `-`, `_`, `.`.
    #[arg(long, default_value = "key-1")]
    kid: String,
    /// A certificate for development instead, signed by itself, for this name or address; more than once for more of
    /// them. Good for a year. Clients have to be told to trust it: `curl --cacert tls/localhost.crt`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["alg", "kid"])]
    tls: Vec<String>,
    /// The folder to write to.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// An algorithm by its name.
pub fn algorithm(name: &str) -> Result<Algorithm, String> {
    algorithm_named(name).ok_or_else(|| format!("one of {}", ALGORITHMS.map(|(name, _)| name).join(", ")))
}

impl Keys {
    /// Makes keys.
    pub fn run(self) -> Result<(), Failure> {
        let Self::Generate(generate) = self;
        if generate.tls.iter().any(|name| name.trim().is_empty()) {
            return Err(Failure::Usage("--tls: a name or an address: `localhost`, `127.0.0.1`".to_owned()));
        }
        if !generate.tls.is_empty() {
            return print_names(&certificate(generate.tls, &generate.out)?);
        }
        let is_name = !generate.kid.is_empty()
            && generate.kid.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !generate.kid.starts_with('.');
        if !is_name {
            return Err(Failure::Usage("--kid: letters, digits, `-`, `_` and `.`, not first".to_owned()));
        }
        let files = write(generate.alg, &generate.kid, &generate.out)?;
        print_names(&files)
    }
}

fn print_names(files: &[PathBuf]) -> Result<(), Failure> {
    let names: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
    print(&names.concat())
}

/// Makes a certificate that is signed by itself, and writes it and its key.
fn certificate(names: Vec<String>, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unfit = |error: rcgen::Error| Failure::Usage(format!("--tls: {error}"));
    let label = names.first().map_or_else(String::new, |name| name.replace('*', "any").replace([':', '/'], "-"));
    let mut params = rcgen::CertificateParams::new(names).map_err(unfit)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "bearward development");
    let now = Duration::from_secs(u64::try_from(clock::unix_seconds(clock::wall())).unwrap_or(0));
    // A little earlier, for clocks that differ.
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now - DAY;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + DAY * 365;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate().map_err(unfit)?;
    let certificate = params.self_signed(&key).map_err(unfit)?;
    let io = |error: std::io::Error| Failure::Runtime(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(io)?;
    let (cert, private) = (folder.join(format!("{label}.crt")), folder.join(format!("{label}.key")));
    save(&[(private.clone(), key.serialize_pem(), 0o600), (cert.clone(), certificate.pem(), 0o644)])?;
    Ok(vec![cert, private])
}

const DAY: Duration = Duration::from_secs(86_400);

/// Makes a key and writes its files; returns their names: private, public and set, or the secret.
pub fn write(algorithm: Algorithm, kid: &str, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io = |error: std::io::Error| Failure::Runtime(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(io)?;
    if family(algorithm) == AlgorithmFamily::Hmac {
        let path = folder.join(format!("{kid}.secret"));
        let mut secret = [0; 64];
        SystemRandom::new().fill(&mut secret).map_err(|_| Failure::Runtime("no randomness".to_owned()))?;
        save(&[(path.clone(), format!("{}\n", STANDARD.encode(secret)), 0o600)])?;
        return Ok(vec![path]);
    }
    let (private, public) = pair(algorithm).map_err(|_| Failure::Runtime("the key cannot be made".to_owned()))?;
    let set = jwk_set(algorithm, kid, &private)?;
    let files = [
        (folder.join(format!("{kid}.private.pem")), pem("PRIVATE KEY", &private), 0o600),
        (folder.join(format!("{kid}.public.pem")), pem("PUBLIC KEY", &public), 0o644),
        (folder.join(format!("{kid}.jwks.json")), set, 0o644),
    ];
    save(&files)?;
    Ok(files.into_iter().map(|(path, _, _)| path).collect())
}

type Der = Vec<u8>;

/// A new key pair: PKCS#8 and SubjectPublicKeyInfo.
fn pair(algorithm: Algorithm) -> Result<(Der, Der), aws_lc_rs::error::Unspecified> {
    let spki = |key: PublicKeyX509Der<'_>| key.as_ref().to_vec();
    match family(algorithm) {
        AlgorithmFamily::Hmac => Err(aws_lc_rs::error::Unspecified),
        AlgorithmFamily::Rsa => {
            let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
            let private: Pkcs8V1Der<'_> = AsDer::as_der(&key)?;
            Ok((private.as_ref().to_vec(), spki(key.public_key().as_der()?)))
        }
        AlgorithmFamily::Ec => {
            let curve = if algorithm == Algorithm::ES256 {
                &ECDSA_P256_SHA256_FIXED_SIGNING
            } else {
                &ECDSA_P384_SHA384_FIXED_SIGNING
            };
            let key = EcdsaKeyPair::generate(curve)?;
            Ok((key.to_pkcs8v1()?.as_ref().to_vec(), spki(key.public_key().as_der()?)))
        }
        AlgorithmFamily::Ed => {
            let key = Ed25519KeyPair::generate()?;
            Ok((key.to_pkcs8v1()?.as_ref().to_vec(), spki(key.public_key().as_der()?)))
        }
    }
}

fn jwk_set(algorithm: Algorithm, kid: &str, private: &[u8]) -> Result<String, Failure> {
    let unfit = |error: jsonwebtoken::errors::Error| Failure::Runtime(format!("the key cannot be published: {error}"));
    let jwk = public_jwk(algorithm, kid, pem("PRIVATE KEY", private).as_bytes()).map_err(unfit)?;
    let text = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk] });
    text.map(|text| text + "\n").map_err(|error| Failure::Runtime(error.to_string()))
}

/// RFC 7468: lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = String::new();
    for (place, c) in text.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            lines.push('\n');
        }
        lines.push(c);
    }
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}

/// Writes new files, all of them or none: a private key beside the public one of another pair would be worse than no key.
fn save(files: &[(PathBuf, String, u32)]) -> Result<(), Failure> {
    for (place, (path, content, mode)) in files.iter().enumerate() {
        let opened = OpenOptions::new().write(true).create_new(true).mode(*mode).open(path);
        let is_made = opened.is_ok();
        if let Err(error) = opened.and_then(|mut file| file.write_all(content.as_bytes())) {
            let made = files.iter().take(if is_made { place + 1 } else { place });
            // What cannot be taken away again was just made: it is there for whoever looks.
            made.for_each(|(path, _, _)| drop(std::fs::remove_file(path)));
            return Err(Failure::Runtime(format!("{}: {error}; nothing was written", path.display())));
        }
    }
    Ok(())
}
