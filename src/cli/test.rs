//! `bearward test`: policy tests of a configuration.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::check::Output;
use super::policy::{self, Outcome, Verdict};
use super::{ConfigPath, Failure, print, printable, runtime};
use crate::authenticate::assume::Assumed;
use crate::clock;
use crate::config::place::At;
use crate::config::policy::{Expected, PolicyFile, PolicyTest, RequestLine};
use crate::gateway::Gateway;
use crate::gateway::judge::Who;
use crate::store::{Asker, Memory};

const EXAMPLES: &str = "Example of a file:
  config: gateway.yaml
  callers:
    kim: { by: shop, claims: { sub: kim, roles: [customer] } }
  tests:
    - { name: members see orders, request: GET /orders/42, as: kim, expect: allowed }
    - { name: others do not, request: GET /orders/42, expect: missing_token }

Exit codes: 0 all hold, 1 one does not, 78 the file or its configuration has a mistake.";

/// Ask a configuration about requests, and hold what it decides against what is expected. By the same code as a gateway
/// that runs; nothing is sent, and nobody is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Test {
    /// The policy tests.
    file: PathBuf,
    /// For people, or for machines.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
    #[command(flatten)]
    config: ConfigPath,
}

/// One request, who sends it, and what came of it.
struct Case<'f> {
    test: &'f At<PolicyTest>,
    request: &'f RequestLine,
    caller: Option<&'f str>,
    verdict: Verdict,
    /// What is not as expected.
    wrong: Vec<String>,
}

impl Test {
    /// Tests.
    pub fn run(self) -> Result<(), Failure> {
        let configuration = |errors: crate::config::ConfigErrors| Failure::Configuration(errors.to_string());
        let file = PolicyFile::load(&self.file).map_err(configuration)?;
        // What is said with the command is meant.
        let path = file.config().filter(|_| self.config.config.is_none()).map_or_else(|| self.config.find(), Ok)?;
        let compiled = crate::config::load(&path).map_err(configuration)?;
        file.check(&compiled.gateway).map_err(configuration)?;
        let cases = runtime()?.block_on(ask(&file, &compiled.gateway))?;
        let failed = cases.iter().filter(|case| !case.wrong.is_empty()).count();
        match self.format {
            Output::Json => {
                print(&file.shown(&format!("{:#}\n", cases.iter().map(Case::to_json).collect::<Value>())))?;
            }
            Output::Text => {
                print(&file.shown(&cases.iter().map(|case| case.text(&self.file)).collect::<String>()))?;
                print(&untested(&cases, &compiled.gateway))?;
            }
        }
        match (failed, cases.len()) {
            (0, all) if self.format == Output::Text => print(&format!("{all} requests, all as expected\n")),
            (0, _) => Ok(()),
            (failed, all) => Err(Failure::Runtime(format!("{failed} of {all} requests are not as expected"))),
        }
    }
}

/// Asks all requests of a file, each as each of its callers.
async fn ask<'f>(file: &'f PolicyFile, gateway: &Gateway) -> Result<Vec<Case<'f>>, Failure> {
    let mut cases = Vec::new();
    let nothing = Asker::Memory(std::sync::Arc::new(Memory::default()));
    for test in file.tests.tests.iter() {
        let fields: Vec<(String, String)> =
            test.headers.entries.iter().map(|(name, value)| (name.value.clone(), value.value.clone())).collect();
        let callers: Vec<Option<&At<String>>> = match &test.r#as {
            Some(names) => names.0.iter().map(Some).collect(),
            None => vec![None],
        };
        for request in &test.request.0 {
            let host = test.host.as_ref().map(|host| host.value.as_str());
            let head = policy::head(&request.method, &request.target, host, &fields).map_err(|reason| {
                let place = test.place;
                Failure::Configuration(format!("{}: {}: {reason}", place.line, test.name.value))
            })?;
            for caller in &callers {
                let assumed = caller.and_then(|name| assumed(file, gateway, name));
                let who = assumed.as_ref().map_or(Who::Shown(&nothing), Who::Assumed);
                let verdict = policy::judge(gateway, &head, who, clock::now()).await;
                let wrong = wrong(test, &verdict);
                cases.push(Case { test, request, caller: caller.map(|name| name.value.as_str()), verdict, wrong });
            }
        }
    }
    Ok(cases)
}

/// A caller of the file.
fn assumed(file: &PolicyFile, gateway: &Gateway, name: &str) -> Option<Assumed> {
    let (_, source) = file.tests.callers.entries.iter().find(|(known, _)| known.value == name)?;
    let by = policy::proof(&gateway.authenticator, &source.by)?;
    Some(Assumed { by, claims: source.claims.value.0.clone(), is_revoked: *source.revoked })
}

/// What is not as expected.
fn wrong(test: &PolicyTest, verdict: &Verdict) -> Vec<String> {
    let mut wrong = Vec::new();
    let (status, label) = (verdict.status(), verdict.label());
    let is_refused = matches!(verdict.outcome, Outcome::Refused { .. });
    let found = status.filter(|_| is_refused).map_or_else(|| label.to_owned(), |status| format!("{status} {label}"));
    let (holds, expected) = match test.expect.value {
        Expected::Allowed => (label == "allowed", "allowed".to_owned()),
        Expected::Preflight => (label == "preflight", "preflight".to_owned()),
        // Who mistypes a path is refused as well: that is no test of a rule.
        Expected::Refused => (is_refused && verdict.route.is_some(), "refused by a route".to_owned()),
        Expected::Status(expected) => (is_refused && status == Some(expected), expected.to_string()),
        Expected::Reason(expected) => (is_refused && label == expected, expected.to_owned()),
    };
    if !holds {
        wrong.push(format!("expected {expected}, and it is {found}"));
    }
    let route = verdict.route.as_deref().unwrap_or("none");
    if let Some(expected) = test.route.as_ref().filter(|expected| expected.value != route) {
        wrong.push(format!("expected the route {}, and it is {route}", expected.value));
    }
    let (to, headers) = match &verdict.outcome {
        Outcome::Allowed { to, identity, .. } => (to.as_slice(), identity.as_slice()),
        Outcome::Preflight | Outcome::Refused { .. } => (&[][..], &[][..]),
    };
    if let Some(expected) = test.upstream.as_ref().filter(|expected| !to.contains(&expected.value)) {
        wrong.push(format!(
            "expected the upstream {}, and it is {}",
            expected.value,
            policy::why::list(to.iter().map(String::as_str))
        ));
    }
    for (name, expected) in &test.identity.entries {
        let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        if found != expected.value.0.as_deref() {
            let said = |value: Option<&str>| value.map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"));
            let expected = said(expected.value.0.as_deref());
            wrong.push(format!("expected {} to be {expected}, and it is {}", name.value, said(found)));
        }
    }
    wrong
}

/// The routes that no request came to, in a line.
fn untested(cases: &[Case<'_>], gateway: &Gateway) -> String {
    let is_asked = |id: &str| cases.iter().any(|case| case.verdict.route.as_deref() == Some(id));
    let left: Vec<String> =
        gateway.routes.all().iter().filter(|route| !is_asked(&route.id)).map(|route| route.id.to_string()).collect();
    if left.is_empty() { String::new() } else { format!("no request came to: {}\n", left.join(", ")) }
}

impl Case<'_> {
    fn title(&self) -> String {
        let RequestLine { method, target } = self.request;
        let caller = self.caller.map(|name| format!(" as {name}")).unwrap_or_default();
        printable(&format!("{}: {method} {target}{caller}", self.test.name.value))
    }

    fn text(&self, file: &std::path::Path) -> String {
        if self.wrong.is_empty() {
            return format!("ok    {}\n", self.title());
        }
        let place = self.test.place;
        let mut lines = vec![format!("FAIL  {}  ({}:{})", self.title(), file.display(), place.line)];
        lines.extend(self.wrong.iter().map(|wrong| format!("      {}", printable(wrong))));
        lines.extend(self.verdict.text(&[]).lines().map(|line| format!("      {line}")));
        lines.push(String::new());
        lines.join("\n")
    }

    fn to_json(&self) -> Value {
        let mut members = Map::new();
        members.insert("name".to_owned(), self.test.name.value.as_str().into());
        members.insert("request".to_owned(), format!("{} {}", self.request.method, self.request.target).into());
        members.insert("as".to_owned(), json!(self.caller));
        members.insert("line".to_owned(), self.test.place.line.into());
        members.insert("ok".to_owned(), self.wrong.is_empty().into());
        members.insert("wrong".to_owned(), json!(self.wrong));
        members.insert("verdict".to_owned(), self.verdict.to_json());
        members.into()
    }
}
