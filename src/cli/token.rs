//! `bearward token`: tokens for development, and a look inside one.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value, json};

use super::keys::algorithm;
use super::revoke::read_token;
pub use super::verify::Verify;
use super::{Failure, duration, print};
use crate::authenticate::bearer::Bearer;
use crate::authenticate::token::UnverifiedToken;
use crate::clock;
use crate::signer::{ACCESS_TOKEN, Signer};

/// Make or take apart a token, for development.
#[derive(Debug, clap::Subcommand)]
pub enum Token {
    /// Make a token. For development: an identity provider does this in production.
    Mint(Box<Mint>),
    /// Show what a token says. Nothing is verified.
    Inspect(Inspect),
    /// Verify a token by the issuers of a configuration.
    Verify(Verify),
}

/// Make a token. For development: an identity provider does this in production.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  bearward token mint --key keys/key-1.private.pem --alg ES256 --kid key-1 \\\n    --iss https://auth.example.com --aud shop-api --sub kim --role customer --claim name=홍길동"
)]
pub struct Mint {
    /// The private key in PEM, or the secret for HS*.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The algorithm.
    #[arg(long, default_value = "ES256", value_parser = algorithm)]
    alg: Algorithm,
    /// The key's name.
    #[arg(long)]
    kid: Option<String>,
    /// The issuer.
    #[arg(long)]
    iss: String,
    /// The audience.
    #[arg(long)]
    aud: String,
    /// The subject.
    #[arg(long)]
    sub: String,
    /// A role; may be given several times.
    #[arg(long = "role")]
    roles: Vec<String>,
    /// Scopes, with spaces between them.
    #[arg(long)]
    scope: Option<String>,
    /// How long it lives.
    #[arg(long, default_value = "10m", value_parser = duration)]
    ttl: Duration,
    /// The token's id; otherwise a new one.
    #[arg(long)]
    jti: Option<String>,
    /// How many, one a line, each with an id of its own: for load tests.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with = "jti")]
    count: u32,
    /// Another claim, `name=value`; the value is JSON, or text if it is no JSON.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
}

/// Show what a token says. Nothing is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  bearward token inspect eyJhbGciOi...\n  bearward token inspect - < token.txt")]
pub struct Inspect {
    /// The token; `-` reads it from the standard input.
    token: String,
}

impl Token {
    /// Makes or shows.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Mint(mint) => mint.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Mint {
    fn run(self) -> Result<(), Failure> {
        let content =
            std::fs::read(&self.key).map_err(|error| Failure::Runtime(format!("{}: {error}", self.key.display())))?;
        let unfit = |error| unfit(self.alg, &error);
        let signer = Signer::new(self.alg, self.kid.as_deref(), ACCESS_TOKEN, &content).map_err(unfit)?;
        for _ in 0..self.count {
            print(&format!("{}\n", signer.sign(&Value::Object(self.claims())).map_err(unfit)?))?;
        }
        Ok(())
    }

    fn claims(&self) -> Map<String, Value> {
        let now = clock::unix_seconds(clock::wall());
        let life = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), self.iss.as_str().into());
        claims.insert("aud".to_owned(), self.aud.as_str().into());
        claims.insert("sub".to_owned(), self.sub.as_str().into());
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), now.saturating_add(life).into());
        let jti = self.jti.clone().unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
        claims.insert("jti".to_owned(), jti.into());
        if !self.roles.is_empty() {
            claims.insert("roles".to_owned(), json!(self.roles));
        }
        if let Some(scope) = &self.scope {
            claims.insert("scope".to_owned(), scope.as_str().into());
        }
        claims.extend(self.claims.iter().cloned());
        claims
    }
}

fn unfit(algorithm: Algorithm, error: &jsonwebtoken::errors::Error) -> Failure {
    Failure::Runtime(format!("the key cannot sign {algorithm:?}: {error}"))
}

/// `name=value`; the value is JSON, or text if it is no JSON.
pub fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("`name=value`")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

impl Inspect {
    fn run(self) -> Result<(), Failure> {
        let text = read_token(&self.token)?;
        let part = |place: usize| {
            let part = text.split('.').nth(place).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            part.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        };
        let (Some(header), Some(claims)) = (part(0), part(1)) else {
            return Err(Failure::Runtime(
                "this is no token: three parts of base64url with dots between them".to_owned(),
            ));
        };
        let now = clock::unix_seconds(clock::wall());
        let ends = claims.get("exp").and_then(Value::as_i64);
        let form = Bearer::from_text(&text).and_then(UnverifiedToken::parse);
        let shown = json!({
            "header": header,
            "claims": claims,
            "expires_in_seconds": ends.map(|ends| ends - now),
            "form": form.map_or_else(|denial| denial.label(), |_| "taken"),
            "signature": "not verified",
        });
        print(&format!("{shown:#}\n"))
    }
}
