//! A rule, demand by demand: what of it holds.

use crate::admit::Admitted;
use crate::authenticate::Identity;
use crate::authenticate::claims::ClaimPath;
use crate::authorize::check_demand;
use crate::route::{Expected, Requirement, Rule};

/// One demand of a rule.
#[derive(Debug)]
pub struct Line {
    /// How deep it stands in others.
    pub depth: usize,
    /// What is demanded.
    pub demand: String,
    /// Whether it holds.
    pub holds: bool,
}

/// What the rule of a request's route demands, and what of that holds for a caller.
pub fn lines(admitted: &Admitted<'_>, caller: &Identity) -> Vec<Line> {
    let mut lines = Vec::new();
    match &admitted.route.rule {
        Rule::Public => {}
        Rule::Authenticated => walk(&Requirement::Authenticated, caller, admitted, 0, &mut lines),
        Rule::Require(requirement) => walk(requirement, caller, admitted, 0, &mut lines),
    }
    lines
}

fn walk(requirement: &Requirement, caller: &Identity, admitted: &Admitted<'_>, depth: usize, lines: &mut Vec<Line>) {
    let holds = check_demand(requirement, caller, admitted).is_ok();
    let mut several = |demand: &str, all: &[Requirement]| {
        // Of a list of one it is that one.
        let depth = if let [_] = all { depth } else { depth + 1 };
        if all.len() != 1 {
            lines.push(Line { depth: depth - 1, demand: demand.to_owned(), holds });
        }
        for one in all {
            walk(one, caller, admitted, depth, lines);
        }
    };
    let demand = match requirement {
        Requirement::All(all) => return several("all of", all),
        Requirement::Any(any) => return several("one of", any),
        Requirement::Not(inner) => {
            lines.push(Line { depth, demand: "not".to_owned(), holds });
            return walk(inner, caller, admitted, depth + 1, lines);
        }
        Requirement::Authenticated => "a credential that holds".to_owned(),
        Requirement::AnyRole(roles) => format!("role {}", roles.join(" or ")),
        Requirement::AllScopes(scopes, _) => format!("scope {}", scopes.join(" and ")),
        Requirement::AnyScope(scopes, _) => format!("scope {}", scopes.join(" or ")),
        Requirement::Claim(path, accepted) => claim(path, accepted, caller, admitted),
    };
    lines.push(Line { depth, demand, holds });
}

fn claim(path: &ClaimPath, accepted: &[Expected], caller: &Identity, admitted: &Admitted<'_>) -> String {
    let accepted = accepted.iter().map(|expected| match expected {
        Expected::Value(value) => value.to_string(),
        Expected::Parameter(place) => {
            let name = admitted.route.matching.pattern.parameters().nth(*place).unwrap_or_default();
            format!("{{{name}}} = \"{}\"", admitted.parameter(*place).unwrap_or_default())
        }
    });
    let found = caller.claims().at(path).map_or_else(|| "absent".to_owned(), ToString::to_string);
    format!("claim {} {}, found {found}", path.as_str(), accepted.collect::<Vec<_>>().join(" or "))
}
