//! Routes are held against each other: what could only be meant otherwise is a mistake.
//!
//! 1. Equal: two routes that take the same request on the same pattern; which one would win?
//! 2. Unreachable: a `/**` whose every path is taken by more specific patterns.
//! 3. Public over protected: a public route that shares paths with a protected one, unless it lies
//!    wholly inside it. A hole that is cut into a protected space is meant; a public space with a
//!    protected spot in it is one misread path away from serving the spot to everyone.

use std::collections::HashMap;

use super::routes::matching;
use crate::admit::pattern::{Pattern, Segment};
use crate::config::access::Access;
use crate::config::file::{Config, Route as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::route::Match;

struct Entry<'c> {
    section: &'c At<Section>,
    matching: Match,
    is_public: bool,
}

/// Reports every conflict, at the later route, with the earlier one shown.
pub fn check(config: &Config, mistakes: &mut Mistakes) {
    let entries: Vec<Entry<'_>> = config
        .routes
        .iter()
        .map(|section| Entry {
            section,
            matching: matching(section),
            is_public: matches!(section.access.value, Access::Public),
        })
        .collect();
    let by_shape = by_shape(&entries);
    for (later, entry) in entries.iter().enumerate() {
        let twins = by_shape.get(&shape(&entry.matching.pattern)).into_iter().flatten();
        for other in twins.filter(|&&other| other < later).filter_map(|&other| entries.get(other)) {
            equal(entry, other, mistakes);
        }
        unreachable(entry, &entries, &by_shape, mistakes);
    }
    public_over_protected(&entries, mistakes);
}

fn equal(entry: &Entry<'_>, other: &Entry<'_>, mistakes: &mut Mistakes) {
    let same_hosts = if entry.matching.hosts.is_empty() || other.matching.hosts.is_empty() {
        entry.matching.hosts.is_empty() && other.matching.hosts.is_empty()
    } else {
        entry.matching.hosts.iter().any(|host| other.matching.hosts.contains(host))
    };
    if same_hosts && share_methods(&entry.matching, &other.matching) {
        let path = &entry.section.r#match.path;
        let found = format!("`{}` is already matched by route `{}`", path.as_str(), other.section.id.value);
        let mistake =
            Mistake::at(path, found).allowed("this one").also(other.section.r#match.path.place, "and this one");
        mistakes.add(mistake.remedy("give one of them another path, other methods or other hosts"));
    }
}

/// `/a/**` is never reached where `/a`, `/a/` and `/a/{x}/**` are all taken.
fn unreachable(entry: &Entry<'_>, entries: &[Entry<'_>], by_shape: &Shapes, mistakes: &mut Mistakes) {
    if !entry.matching.pattern.takes_rest() {
        return;
    }
    let base = shape(&entry.matching.pattern);
    let base = base.strip_suffix("/**").unwrap_or_default();
    let needed = if base.is_empty() {
        vec!["/".to_owned(), "/{}/**".to_owned()]
    } else {
        vec![base.to_owned(), format!("{base}/"), format!("{base}/{{}}/**")]
    };
    let takes_over = |shape: &String| {
        // Whatever their methods: a path that is taken is 405 to others, and goes to no wider pattern.
        let takers = by_shape.get(shape).into_iter().flatten().filter_map(|&number| entries.get(number));
        takers.into_iter().find(|other| other.matching.hosts == entry.matching.hosts)
    };
    let takers: Option<Vec<&Entry<'_>>> = needed.iter().map(takes_over).collect();
    if let Some(last) = takers.as_ref().and_then(|takers| takers.last()) {
        let path = &entry.section.r#match.path;
        let found = format!("`{}` is never reached: more specific routes take every path of it", path.as_str());
        let mistake = Mistake::at(path, found)
            .allowed("this one")
            .also(last.section.r#match.path.place, "taken by this one, among others");
        mistakes.add(mistake.remedy("leave it out"));
    }
}

fn public_over_protected(entries: &[Entry<'_>], mistakes: &mut Mistakes) {
    let protected = Index::new(entries.iter().enumerate().filter(|(_, entry)| !entry.is_public));
    for public in entries.iter().filter(|entry| entry.is_public) {
        let pattern = &public.matching.pattern;
        let overlapping = protected.candidates(pattern).filter_map(|number| entries.get(number)).find(|other| {
            pattern.overlaps(&other.matching.pattern)
                && !(other.matching.pattern.contains(pattern) && !other.matching.pattern.is_same(pattern))
                && share_methods(&public.matching, &other.matching)
                && share_hosts(&public.matching, &other.matching)
                // Equal ones have been reported already, unless their hosts differ.
                && !(other.matching.pattern.is_same(pattern) && other.matching.hosts == public.matching.hosts)
        });
        if let Some(other) = overlapping {
            let path = &public.section.r#match.path;
            let found = format!(
                "public route `{}` overlaps the protected route `{}`",
                public.section.id.value, other.section.id.value
            );
            let mistake =
                Mistake::at(path, found).allowed("anyone may").also(other.section.r#match.path.place, "protected");
            mistakes.add(
                mistake.remedy(
                    "make the public path narrower, so that it lies outside or wholly inside the protected one",
                ),
            );
        }
    }
}

/// Protected routes by the first literal segment, so that many routes are not all held against all.
struct Index {
    by_first: HashMap<String, Vec<usize>>,
    anywhere: Vec<usize>,
    all: Vec<usize>,
}

impl Index {
    fn new<'e>(entries: impl Iterator<Item = (usize, &'e Entry<'e>)>) -> Self {
        let mut index = Self { by_first: HashMap::new(), anywhere: Vec::new(), all: Vec::new() };
        for (number, entry) in entries {
            index.all.push(number);
            match entry.matching.pattern.segments().first() {
                Some(Segment::Literal(text)) => index.by_first.entry(text.clone()).or_default().push(number),
                Some(Segment::Parameter(_)) | None => index.anywhere.push(number),
            }
        }
        index
    }

    fn candidates<'i>(&'i self, pattern: &Pattern) -> Box<dyn Iterator<Item = usize> + 'i> {
        match pattern.segments().first() {
            Some(Segment::Literal(text)) => {
                Box::new(self.by_first.get(text).into_iter().flatten().chain(&self.anywhere).copied())
            }
            Some(Segment::Parameter(_)) | None => Box::new(self.all.iter().copied()),
        }
    }
}

type Shapes = HashMap<String, Vec<usize>>;

fn by_shape(entries: &[Entry<'_>]) -> Shapes {
    let mut shapes = Shapes::new();
    for (number, entry) in entries.iter().enumerate() {
        shapes.entry(shape(&entry.matching.pattern)).or_default().push(number);
    }
    shapes
}

/// The pattern without the names of its parameters; a `/` inside a segment stays `%2F`.
fn shape(pattern: &Pattern) -> String {
    let mut shape = String::new();
    for segment in pattern.segments() {
        shape.push('/');
        shape.push_str(&match segment {
            Segment::Literal(text) => text.replace('/', "%2F"),
            Segment::Parameter(_) => "{}".to_owned(),
        });
    }
    if pattern.takes_rest() {
        shape.push_str("/**");
    }
    shape
}

fn share_methods(one: &Match, other: &Match) -> bool {
    match (&one.methods, &other.methods) {
        (None, _) | (_, None) => true,
        (Some(one), Some(other)) => one.iter().any(|method| other.contains(method)),
    }
}

/// Whether some host is taken by both.
pub(super) fn share_hosts(one: &Match, other: &Match) -> bool {
    let fits = |pattern: &str, host: &str| {
        pattern == host || pattern.strip_prefix('*').is_some_and(|suffix| host.ends_with(suffix))
    };
    one.hosts.is_empty()
        || other.hosts.is_empty()
        || one.hosts.iter().any(|a| other.hosts.iter().any(|b| fits(a, b) || fits(b, a)))
}
