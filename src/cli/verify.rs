//! `bearward token verify`: whether a token would be taken, and by which issuer.

use serde_json::{Value, json};

use super::policy::reach;
use super::policy::why::token::{Claimed, why};
use super::revoke::read_token;
use super::{ConfigPath, Failure, print, printable, runtime};
use crate::authenticate::Identity;
use crate::authenticate::bearer::Bearer;
use crate::authenticate::claims::Claims;
use crate::authenticate::issuer::Issuer;
use crate::authenticate::token::UnverifiedToken;
use crate::clock;
use crate::denial::Denial;
use crate::gateway::Gateway;
use crate::route::{Proof, RevocationMode, Route, Rule};

/// Verify a token by the issuers of a configuration: signature, algorithm, audience, times, and the claims that are
/// required; and whether it could be taken back. Whether it was is not asked (`bearward explain` does).
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
        let said = Claimed::of(&text);
        let form = Bearer::from_text(&text).and_then(UnverifiedToken::parse).map(drop);
        if let Err(denial) = form {
            return Err(Failure::Runtime(format!("refused, {}: {}", denial.label(), why(&denial, None, &said, 0))));
        }
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
            if let Some(name) = &self.issuer {
                return Err(Failure::Usage(format!("--issuer: there is no issuer `{name}`; there are {known}")));
            }
            let is_there = said.claims.contains_key("iss");
            let denial = if is_there { Denial::WrongIssuer } else { Denial::MissingClaim("iss".into()) };
            let found = printable(&said.found("iss"));
            return Err(Failure::Runtime(format!("refused, {}: {found}; issuers are {known}", denial.label())));
        }
        let mut notes = Vec::new();
        if !self.offline {
            let asked: Vec<&Issuer> = issuers.iter().map(|(_, issuer)| *issuer).collect();
            notes = runtime()?.block_on(reach::read_keys(&compiled.background.keys, &asked));
        }
        let now = clock::now().unix;
        let mut refusals = Vec::new();
        for (place, issuer) in issuers {
            match held(&compiled.gateway, &text, place, now) {
                Ok(identity) => return print(&format!("{:#}\n", shown(&identity, issuer, &said, now))),
                Err(denial) => refusals.push(refusal(&denial, issuer, &said, now)),
            }
        }
        refusals.extend(notes.into_iter().map(|note| format!("note: {note}")));
        Err(Failure::Runtime(refusals.join("\n")))
    }
}

/// Who the token is of, where routes would take it.
fn held(gateway: &Gateway, token: &str, place: usize, now: i64) -> Result<Identity, Denial> {
    let identity = gateway.authenticator.verify(token, place, now)?;
    let asks = |route: &Route| {
        let is_asked = !matches!(route.rule, Rule::Public) && route.revocation.mode != RevocationMode::Off;
        is_asked && route.auth.takes(Proof::Issuer(place))
    };
    if gateway.routes.all().iter().any(asks) {
        identity.can_be_taken_back()?;
    }
    Ok(identity)
}

fn shown(identity: &Identity, issuer: &Issuer, said: &Claimed, now: i64) -> Value {
    let ends = Claims::new(said.claims.clone()).date("exp").ok().flatten();
    json!({
        "issuer": &*issuer.name,
        "sub": &**identity.subject(),
        "roles": identity.roles(),
        "scopes": identity.scopes(),
        "header": said.header,
        "claims": said.claims,
        "expires_in_seconds": ends.map(|ends| ends.saturating_sub(now)),
        "signature": "verified",
        "revocation": "not asked",
    })
}

fn refusal(denial: &Denial, issuer: &Issuer, said: &Claimed, now: i64) -> String {
    let why = why(denial, Some(issuer), said, now);
    printable(&format!("refused by `{}`, {}: {why}", issuer.name, denial.label()))
}
