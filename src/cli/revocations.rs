//! `bearward revocations list`: what is taken back now, as a running gateway sees it.

use http::StatusCode;
use serde_json::Value;

use super::{ConfigPath, Failure, print};
use crate::percent;

/// See what is taken back.
#[derive(Debug, clap::Subcommand)]
pub enum Revocations {
    /// List what the store holds under the names of `revocation.keys`: kind, key, value, seconds left.
    #[command(
        after_help = "Examples:\n  bearward revocations list\n  bearward revocations list --kind sub --format json"
    )]
    List(List),
}

/// Which, and how.
#[derive(Debug, clap::Args)]
pub struct List {
    /// One kind; otherwise every kind that the configuration names.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// For people, or one JSON object a line.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
    /// The gateway's admin address; otherwise the one in the configuration.
    #[arg(long, env = "BEARWARD_ADMIN", value_name = "HOST:PORT")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Jti,
    Sid,
    Sub,
    Iss,
    All,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Jti, Self::Sid, Self::Sub, Self::Iss, Self::All];

    const fn name(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sid => "sid",
            Self::Sub => "sub",
            Self::Iss => "iss",
            Self::All => "all",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Columns.
    Text,
    /// A JSON object for each.
    Json,
}

impl Revocations {
    /// Lists.
    pub fn run(self) -> Result<(), Failure> {
        let Self::List(list) = self;
        let address = match &list.admin {
            Some(address) => address.clone(),
            None => list.config.admin()?,
        };
        super::runtime()?.block_on(async {
            match list.kind {
                Some(kind) => list.all_of(&address, kind).await.map(drop),
                None => list.every_kind(&address).await,
            }
        })
    }
}

impl List {
    async fn every_kind(&self, address: &str) -> Result<(), Failure> {
        let mut reasons = Vec::new();
        for kind in Kind::ALL {
            match self.all_of(address, kind).await {
                Err(Failure::Usage(reason)) => reasons.push(reason),
                other => other?,
            }
        }
        if reasons.len() == Kind::ALL.len() { Err(Failure::Runtime(reasons.join("; "))) } else { Ok(()) }
    }

    /// Every page of one kind; `Usage` where the configuration does not name it.
    async fn all_of(&self, address: &str, kind: Kind) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            let target = format!("/revocations?kind={}&after={}", kind.name(), percent::encode(&after));
            let answer = super::http::get(address, &target).await?;
            let page: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            let detail = || page.get("detail").and_then(Value::as_str).unwrap_or("no reason was given").to_owned();
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::BAD_REQUEST => return Err(Failure::Usage(detail())),
                status => return Err(Failure::Runtime(format!("{} ({})", detail(), status.as_u16()))),
            }
            for one in page.get("revocations").and_then(Value::as_array).into_iter().flatten() {
                print(&self.line(kind, one))?;
            }
            match page.get("after").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut after),
                None => return Ok(()),
            }
        }
    }

    fn line(&self, kind: Kind, one: &Value) -> String {
        if self.format == Output::Json {
            let mut one = one.clone();
            if let Some(members) = one.as_object_mut() {
                members.insert("kind".to_owned(), kind.name().into());
            }
            return format!("{one}\n");
        }
        let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
        let left = one.get("remaining_ms").and_then(Value::as_u64);
        let left = left.map_or_else(|| "for ever".to_owned(), |millis| format!("{} s", millis / 1000));
        // What others wrote into the store is not sent to a terminal as it is.
        format!("{}  {}  {}  {left}\n", kind.name(), text("key").escape_debug(), text("value").escape_debug())
    }
}
