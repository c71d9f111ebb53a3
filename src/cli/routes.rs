//! `bearward routes`: what a configuration serves, and to whom.

use super::policy::mode;
use super::{ConfigPath, Failure, print};
use crate::route::{Proof, Requirement, RevocationMode, Route, Rule};

/// List the routes of a configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  bearward routes --config gateway.yaml")]
pub struct Routes {
    #[command(flatten)]
    config: ConfigPath,
}

impl Routes {
    /// Lists.
    pub fn run(self) -> Result<(), Failure> {
        let (_, compiled) = self.config.load()?;
        let gateway = &compiled.gateway;
        let mut rows =
            vec![["ROUTE", "METHODS", "PATH", "UPSTREAM", "AUTH", "REVOCATION", "ACCESS"].map(str::to_owned)];
        for route in gateway.routes.all() {
            let upstreams = route.leads_to.upstreams().filter_map(|place| gateway.forwarder.upstreams().get(place));
            let upstreams: Vec<&str> = upstreams.map(|upstream| &*upstream.name).collect();
            let upstreams = if upstreams.is_empty() { "(the gateway)".to_owned() } else { upstreams.join(",") };
            let auth = route.auth.iter().filter_map(|proof| gateway.authenticator.name(proof));
            let auth = auth.map(ToString::to_string).collect::<Vec<_>>().join(",");
            rows.push([
                route.id.to_string(),
                methods(route),
                format!("{}{}", route.matching.hosts.join(","), route.matching.pattern.as_str()),
                upstreams,
                if auth.is_empty() { "-".to_owned() } else { auth },
                revocation(route),
                access(&route.rule),
            ]);
        }
        print(&table(&rows))
    }
}

fn methods(route: &Route) -> String {
    let names = |methods: &Vec<http::Method>| methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join(",");
    route.matching.methods.as_ref().map_or_else(|| "any".to_owned(), names)
}

/// How the store is asked. Of sessions it is asked in any case.
fn revocation(route: &Route) -> String {
    let own = mode(route.revocation);
    match (&route.rule, route.revocation.mode) {
        (Rule::Public, _) => "-".to_owned(),
        (Rule::Authenticated | Rule::Require(_), RevocationMode::Off) if route.auth.takes_sessions => {
            let of_sessions = mode(route.revocation.strict());
            let is_all = route.auth.iter().all(|proof| matches!(proof, Proof::Session(_)));
            if is_all { of_sessions.to_owned() } else { format!("{own}, sessions {of_sessions}") }
        }
        (Rule::Authenticated | Rule::Require(_), _) => own.to_owned(),
    }
}

fn access(rule: &Rule) -> String {
    match rule {
        Rule::Public => "public".to_owned(),
        Rule::Authenticated => "authenticated".to_owned(),
        Rule::Require(requirement) => demand(requirement),
    }
}

fn demand(requirement: &Requirement) -> String {
    let several = |list: &[Requirement], word: &str| {
        let list: Vec<String> = list.iter().map(demand).collect();
        if list.len() == 1 { list.concat() } else { format!("({})", list.join(word)) }
    };
    match requirement {
        Requirement::Authenticated => "authenticated".to_owned(),
        Requirement::AnyRole(roles) => format!("role {}", roles.join("|")),
        Requirement::AllScopes(scopes, _) => format!("scope {}", scopes.join("+")),
        Requirement::AnyScope(scopes, _) => format!("scope {}", scopes.join("|")),
        Requirement::Claim(path, _) => format!("claim {}", path.as_str()),
        Requirement::All(list) => several(list, " and "),
        Requirement::Any(list) => several(list, " or "),
        Requirement::Not(inner) => format!("not {}", demand(inner)),
    }
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
