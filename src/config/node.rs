//! YAML text becomes a tree in which every value knows its place; nothing is interpreted yet.
//!
//! 1. Size, depth, number of nodes and aliases are bounded: an alias bomb ends in a message, not in
//!    memory (row 65).
//! 2. A key that stands twice in one mapping is a mistake, as is a merge key (`<<`): both let two
//!    readers see two files.
//! 3. `${NAME}` and `${NAME:-default}` inside a text are replaced by the environment after parsing,
//!    so that a variable cannot become YAML. What came from the environment is never shown, by no mistake.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::mistake::{Mistake, Mistakes};
use super::place::Place;

/// Largest file, in bytes.
const MAX_FILE: usize = 8 * 1024 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 48;
/// Most nodes after aliases have been followed.
const MAX_NODES: usize = 500_000;
/// Most aliases, and most nodes that all of them together may stand for.
const MAX_ALIASES: (usize, usize) = (1_000, 20_000);

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Whole(i64),
    /// Another number.
    Fraction(f64),
    /// Text.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// Text, and whether a part of it came from the environment and must not be shown.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Whether it must not be shown.
    pub is_secret: bool,
}

/// A mapping's key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

/// Reads a file's text. What cannot be read as YAML at all is one mistake; repeated keys and
/// variables without a value are found all at once.
pub fn parse(source: &str, env: &dyn Fn(&str) -> Option<String>, mistakes: &mut Mistakes) -> Option<Node> {
    if source.len() > MAX_FILE {
        let found = format!("the file is longer than {MAX_FILE} bytes");
        mistakes.add(Mistake::new(Place { line: 1, column: 1, length: 1 }, "", found));
        return None;
    }
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: MAX_ALIASES.0,
        },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_yaml::MergeKeyPolicy::AsOrdinary,
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_ALIASES.1 },
        strict_booleans: true,
    };
    let lines: Vec<&str> = source.lines().collect();
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(source, options) {
        Ok(root) => {
            let mut node = root.value.into_node(place_of(&root.referenced, &lines), &lines);
            check(&mut node, "", env, mistakes);
            Some(node)
        }
        Err(error) => {
            let place = error.location().map_or(Place { line: 1, column: 1, length: 1 }, |at| place_of(&at, &lines));
            let text = error.without_snippet().to_string();
            let found =
                text.split([';', '\n']).next().unwrap_or_default().split(" at line ").next().unwrap_or_default();
            mistakes.add(Mistake::new(place, "", format!("not readable as YAML: {found}")));
            None
        }
    }
}

/// Looks for repeated keys, and puts in the environment's values.
fn check(node: &mut Node, path: &str, env: &dyn Fn(&str) -> Option<String>, mistakes: &mut Mistakes) {
    match &mut node.value {
        Value::Text(text) if text.text.contains("${") => match interpolate(&text.text, env, mistakes) {
            Ok(replaced) => *text = Text { text: replaced, is_secret: true },
            Err(fault) => {
                let mistake = Mistake::new(node.place, path, fault.found);
                let allowed = "`${NAME}`, `${NAME:-default}`, or `$${` for a plain `${`";
                mistakes.add_cause(mistake.allowed(allowed).remedy(fault.remedy));
            }
        },
        Value::List(list) => {
            for (number, element) in list.iter_mut().enumerate() {
                check(element, &format!("{path}[{number}]"), env, mistakes);
            }
        }
        Value::Map(members) => {
            let mut number = 0;
            while let Some((key, _)) = members.get(number) {
                let (name, place) = (key.name.clone(), key.place);
                if name == "<<" {
                    let mistake = Mistake::new(place, path, "a merge key `<<`");
                    mistakes.add(mistake.allowed("write the keys out").remedy("an anchor on a whole value is allowed"));
                }
                let first =
                    members.iter().take(number).find(|(other, _)| other.name == name).map(|(other, _)| other.place);
                if let Some(first) = first {
                    let mistake = Mistake::new(place, &join(path, &name), "the key stands twice");
                    mistakes
                        .add(mistake.allowed("this one").also(first, "and this one").remedy("leave one of them out"));
                    members.remove(number);
                    continue;
                }
                if let Some((_, member)) = members.get_mut(number) {
                    check(member, &join(path, &name), env, mistakes);
                }
                number += 1;
            }
        }
        Value::Null | Value::Bool(_) | Value::Whole(_) | Value::Fraction(_) | Value::Text(_) => {}
    }
}

/// `routes[3]` and `upstream` are `routes[3].upstream`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

struct Fault {
    found: String,
    remedy: String,
}

fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>, mistakes: &mut Mistakes) -> Result<String, Fault> {
    let mut out = String::new();
    let (mut rest, mut is_of_env) = (text, false);
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inside, tail)) = after.split_once('}') else {
            return Err(Fault { found: "`${` without `}`".to_owned(), remedy: "close it, or write `$${`".to_owned() });
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            let found = format!("`${{{}}}` is no variable name", name.escape_debug());
            return Err(Fault { found, remedy: "letters, digits and `_`, no digit first".to_owned() });
        }
        // Why: like a shell, an empty variable counts as unset; an empty secret is never meant.
        let known = env(name).filter(|value| !value.is_empty());
        if let Some(value) = &known {
            mistakes.hide(value);
            is_of_env = true;
        }
        let value = known.or_else(|| default.map(str::to_owned));
        let Some(value) = value else {
            let found = format!("the environment variable `{name}` is not set");
            return Err(Fault { found, remedy: format!("set it, or write `${{{name}:-default}}`") });
        };
        out.push_str(&value);
        rest = tail;
    }
    out.push_str(rest);
    if is_of_env {
        mistakes.hide(&out);
    }
    Ok(out)
}

/// The tree as the parser hands it over.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl Raw {
    fn into_node(self, place: Place, lines: &[&str]) -> Node {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(list) => Value::List(
                list.into_iter()
                    .map(|element| {
                        let place = place_of(&element.referenced, lines);
                        element.value.into_node(place, lines)
                    })
                    .collect(),
            ),
            Self::Map(members) => Value::Map(
                members
                    .into_iter()
                    .map(|(key, member)| {
                        let place = place_of(&member.referenced, lines);
                        let key = Key { place: place_of(&key.referenced, lines), name: key.value };
                        (key, member.value.into_node(place, lines))
                    })
                    .collect(),
            ),
        };
        Node { value, place }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Whole(value)))
    }

    #[allow(clippy::cast_precision_loss, reason = "a number this large is only ever reported as too large")]
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(i64::try_from(value).map_or(Value::Fraction(value as f64), Value::Whole)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Fraction(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(Text { text: value.to_owned(), is_secret: false })))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(Text { text: value, is_secret: false })))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(member) = members.next_entry()? {
            map.push(member);
        }
        Ok(Raw::Map(map))
    }
}

/// A place, with the part of its text that stands on its first line.
fn place_of(location: &serde_yaml::Location, lines: &[&str]) -> Place {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (line, column) = (number(location.line()).max(1), number(location.column()).max(1));
    let text = lines.get(line - 1).copied().unwrap_or_default();
    let left = text.trim_end().chars().count().saturating_sub(column - 1);
    Place { line, column, length: number(location.span().len()).clamp(1, left.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_with_their_defaults_and_escapes() {
        let env = |name: &str| (name == "A").then(|| "1}${B}".to_owned());
        for (text, expected) in [
            ("x${A}y", Some("x1}${B}y")),
            ("${B:-d}", Some("d")),
            ("${B:-}", Some("")),
            ("$${A}", Some("${A}")),
            ("$A", Some("$A")),
            ("${B}", None),
            ("${A", None),
            ("${}", None),
            ("${1A}", None),
            ("${A-B}", None),
        ] {
            assert_eq!(interpolate(text, &env, &mut Mistakes::default()).ok().as_deref(), expected, "{text}");
        }
    }
}
