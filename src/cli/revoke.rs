//! `bearward revoke`: a forced logout, through a running gateway.

use std::io::Read;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};

use super::{ConfigPath, Failure, print};

/// Take a token, a login, a subject, an issuer or everything back, through a running gateway's admin address.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward revoke --sub kim\n  bearward revoke --jti 7c1e --issuer shop\n  bearward revoke --issuer shop\n  bearward revoke --all\n  bearward revoke - < token.txt"
)]
#[group(id = "what", required = true, multiple = true, args = ["token", "jti", "sid", "sub", "certificate", "issuer", "all"])]
pub struct Revoke {
    /// The token itself; `-` reads it from the standard input, so that it stays out of the history.
    #[arg(conflicts_with_all = ["jti", "sid", "sub", "certificate", "issuer", "all"])]
    token: Option<String>,
    /// One token, by its id.
    #[arg(long, conflicts_with_all = ["sid", "sub", "all"])]
    jti: Option<String>,
    /// Every token of one login.
    #[arg(long, conflicts_with_all = ["sub", "all"])]
    sid: Option<String>,
    /// Every token of one subject that was issued up to now.
    #[arg(long, conflicts_with = "all")]
    sub: Option<String>,
    /// A client's certificate, from its file (PEM).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["jti", "sid", "sub", "issuer", "all"])]
    certificate: Option<std::path::PathBuf>,
    /// Every token of one issuer that was issued up to now, by its name in the configuration (or the name in `sessions`,
    /// `introspection`, `client_certificates`). Beside `--jti`, `--sid` or `--sub`: whose it is, where the keys hold the issuer.
    #[arg(long)]
    issuer: Option<String>,
    /// Every token that was issued up to now.
    #[arg(long, conflicts_with = "issuer")]
    all: bool,
    /// What has to be true before this returns.
    #[arg(long, value_enum, default_value = "primary")]
    ack: Ack,
    /// The gateway's admin address; otherwise the one in the configuration.
    #[arg(long, env = "BEARWARD_ADMIN", value_name = "HOST:PORT")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ack {
    /// The store has it: connected gateways refuse within milliseconds, others within `max_staleness`.
    Primary,
    /// Every replica that is connected to the store has it too.
    Replica,
    /// Every gateway refuses from now on, or serves no protected route.
    All,
}

impl Ack {
    const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::All => "all",
        }
    }

    /// What is true now.
    fn truth(self, said: &Value) -> String {
        let names = |part: &str| -> Vec<&str> {
            said.get(part).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (confirmed, outwaited) = (names("confirmed"), names("outwaited"));
        match self {
            Self::Primary => "the store has it: gateways refuse it as soon as they are told".to_owned(),
            Self::Replica => {
                "the store and its replicas have it: gateways refuse it as soon as they are told".to_owned()
            }
            Self::All if outwaited.is_empty() => format!("every gateway refuses it ({})", list(&confirmed)),
            Self::All => format!(
                "every gateway refuses it ({}), or was silent until it could not serve any more ({})",
                list(&confirmed),
                list(&outwaited)
            ),
        }
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none has a lease beside the one that was asked".to_owned() } else { names.join(", ") }
}

impl Revoke {
    /// Revokes.
    pub fn run(self) -> Result<(), Failure> {
        let address = match &self.admin {
            Some(address) => address.clone(),
            None => self.config.admin()?,
        };
        let body = Value::Object(self.order()?).to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri("/revocations")
            .header(HOST, &address)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Usage(format!("`{address}` is no address: {error}")))?;
        let answer = super::runtime()?.block_on(super::http::send(&address, request)).map_err(Failure::Runtime)?;
        let status = answer.status();
        let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if status != StatusCode::OK {
            let detail = said.get("detail").and_then(Value::as_str).unwrap_or("no reason was given");
            return Err(Failure::Runtime(format!("{detail} ({})", status.as_u16())));
        }
        let part = |name: &str| {
            said.get(name)
                .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let took = said.get("took_us").and_then(Value::as_u64).unwrap_or(0);
        print(&format!(
            "revoked until {}: {}; {} ({} ms)\n",
            part("expires_at"),
            part("key"),
            self.ack.truth(&said),
            took.div_ceil(1000),
        ))
    }

    fn order(&self) -> Result<Map<String, Value>, Failure> {
        let mut order = Map::new();
        if let Some(path) = &self.certificate {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            order.insert("certificate".to_owned(), text.into());
        }
        for (name, value) in [("jti", &self.jti), ("sid", &self.sid), ("sub", &self.sub), ("issuer", &self.issuer)] {
            if let Some(value) = value {
                order.insert(name.to_owned(), value.as_str().into());
            }
        }
        order.insert("ack".to_owned(), self.ack.word().into());
        if self.all {
            order.insert("all".to_owned(), true.into());
        }
        if let Some(token) = &self.token {
            order.insert("token".to_owned(), read_token(token)?.into());
        }
        Ok(order)
    }
}

/// The argument, or the standard input for `-`.
pub fn read_token(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|error| Failure::Runtime(format!("the standard input cannot be read: {error}")))?;
    Ok(text.trim().to_owned())
}
