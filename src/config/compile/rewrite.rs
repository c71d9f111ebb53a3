//! Rewrites of paths: what goes has to be there, and what comes of it must lead around no rule.

use crate::admit::pattern::{Pattern, Segment};
use crate::config::file::{Rewrite as Section, Route as RouteSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::route::{Expected, Requirement, Rewrite, Route, Rule};

/// Compiles what one route rewrites.
pub fn compile(section: &At<Section>, route: &RouteSection, mistakes: &mut Mistakes) -> Option<Rewrite> {
    if section.strip_prefix.is_none() && section.add_prefix.is_none() {
        let mistake = Mistake::at(section, "nothing is rewritten");
        mistakes.add(mistake.allowed("`strip_prefix`, `add_prefix`, or both"));
        return None;
    }
    let mut is_plain = true;
    for prefix in [&section.strip_prefix, &section.add_prefix].into_iter().flatten().filter(|it| !is_prefix(it)) {
        let mistake = Mistake::at(prefix, format!("`{}` is no prefix", prefix.as_str()));
        mistakes.add(mistake.allowed("whole segments without parameters, and no `/` at the end: `/api/v1`"));
        is_plain = false;
    }
    let strip = section.strip_prefix.as_ref();
    let path = &route.r#match.path;
    if let Some(strip) = strip.filter(|strip| is_plain && !path.segments().starts_with(strip.segments())) {
        let mistake = Mistake::at(strip, format!("not every path of `{}` begins with it", path.as_str()));
        mistakes.add(mistake.allowed("segments that the route's path begins with"));
        return None;
    }
    Some(Rewrite {
        strip: strip.map_or(0, |strip| strip.segments().len()),
        add: section.add_prefix.as_ref().map(|add| add.as_str().to_owned()).unwrap_or_default(),
        guarded: Vec::new(),
    })
}

fn is_prefix(pattern: &Pattern) -> bool {
    let is_literal = |segment: &Segment| matches!(segment, Segment::Literal(text) if !text.is_empty());
    !pattern.takes_rest() && pattern.segments().iter().all(is_literal)
}

/// Notes for each route that rewrites which other ones are not to be led around: those that send the same
/// paths to the same upstream as they are, and ask for something that it does not.
pub fn guard(routes: &mut [Route]) {
    let guarded = |own: &Route| -> Vec<usize> {
        let is_guarded = |other: &&Route| {
            other.number != own.number
                && other.rewrite.is_none()
                && !matches!(other.rule, Rule::Public)
                && own.upstreams.places().any(|place| other.upstreams.places().any(|theirs| theirs == place))
                && (other.rule != own.rule
                    || other.issuers != own.issuers
                    || other.revocation != own.revocation
                    || names_parameters(&other.rule))
        };
        routes.iter().filter(is_guarded).map(|other| other.number).collect()
    };
    let all: Vec<Vec<usize>> =
        routes.iter().map(|route| if route.rewrite.is_some() { guarded(route) } else { Vec::new() }).collect();
    for (route, guarded) in routes.iter_mut().zip(all) {
        if let Some(rewrite) = &mut route.rewrite {
            rewrite.guarded = guarded;
        }
    }
}

/// Whether a rule looks at the path: the same words mean something else on another one.
fn names_parameters(rule: &Rule) -> bool {
    fn looks(requirement: &Requirement) -> bool {
        match requirement {
            Requirement::Claim(_, expected) => expected.iter().any(|it| matches!(it, Expected::Parameter(_))),
            Requirement::All(parts) | Requirement::Any(parts) => parts.iter().any(looks),
            Requirement::Not(part) => looks(part),
            Requirement::Authenticated
            | Requirement::AnyRole(_)
            | Requirement::AllScopes(..)
            | Requirement::AnyScope(..) => false,
        }
    }
    match rule {
        Rule::Public | Rule::Authenticated => false,
        Rule::Require(requirement) => looks(requirement),
    }
}
