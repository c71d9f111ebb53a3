//! Rewrites of paths: what goes has to be there, and what comes of it must lead around no rule.

use std::sync::Arc;

use http::Method;

use super::conflicts::share_hosts;
use crate::admit::pattern::{Pattern, Segment};
use crate::config::file::{Config, Rewrite as Section, Route as RouteSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::forward::Upstream;
use crate::route::{Rewrite, Route, Rule};

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
    })
}

fn is_prefix(pattern: &Pattern) -> bool {
    let is_literal = |segment: &Segment| matches!(segment, Segment::Literal(text) if !text.is_empty());
    !pattern.takes_rest() && pattern.segments().iter().all(is_literal)
}

/// What a route makes of paths, and where it sends them.
struct Onward {
    pattern: Pattern,
    addresses: Vec<Arc<str>>,
    is_rewritten: bool,
}

/// Notes for each route which paths it must not come to: those to which another route of the same host comes at the same
/// target and demands something else. A route that comes to a part of what another one comes to is meant, as among paths that
/// nobody rewrites.
pub fn guard(routes: &mut [Route], upstreams: &[Upstream], config: &Config, mistakes: &mut Mistakes) {
    if routes.iter().all(|route| route.rewrite.is_none()) {
        // Then the router decides: the most specific one wins.
        return;
    }
    let all: Vec<Onward> = routes.iter().map(|route| onward(route, upstreams)).collect();
    let guarded: Vec<Vec<Pattern>> = routes
        .iter()
        .zip(&all)
        .map(|(own, here)| {
            let others = routes.iter().zip(&all).filter(|(other, there)| {
                other.number != own.number
                    && (here.is_rewritten || there.is_rewritten)
                    && !matches!(other.rule, Rule::Public)
                    && share_hosts(&own.matching, &other.matching)
                    && demands_else((own, here), (other, there))
                    && here.addresses.iter().any(|address| there.addresses.contains(address))
                    && share_methods(own, other)
                    && here.pattern.overlaps(&there.pattern)
                    && !(there.pattern.contains(&here.pattern) && !here.pattern.contains(&there.pattern))
            });
            let others: Vec<_> = others.collect();
            for (other, _) in others.iter().filter(|(_, there)| there.pattern.contains(&here.pattern)) {
                all_led_around(own, other, config, mistakes);
            }
            others.into_iter().map(|(_, there)| there.pattern.clone()).collect()
        })
        .collect();
    for (route, guarded) in routes.iter_mut().zip(guarded) {
        route.guarded = guarded;
    }
}

/// Every request of a route would come to what another one protects: none could be served.
fn all_led_around(own: &Route, other: &Route, config: &Config, mistakes: &mut Mistakes) {
    let section = |route: &Route| config.routes.iter().find(|section| *section.id.value == *route.id);
    let (Some(own), Some(other)) = (section(own), section(other)) else { return };
    let at =
        own.rewrite.as_ref().map_or_else(|| (own.id.place, &own.id.trail), |rewrite| (rewrite.place, &rewrite.trail));
    let found = format!(
        "every path of route `{}` comes to one that route `{}` comes to, which demands something else",
        own.id.value, other.id.value
    );
    let mistake = Mistake::new(at.0, at.1, found).allowed("this one").also(other.id.place, "and this one");
    mistakes
        .add(mistake.remedy("rewrite them to different paths, lead them to different services, or demand the same"));
}

fn onward(route: &Route, upstreams: &[Upstream]) -> Onward {
    let pattern = match &route.rewrite {
        None => route.matching.pattern.clone(),
        Some(rewrite) => {
            // It was read as a pattern before.
            let add = Pattern::parse(&rewrite.add).ok();
            route.matching.pattern.rewritten(rewrite.strip, add.as_ref())
        }
    };
    let upstreams = route.leads_to.upstreams().filter_map(|place| upstreams.get(place));
    let addresses = upstreams.flat_map(|upstream| upstream.targets.iter().map(|target| Arc::clone(&target.address)));
    Onward { pattern, addresses: addresses.collect(), is_rewritten: route.rewrite.is_some() }
}

fn demands_else((own, here): (&Route, &Onward), (other, there): (&Route, &Onward)) -> bool {
    // Of the same segments the same words mean the same.
    let stripped = |route: &Route, onward: &Onward| {
        route.matching.pattern.parameters().count().abs_diff(onward.pattern.parameters().count())
    };
    let are_same = here.pattern.is_same(&there.pattern) && stripped(own, here) == stripped(other, there);
    other.rule != own.rule
        || other.auth != own.auth
        || other.revocation != own.revocation
        || (other.rule.looks_at_path() && !are_same)
}

/// Whether some method is taken by both; `HEAD` is `GET` to most services.
fn share_methods(own: &Route, other: &Route) -> bool {
    let (Some(own), Some(other)) = (&own.matching.methods, &other.matching.methods) else { return true };
    let plain = |method: &Method| if *method == Method::HEAD { Method::GET } else { method.clone() };
    own.iter().any(|method| other.iter().any(|theirs| plain(theirs) == plain(method)))
}
