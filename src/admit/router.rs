//! Finds the one route of a host, a path and a method.
//!
//! 1. Host first: routes that name the host, then those with the longest `*.` suffix of it, then
//!    those for any host. The first of these tables in which the path is known decides.
//! 2. Path: at each segment a literal is tried before a parameter, a parameter before `/**`; what
//!    does not lead to a route is left again. So the most specific pattern wins, and the order in
//!    the file never matters.
//! 3. Method: a known path with another method is 405, it never falls to a wider pattern: which
//!    rule applies must not depend on the verb.
//!
//! A look-up visits each node of a tree at most once, so no path can make it slow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::Method;
use smallvec::SmallVec;

use super::pattern::Segment;
use crate::denial::Denial;
use crate::percent;
use crate::route::Route;

/// Where path parameters stand in the canonical path: byte offsets, start and end.
pub type Parameters = SmallVec<[(u32, u32); 4]>;

/// All routes, by host, path and method.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<String, Tree>,
    suffix: HashMap<String, Tree>,
    any: Tree,
}

#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, usize, RandomState>,
    parameter: Option<usize>,
    end: Option<Leaf>,
    rest: Option<Leaf>,
}

/// The routes on one pattern, by method.
#[derive(Debug, Default)]
struct Leaf {
    by_method: Vec<(Method, usize)>,
    any_method: Option<usize>,
    allow: Arc<str>,
}

impl Router {
    /// A router over `routes`; a route's place in the slice is what [`Router::find`] returns.
    #[must_use]
    pub fn new(routes: &[Route]) -> Self {
        let mut router = Self::default();
        for (number, route) in routes.iter().enumerate() {
            if route.matching.hosts.is_empty() {
                router.any.insert(route, number);
            }
            for host in &route.matching.hosts {
                let tree = match host.strip_prefix("*.") {
                    Some(suffix) => router.suffix.entry(suffix.to_owned()).or_default(),
                    None => router.exact.entry(host.clone()).or_default(),
                };
                tree.insert(route, number);
            }
        }
        router
    }

    /// The route's number and where its parameters stand in `path`.
    ///
    /// # Errors
    /// [`Denial::NoRoute`]; [`Denial::MethodNotAllowed`] with the methods that are offered.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<(usize, Parameters), Denial> {
        for tree in self.trees(host) {
            let mut parameters = Parameters::new();
            if let Some(leaf) = tree.find(0, path, 1, &mut parameters) {
                let route = leaf.route(method).ok_or_else(|| Denial::MethodNotAllowed(Arc::clone(&leaf.allow)))?;
                return Ok((route, parameters));
            }
        }
        Err(Denial::NoRoute)
    }

    fn trees(&self, host: &str) -> impl Iterator<Item = &Tree> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let suffixes = (!self.suffix.is_empty()).then(|| {
            host.match_indices('.').filter_map(|(dot, _)| self.suffix.get(host.get(dot + 1..).unwrap_or_default()))
        });
        exact.into_iter().chain(suffixes.into_iter().flatten()).chain(std::iter::once(&self.any))
    }
}

impl Tree {
    fn insert(&mut self, route: &Route, number: usize) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut place = 0;
        for segment in route.matching.pattern.segments() {
            place = self.child(place, segment);
        }
        if let Some(node) = self.nodes.get_mut(place) {
            let slot = if route.matching.pattern.takes_rest() { &mut node.rest } else { &mut node.end };
            slot.get_or_insert_default().insert(route, number);
        }
    }

    fn child(&mut self, parent: usize, segment: &Segment) -> usize {
        let next = self.nodes.len();
        let Some(node) = self.nodes.get_mut(parent) else { return parent };
        let child = match segment {
            Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(next),
            Segment::Parameter(_) => *node.parameter.get_or_insert(next),
        };
        if child == next {
            self.nodes.push(Node::default());
        }
        child
    }

    /// The leaf for what is left of `path` from `start`, the byte after a slash.
    fn find(&self, place: usize, path: &str, start: usize, parameters: &mut Parameters) -> Option<&Leaf> {
        let node = self.nodes.get(place)?;
        // Past the end: the segment before was the last one.
        let Some(rest) = path.get(start..) else { return node.end.as_ref().or(node.rest.as_ref()) };
        let end = memchr::memchr(b'/', rest.as_bytes()).map_or(path.len(), |slash| start + slash);
        let segment = path.get(start..end)?;
        // SECURITY: `%24batch` is `$batch` to whoever decodes it, so a literal is held against what
        // the segment stands for, not against one spelling of it (row 56).
        let literal = if memchr::memchr(b'%', segment.as_bytes()).is_some() {
            node.literals.get(&percent::decode(segment))
        } else {
            node.literals.get(segment)
        };
        if let Some(leaf) = literal.and_then(|child| self.find(*child, path, end + 1, parameters)) {
            return Some(leaf);
        }
        if let Some(child) = node.parameter
            && !segment.is_empty()
        {
            parameters.push((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
            if let Some(leaf) = self.find(child, path, end + 1, parameters) {
                return Some(leaf);
            }
            parameters.pop();
        }
        node.rest.as_ref()
    }
}

impl Leaf {
    fn insert(&mut self, route: &Route, number: usize) {
        match &route.matching.methods {
            None => self.any_method = Some(number),
            Some(methods) => self.by_method.extend(methods.iter().map(|method| (method.clone(), number))),
        }
        let names: BTreeSet<&str> = self.by_method.iter().map(|(method, _)| method.as_str()).collect();
        self.allow = names.into_iter().collect::<Vec<_>>().join(", ").into();
    }

    fn route(&self, method: &Method) -> Option<usize> {
        self.by_method.iter().find(|(offered, _)| offered == method).map(|(_, route)| *route).or(self.any_method)
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
