//! `bearward token verify`: whether a token would be taken, and by which issuer.

use serde_json::{Value, json};

use super::policy::reach;
use super::policy::why::token::{Said, why};
use super::revoke::read_token;
use super::{ConfigPath, Failure, print, runtime};
use crate::authenticate::issuer::Issuer;
use crate::clock;
use crate::denial::Denial;

/// Verify a token by the issuers of a configuration: signature, algorithm, audience, times, and the claims that are
/// required. Whether it was taken back is not asked (`bearward explain` does).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward token verify - < token.txt\n  bearward token verify eyJhbGciOi... --issuer shop\n\nExit codes: 0 it holds, 1 it does not."
)]
pub struct Verify {
    /// The token; `-` reads it from the standard input.
    token: String,
    /// The issuer, by its name in the configuration. Left out: the one whose `iss` the token has.
    #[arg(long)]
    issuer: Option<String>,
    /// Do not read published keys.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    config: ConfigPath,
}

impl Verify {
    /// Verifies.
    pub fn run(self) -> Result<(), Failure> {
        let text = read_token(&self.token)?;
        let said = Said::of(&text);
        let (_, compiled) = self.config.load()?;
        let authenticator = &compiled.gateway.authenticator;
        let is_it = |issuer: &Issuer| match &self.issuer {
            Some(name) => *issuer.name == **name,
            None => said.claims.get("iss").is_some_and(|iss| *iss == *issuer.issuer),
        };
        let issuers: Vec<(usize, &Issuer)> =
            authenticator.issuers().iter().enumerate().filter(|(_, issuer)| is_it(issuer)).collect();
        if issuers.is_empty() {
            let known = authenticator.issuers().iter().map(|issuer| format!("`{}` ({})", issuer.name, issuer.issuer));
            let known = known.collect::<Vec<_>>().join(", ");
            return Err(match &self.issuer {
                Some(name) => Failure::Usage(format!("--issuer: there is no issuer `{name}`; there are {known}")),
                None => Failure::Runtime(format!("refused, wrong_issuer: {}; issuers are {known}", said.found("iss"))),
            });
        }
        let mut notes = Vec::new();
        if !self.offline {
            let asked: Vec<&Issuer> = issuers.iter().map(|(_, issuer)| *issuer).collect();
            notes = runtime()?.block_on(reach::read_keys(&compiled.background.keys, &asked));
        }
        let now = clock::now().unix;
        let mut refusals = Vec::new();
        for (place, issuer) in issuers {
            match authenticator.verify(&text, place, now) {
                Ok(identity) => {
                    return print(&format!(
                        "{:#}\n",
                        json!({
                            "issuer": &*issuer.name,
                            "sub": &**identity.subject(),
                            "roles": identity.roles(),
                            "scopes": identity.scopes(),
                            "header": said.header,
                            "claims": said.claims,
                            "expires_in_seconds": said.claims.get("exp").and_then(Value::as_i64).map(|ends| ends - now),
                            "signature": "verified",
                            "revocation": "not asked",
                        })
                    ));
                }
                Err(denial) => refusals.push(refusal(&denial, issuer, &said, now)),
            }
        }
        refusals.extend(notes.into_iter().map(|note| format!("note: {note}")));
        Err(Failure::Runtime(refusals.join("\n")))
    }
}

fn refusal(denial: &Denial, issuer: &Issuer, said: &Said, now: i64) -> String {
    format!("refused by `{}`, {}: {}", issuer.name, denial.label(), why(denial, Some(issuer), said, now))
}
