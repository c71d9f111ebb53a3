//! Tokens made by hand: header, claims and signature as the test wants them, by `aws-lc-rs` and not
//! by the library that the gateway verifies them with.

use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RsaEncoding,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::now;

pub const SECRET: &[u8] = b"a secret of the tests, thirty-two bytes and some more";

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The RSA key of the tests, made once.
pub fn rsa_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).expect("a key"))
}

/// The P-256 key of the tests, made once.
pub fn ec_key() -> &'static EcdsaKeyPair {
    static KEY: OnceLock<EcdsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
}

pub fn rsa_components(key: &KeyPair) -> (Vec<u8>, Vec<u8>) {
    let public = key.public_key();
    (
        public.modulus().big_endian_without_leading_zero().to_vec(),
        public.exponent().big_endian_without_leading_zero().to_vec(),
    )
}

/// A public RSA key as a JWK.
pub fn rsa_jwk(key: &KeyPair, kid: &str) -> Value {
    let (n, e) = rsa_components(key);
    json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": base64url(n), "e": base64url(e) })
}

/// A public P-256 key as a JWK.
pub fn ec_jwk(key: &EcdsaKeyPair, kid: &str) -> Value {
    let point = key.public_key().as_ref();
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": base64url(&point[1..33]), "y": base64url(&point[33..]) })
}

/// The key files that the tests' configuration names.
pub fn write_keys(folder: &Path) {
    let write = |name: &str, content: &[u8]| std::fs::write(folder.join(name), content).expect("a file");
    write("rsa.jwks.json", json!({ "keys": [rsa_jwk(rsa_key(), "rsa-1")] }).to_string().as_bytes());
    write("ec.jwks.json", json!({ "keys": [ec_jwk(ec_key(), "ec-1")] }).to_string().as_bytes());
    write("hmac.secret", SECRET);
    let private: Pkcs8V1Der<'_> = rsa_key().as_der().expect("a private key");
    write("rsa.private.pem", pem("PRIVATE KEY", private.as_ref()).as_bytes());
    write("ec.private.pem", pem("PRIVATE KEY", ec_key().to_pkcs8v1().expect("a private key").as_ref()).as_bytes());
    write("rsa.public.pem", rsa_public_pem().as_bytes());
}

pub fn rsa_public_der() -> Vec<u8> {
    let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = rsa_key().public_key().as_der().expect("a public key");
    der.as_ref().to_vec()
}

pub fn rsa_public_pem() -> String {
    pem("PUBLIC KEY", &rsa_public_der())
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// DER: a tag, a length, the content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..128 => vec![tag, length as u8],
        128..256 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head, content].concat()
}

/// A SubjectPublicKeyInfo of any RSA numbers, however weak (RFC 3279 §2.3.1).
pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| der(2, &if bytes[0] < 0x80 { bytes.to_vec() } else { [&[0], bytes].concat() });
    let key = der(0x30, &[integer(modulus), integer(exponent)].concat());
    let algorithm = [0x30, 13, 6, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 5, 0];
    der(0x30, &[algorithm.to_vec(), der(3, &[vec![0], key].concat())].concat())
}

/// A SubjectPublicKeyInfo of any point that is said to be on P-256 (RFC 5480 §2).
pub fn ec_spki(point: &[u8]) -> Vec<u8> {
    let algorithm = [0x30, 19, 6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
    der(0x30, &[algorithm.to_vec(), der(3, &[&[0], point].concat())].concat())
}

/// Claims that hold now.
pub struct Claims(pub Value);

impl Claims {
    pub fn of(issuer: &str) -> Self {
        let now = now();
        let jti = format!("{:032x}", fastrand::u128(..));
        Self(json!({ "iss": issuer, "aud": "api", "sub": "kim", "iat": now, "exp": now + 600, "jti": jti }))
    }

    /// The same with these; a `null` leaves a claim out.
    pub fn with(mut self, more: &Value) -> Self {
        let claims = self.0.as_object_mut().expect("an object");
        for (name, value) in more.as_object().expect("an object") {
            if value.is_null() {
                claims.remove(name);
            } else {
                claims.insert(name.clone(), value.clone());
            }
        }
        self
    }

    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

/// `header.payload` of the texts as they are.
pub fn unsigned(header: &str, payload: &str) -> String {
    format!("{}.{}", base64url(header), base64url(payload))
}

pub fn rsa(payload: &str) -> String {
    rsa_as(r#"{"alg":"RS256","kid":"rsa-1"}"#, payload)
}

/// Signed by RSA PKCS#1 with SHA-256, whatever the header says.
pub fn rsa_as(header: &str, payload: &str) -> String {
    rsa_by(rsa_key(), &RSA_PKCS1_SHA256, header, payload)
}

pub fn rsa_by(key: &KeyPair, how: &'static dyn RsaEncoding, header: &str, payload: &str) -> String {
    let signed = unsigned(header, payload);
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(how, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("a signature");
    format!("{signed}.{}", base64url(signature))
}

pub fn rsa_pss(header: &str, payload: &str) -> String {
    rsa_by(rsa_key(), &RSA_PSS_SHA256, header, payload)
}

pub fn rsa_512(header: &str, payload: &str) -> String {
    rsa_by(rsa_key(), &RSA_PKCS1_SHA512, header, payload)
}

pub fn ec(payload: &str) -> String {
    ec_as(r#"{"alg":"ES256","kid":"ec-1"}"#, payload)
}

pub fn ec_as(header: &str, payload: &str) -> String {
    let signed = unsigned(header, payload);
    let signature: signature::Signature = ec_key().sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", base64url(signature))
}

pub fn hmac_as(secret: &[u8], header: &str, payload: &str) -> String {
    let signed = unsigned(header, payload);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(tag))
}

/// `n - s` on P-256: with it a signature `(r, s)` has a second spelling.
pub fn other_s(s: &[u8]) -> [u8; 32] {
    let n: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut wide = [0_u8; 32];
    let s = if s.len() > 32 { &s[s.len() - 32..] } else { s };
    wide[32 - s.len()..].copy_from_slice(s);
    let (mut other, mut borrow) = ([0_u8; 32], 0_i32);
    for place in (0..32).rev() {
        let digit = i32::from(n[place]) - i32::from(wide[place]) - borrow;
        borrow = i32::from(digit < 0);
        other[place] = digit.rem_euclid(256) as u8;
    }
    other
}
