//! `bearward explain`: what is decided of a request, and why.

use serde_json::{Map, Value};

use super::policy::{self, Verdict, reach};
use super::revoke::read_token;
use super::token::claim;
use super::{ConfigPath, Failure, print, runtime};
use crate::authenticate::assume::Assumed;
use crate::authenticate::opaque::Introspector;
use crate::clock;
use crate::config::compile::Compiled;
use crate::gateway::judge::Who;

const EXAMPLES: &str = "Examples:
  bearward explain GET /orders/42 --token - < token.txt
  bearward explain POST /orders/42/cancel --as shop --claim sub=kim --claim 'roles=[\"customer\"]'
  bearward explain GET https://shop.example.com/me --header 'Cookie: SID=...'

Exit codes: 0 there is an answer, allowed or refused; 1 it could not be asked.";

/// Say which route a request comes to, who calls, what the rule makes of it, and what the service gets; or why it is
/// refused. By the same code as a gateway that runs. Nothing is sent to a service, and nothing is counted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// The method.
    method: String,
    /// The path, or a whole URL.
    path: String,
    /// The token that it comes with; `-` reads it from the standard input, so that it stays out of the history.
    #[arg(long, conflicts_with = "by")]
    token: Option<String>,
    /// As if it came with a credential of this issuer (or of this name in `sessions`, `introspection`,
    /// `client_certificates`) that says what `--claim` says.
    #[arg(long = "as", value_name = "NAME")]
    by: Option<String>,
    /// What that says, `name=value`; the value is JSON, or text if it is no JSON. `null`: it is not there.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim, requires = "by")]
    claims: Vec<(String, Value)>,
    /// As if that had been taken back.
    #[arg(long, requires = "by")]
    revoked: bool,
    /// A header field, `Name: value`.
    #[arg(long = "header", short = 'H', value_name = "FIELD", value_parser = field)]
    headers: Vec<(String, String)>,
    /// The host that is asked for.
    #[arg(long)]
    host: Option<String>,
    /// Ask nobody: neither the store, nor for published keys, nor about tokens (`introspection`).
    #[arg(long)]
    offline: bool,
    /// For people, or for machines.
    #[arg(long, value_enum, default_value = "text")]
    format: super::check::Output,
    #[command(flatten)]
    config: ConfigPath,
}

/// `Name: value`.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("`Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Explain {
    /// Explains.
    pub fn run(self) -> Result<(), Failure> {
        let (_, compiled) = self.config.load()?;
        let mut fields = self.headers.clone();
        if let Some(token) = &self.token {
            fields.push(("Authorization".to_owned(), format!("Bearer {}", read_token(token)?)));
        }
        let head = policy::head(&self.method, &self.path, self.host.as_deref(), &fields).map_err(Failure::Usage)?;
        let assumed = self.assumed(&compiled)?;
        let (verdict, notes) = runtime()?.block_on(self.ask(&compiled, &head, assumed.as_ref()));
        match self.format {
            super::check::Output::Text => print(&verdict.text(&notes)),
            super::check::Output::Json => {
                let mut shown = verdict.to_json();
                if let Value::Object(members) = &mut shown
                    && !notes.is_empty()
                {
                    members.insert("notes".to_owned(), notes.into());
                }
                print(&format!("{shown:#}\n"))
            }
        }
    }

    /// The caller that is only thought of, where one is.
    fn assumed(&self, compiled: &Compiled) -> Result<Option<Assumed>, Failure> {
        let Some(name) = &self.by else { return Ok(None) };
        let authenticator = &compiled.gateway.authenticator;
        let by = policy::proof(authenticator, name).ok_or_else(|| {
            let known = policy::why::list(authenticator.vouchers().map(|(name, _)| name));
            Failure::Usage(format!("--as: nobody in the configuration is called `{name}`; there are {known}"))
        })?;
        Ok(Some(Assumed { by, claims: self.claims.iter().cloned().collect::<Map<_, _>>(), is_revoked: self.revoked }))
    }

    async fn ask(
        &self,
        compiled: &Compiled,
        head: &http::request::Parts,
        assumed: Option<&Assumed>,
    ) -> (Verdict, Vec<String>) {
        let gateway = &compiled.gateway;
        if let Some(assumed) = assumed {
            return (policy::judge(gateway, head, Who::Assumed(assumed), clock::now()).await, Vec::new());
        }
        let needs = reach::Needs::of(gateway, head);
        let mut notes = Vec::new();
        if self.offline {
            gateway.authenticator.introspectors().iter().for_each(Introspector::ask_nobody);
            notes.extend(needs.offline());
        } else {
            notes.extend(reach::read_keys(&compiled.background.keys, &needs.issuers).await);
        }
        let (store, note) = reach::store(gateway, self.offline || !needs.store).await;
        let verdict = policy::judge(gateway, head, Who::Shown(&store), clock::now()).await;
        // Where nobody was asked it makes no difference.
        notes.extend(note.filter(|_| needs.store && verdict.asks_the_store()));
        (verdict, notes)
    }
}
