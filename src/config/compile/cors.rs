//! Which pages of other origins may read a route's answers.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::config::file::{Config, Cors as Section, Route as RouteSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::origin::{CorsOrigin, FieldName};
use crate::config::place::At;
use crate::route::Cors;

/// Longest time that browsers are asked to remember a preflight.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// What `defaults.cors` gets wrong; told once, not for each route.
pub fn check(config: &Config, mistakes: &mut Mistakes) {
    if let Some(section) = &config.defaults.cors {
        check_section(section, mistakes);
    }
}

/// The route's own, or that of all routes.
pub fn compile(config: &Config, route: &RouteSection, mistakes: &mut Mistakes) -> Option<Arc<Cors>> {
    if let Some(own) = &route.cors {
        check_section(own, mistakes);
    }
    let section = route.cors.as_ref().or(config.defaults.cors.as_ref())?;
    if section.origins.is_empty() {
        return None;
    }
    let origins = section.origins.iter().filter_map(|origin| match &origin.value {
        CorsOrigin::Any => None,
        CorsOrigin::Named(origin) => Some(origin.clone()),
    });
    let methods = route
        .r#match
        .methods
        .as_ref()
        .map(|methods| methods.iter().map(|method| method.value.as_str()).collect::<Vec<_>>().join(", "));
    Some(Arc::new(Cors {
        origins: origins.collect(),
        is_any: section.origins.iter().any(|origin| origin.value == CorsOrigin::Any),
        methods: methods.and_then(|methods| HeaderValue::try_from(methods).ok()),
        headers: names(&section.headers),
        expose: names(&section.expose),
        credentials: *section.credentials,
        max_age: HeaderValue::from(section.max_age.as_secs()),
    }))
}

fn check_section(section: &Section, mistakes: &mut Mistakes) {
    let any = section.origins.iter().find(|origin| origin.value == CorsOrigin::Any);
    if let Some(any) = any.filter(|_| *section.credentials) {
        let mistake = Mistake::at(any, "any origin, with credentials: every page could act as whoever looks at it");
        mistakes.add(mistake.allowed("named origins with `credentials: true`, or `\"*\"` without"));
    }
    if section.max_age.value > MAX_AGE || section.max_age.subsec_nanos() > 0 {
        let mistake = Mistake::at(&section.max_age, format!("{:?}", section.max_age.value));
        mistakes.add(mistake.allowed("whole seconds, up to `24h`"));
    }
}

fn names(names: &[At<FieldName>]) -> Option<HeaderValue> {
    let names = names.iter().map(|name| name.0.as_str()).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(names).ok().filter(|names| !names.is_empty())
}
