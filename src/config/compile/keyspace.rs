//! Names of keys that could be one key: who may choose what stands in the one would write the other.

use crate::authenticate::session::SessionKey;
use crate::config::file::Config;
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::{At, Place};
use crate::store::{KeyPattern, Kind};

/// A name of a key, with what anybody may have put into it left open.
struct Name {
    /// Where it is written, and under which key of the file.
    at: Place,
    trail: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Open,
}

/// What is filled in.
const OPEN: [&str; 7] = ["{jti}", "{sid}", "{sub}", "{iss}", "{id}", "{sha256}", "{route}"];

/// Finds names that could be one key, and says which.
pub fn check(config: &Config, mistakes: &mut Mistakes) {
    let names = names(config);
    let mut told = Vec::new();
    for (at, name) in names.iter().enumerate() {
        for other in names.iter().take(at) {
            // Two kinds of cookies may stand for the same sessions.
            let are_sessions = [name, other].iter().all(|name| name.trail.starts_with("sessions."));
            if are_sessions || told.contains(&(name.at, other.at)) || !may_be_one(&name.parts, &other.parts) {
                continue;
            }
            told.push((name.at, other.at));
            let of = |found: &str| Mistake::new(name.at, &name.trail, found);
            mistakes.add(if name.at == other.at {
                let allowed =
                    "`{iss}` behind the other placeholder, or issuers of which none begins as another one is called";
                of("the key of one issuer could be that of another one").allowed(allowed)
            } else {
                let allowed = "names that differ whatever is put into them: `blacklist:{jti}`, `logout:{sub}`";
                let found = format!("this could be the key that `{}` names", other.trail);
                of(&found).allowed(allowed).also(other.at, "this one")
            });
        }
    }
}

/// Every name, with each issuer in the place of `{iss}`.
fn names(config: &Config) -> Vec<Name> {
    let issuers = issuers(config);
    let mut names = Vec::new();
    let mut add = |own: &At<String>| {
        let spelled = issuers.iter().map(|issuer| own.replace("{iss}", issuer));
        let all: Vec<String> = if own.contains("{iss}") { spelled.collect() } else { vec![own.value.clone()] };
        names.extend(all.iter().map(|text| Name { at: own.place, trail: own.trail.to_string(), parts: parts(text) }));
    };
    let keys = &config.revocation.keys;
    for (kind, own) in Kind::ALL.into_iter().zip([&keys.jti, &keys.sid, &keys.sub, &keys.iss, &keys.all]) {
        own.iter().filter(|own| KeyPattern::parse(kind, own).is_ok()).for_each(&mut add);
    }
    let sessions = config.sessions.entries.iter().map(|(_, section)| &section.key);
    sessions.filter(|own| SessionKey::parse(own).is_some()).for_each(&mut add);
    if let Some(store) = &config.store {
        for own in ["family:{sid}", "rate:{route}", "epoch", "leases"] {
            let text = format!("{}{own}", store.prefix.value);
            names.push(Name { at: store.prefix.place, trail: store.prefix.trail.to_string(), parts: parts(&text) });
        }
    }
    names
}

/// Whatever stands in the place of `{iss}`, each once.
fn issuers(config: &Config) -> Vec<&str> {
    let tokens = config.issuers.entries.iter().map(|(_, section)| section.issuer.as_str());
    let sessions = config.sessions.entries.iter();
    let sessions = sessions.map(|(name, section)| section.issuer.as_ref().map_or(name.as_str(), |own| own.as_str()));
    let asked = config.introspection.entries.iter();
    let asked = asked.map(|(name, section)| section.issuer.as_ref().map_or(name.as_str(), |own| own.as_str()));
    let certificates = config.client_certificates.entries.iter().map(|(name, _)| name.as_str());
    let mut all: Vec<&str> = tokens.chain(sessions).chain(asked).chain(certificates).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = OPEN.iter().find_map(|hole| rest.strip_prefix(hole)) {
            parts.push(Part::Open);
            rest = after;
            continue;
        }
        // Braces may be a hash tag of a cluster as well.
        let (letter, after) = rest.split_at(next.len_utf8());
        parts.extend(letter.bytes().map(Part::Byte));
        rest = after;
    }
    parts
}

/// Whether something could be put into both so that they are the same.
fn may_be_one(one: &[Part], other: &[Part]) -> bool {
    // Nearly all differ before the first thing that is filled in, or after the last.
    let part_ways = |(own, theirs): (&Part, &Part)| own != theirs && *own != Part::Open && *theirs != Part::Open;
    let until_open = |(own, theirs): &(&Part, &Part)| **own != Part::Open && **theirs != Part::Open;
    if one.iter().zip(other).take_while(until_open).any(part_ways)
        || one.iter().rev().zip(other.iter().rev()).take_while(until_open).any(part_ways)
    {
        return false;
    }
    // Row by row: whether what is left of `one` can be what is left of `other`, from each place on.
    let mut below: Vec<bool> = row(other, |rest| rest.iter().all(|part| *part == Part::Open));
    for (place, part) in one.iter().enumerate().rev() {
        let mut here = vec![false; below.len()];
        let is_end = *part == Part::Open && one.iter().skip(place).all(|part| *part == Part::Open);
        for at in (0..here.len()).rev() {
            let get = |row: &[bool], at: usize| row.get(at).copied().unwrap_or(false);
            let can = match (part, other.get(at)) {
                (_, None) => is_end,
                (Part::Open, Some(_)) => get(&below, at) || get(&here, at + 1),
                (Part::Byte(_), Some(Part::Open)) => get(&below, at) || get(&here, at + 1),
                (Part::Byte(own), Some(Part::Byte(theirs))) => own == theirs && get(&below, at + 1),
            };
            if let Some(slot) = here.get_mut(at) {
                *slot = can;
            }
        }
        below = here;
    }
    below.first().copied().unwrap_or(false)
}

fn row(parts: &[Part], can: impl Fn(&[Part]) -> bool) -> Vec<bool> {
    (0..=parts.len()).map(|at| parts.get(at..).is_some_and(&can)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_may_be_one_key_where_something_can_be_put_into_both_that_makes_them_the_same() {
        for (one, other, expected) in [
            ("blacklist:{jti}", "logout:{sub}", false),
            ("logout:{sub}", "logout:{sid}", true),
            ("logout:{sub}", "logout:all", true),
            ("logout:{sub}", "logout-all", false),
            ("logout:{sub}", "logout:", true),
            ("logout:{sub}:x", "logout:{sid}:y", false),
            ("{sub}:logout", "{sid}:revoked", false),
            ("{sub}:logout", "session:{sid}", true),
            ("a{sub}b{sub}c", "abbc", true),
            ("a{sub}b{sub}c", "acb", false),
            ("https://a:{sub}", "https://a:8443:{sub}", true),
            ("https://a/:{sub}", "https://a:8443/:{sub}", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("{bw}:{sid}", "blacklist:{jti}", false),
            ("{bw}:{sid}", "{bw}:epoch", true),
        ] {
            assert_eq!(may_be_one(&parts(one), &parts(other)), expected, "{one} {other}");
            assert_eq!(may_be_one(&parts(other), &parts(one)), expected, "{other} {one}");
        }
    }
}
