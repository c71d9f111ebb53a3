//! The `access` line of a route, as written.

use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Text, Value, join};
use super::place::At;
use super::section::Read;
use crate::authenticate::claims::ClaimPath;

/// Who may.
#[derive(Clone, Debug)]
pub enum Access {
    /// Anyone.
    Public,
    /// Anyone whose credential holds.
    Authenticated,
    /// Whoever meets all of these.
    Demands(Vec<Demand>),
}

/// One thing that is demanded.
#[derive(Clone, Debug)]
pub enum Demand {
    /// Any of these roles.
    Roles(Vec<At<String>>),
    /// All of these scopes.
    Scopes(Vec<At<String>>),
    /// Any of these scopes.
    AnyScope(Vec<At<String>>),
    /// The claim is, or has, one of these values.
    Claim(At<ClaimPath>, Vec<At<ClaimValue>>),
    /// Any of these.
    Any(Vec<Vec<Demand>>),
    /// All of these.
    All(Vec<Vec<Demand>>),
    /// None of this.
    Not(Vec<Demand>),
}

/// What a claim is compared with.
#[derive(Clone, Debug)]
pub enum ClaimValue {
    /// This value.
    Literal(serde_json::Value),
    /// The path parameter of this name.
    Parameter(String),
}

const ALLOWED: &str =
    "`public`, `authenticated`, or a mapping of `roles`, `scopes`, `any_scope`, `claims`, `any`, `all`, `not`";
const KEYS: [&str; 7] = ["roles", "scopes", "any_scope", "claims", "any", "all", "not"];

impl Read for Access {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(Text { text, .. }) if text == "public" => Some(Self::Public),
            Value::Text(Text { text, .. }) if text == "authenticated" => Some(Self::Authenticated),
            Value::Text(Text { text, .. }) => {
                let mistake = Mistake::new(node.place, path, format!("unknown word {}", node.value.shown()));
                mistakes.add(mistake.allowed(ALLOWED).near(text, ["public", "authenticated"]));
                None
            }
            Value::Map(_) => demands(node, path, mistakes).map(Self::Demands),
            Value::Null | Value::Bool(_) | Value::Whole(_) | Value::Fraction(_) | Value::List(_) => {
                mistakes.add(Mistake::new(node.place, path, node.value.shown()).allowed(ALLOWED));
                None
            }
        }
    }

    fn schema() -> serde_json::Value {
        let texts = json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 });
        let scalar = json!({ "type": ["string", "integer", "boolean"] });
        let nested = json!({ "$ref": "#/$defs/demands" });
        let demands = json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": false,
            "properties": {
                "roles": { "allOf": [texts], "description": "Any of these roles." },
                "scopes": { "allOf": [texts], "description": "All of these scopes." },
                "any_scope": { "allOf": [texts], "description": "Any of these scopes." },
                "claims": {
                    "type": "object",
                    "minProperties": 1,
                    "description": "Each claim is, or has, one of the values; `{name}` is a path parameter.",
                    "additionalProperties": { "anyOf": [scalar, { "type": "array", "items": scalar, "minItems": 1 }] },
                },
                "any": { "type": "array", "items": nested, "minItems": 1, "description": "Any of these." },
                "all": { "type": "array", "items": nested, "minItems": 1, "description": "All of these." },
                "not": { "allOf": [nested], "description": "None of this." },
            },
        });
        json!({ "anyOf": [{ "enum": ["public", "authenticated"] }, nested], "$defs": { "demands": demands } })
    }
}

/// A mapping of demands, all of which have to hold.
fn demands(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Vec<Demand>> {
    let Value::Map(members) = &node.value else {
        let found = format!("{} where a mapping is needed", node.value.shown());
        mistakes.add(Mistake::new(node.place, path, found).allowed(ALLOWED));
        return None;
    };
    if members.is_empty() {
        mistakes.add(Mistake::new(node.place, path, "an empty mapping demands nothing").allowed(ALLOWED));
        return None;
    }
    let mut list = Vec::new();
    let mut is_whole = true;
    for (key, member) in members {
        let at = join(path, &key.name);
        let before = mistakes.len();
        match key.name.as_str() {
            "roles" => list.extend(texts(member, &at, mistakes).map(Demand::Roles)),
            "scopes" => list.extend(texts(member, &at, mistakes).map(Demand::Scopes)),
            "any_scope" => list.extend(texts(member, &at, mistakes).map(Demand::AnyScope)),
            "claims" => list.extend(claims(member, &at, mistakes)),
            "any" => list.extend(several(member, &at, mistakes).map(Demand::Any)),
            "all" => list.extend(several(member, &at, mistakes).map(Demand::All)),
            "not" => list.extend(demands(member, &at, mistakes).map(Demand::Not)),
            other => {
                let found = format!("unknown key `{}`", other.escape_debug());
                mistakes.add(Mistake::new(key.place, path, found).allowed(ALLOWED).near(other, KEYS));
            }
        }
        // A demand that cannot be read must not leave a weaker rule behind.
        is_whole &= mistakes.len() == before;
    }
    is_whole.then_some(list)
}

fn texts(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Vec<At<String>>> {
    let list = Vec::<At<String>>::read(node, path, mistakes)?;
    not_empty(list, node, path, mistakes)
}

fn several(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Vec<Vec<Demand>>> {
    let Value::List(list) = &node.value else {
        let mistake = Mistake::new(node.place, path, format!("{} where a list is needed", node.value.shown()));
        mistakes.add(mistake.allowed("a list of mappings"));
        return None;
    };
    let each = list.iter().enumerate();
    let read =
        each.map(|(number, element)| demands(element, &format!("{path}[{number}]"), mistakes)).collect::<Vec<_>>();
    not_empty(read.into_iter().collect::<Option<Vec<_>>>()?, node, path, mistakes)
}

fn claims(node: &Node, path: &str, mistakes: &mut Mistakes) -> Vec<Demand> {
    let Value::Map(members) = &node.value else {
        let found = format!("{} where a mapping is needed", node.value.shown());
        mistakes.add(
            Mistake::new(node.place, path, found).allowed("claims with their values, for example `{ tenant: blue }`"),
        );
        return Vec::new();
    };
    let mut list = Vec::new();
    for (key, member) in members {
        let at = join(path, &key.name);
        let Some(claim) = ClaimPath::parse(&key.name) else {
            mistakes
                .add(Mistake::new(key.place, &at, "this is no name of a claim").allowed("`sub`, `address.country`"));
            continue;
        };
        let claim = At { value: claim, place: key.place, trail: at.clone().into() };
        list.extend(values(member, &at, mistakes).map(|values| Demand::Claim(claim, values)));
    }
    if members.is_empty() {
        mistakes.add(Mistake::new(node.place, path, "an empty mapping demands nothing").allowed("at least one claim"));
    }
    list
}

/// A text that a claim is to be: a path parameter, or the text itself. What only looks like a parameter is neither: under
/// `not` it would let everybody in.
fn claim_text(text: &Text) -> Result<ClaimValue, String> {
    let Text { text, is_secret } = text;
    if !text.contains(['{', '}']) {
        return Ok(ClaimValue::Literal(text.as_str().into()));
    }
    let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match name.filter(|name| !is_secret && !name.contains(['{', '}'])) {
        Some(name) => Ok(ClaimValue::Parameter(name.to_owned())),
        None if *is_secret => Err("a value from the environment with braces".to_owned()),
        None => Err(format!("`{}` has braces", text.escape_debug())),
    }
}

/// One value, or a list of them.
fn values(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Vec<At<ClaimValue>>> {
    let nodes = if let Value::List(list) = &node.value { list.as_slice() } else { std::slice::from_ref(node) };
    let mut read = Vec::new();
    for node in nodes {
        let value = match &node.value {
            Value::Text(text) => match claim_text(text) {
                Ok(value) => value,
                Err(found) => {
                    let mistake = Mistake::new(node.place, path, found);
                    mistakes.add(mistake.allowed(
                        "a path parameter is a whole value, `\"{name}\"`, written in the file; other values hold no braces",
                    ));
                    return None;
                }
            },
            Value::Whole(number) => ClaimValue::Literal((*number).into()),
            Value::Bool(value) => ClaimValue::Literal((*value).into()),
            Value::Null | Value::Fraction(_) | Value::List(_) | Value::Map(_) => {
                let mistake = Mistake::new(node.place, path, node.value.shown());
                mistakes.add(mistake.allowed(
                    "text, a whole number, `true`, `false`, a path parameter `\"{name}\"`, or a list of these",
                ));
                return None;
            }
        };
        read.push(At { value, place: node.place, trail: path.into() });
    }
    not_empty(read, node, path, mistakes)
}

fn not_empty<T>(list: Vec<T>, node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Vec<T>> {
    if list.is_empty() {
        mistakes.add(
            Mistake::new(node.place, path, "the list is empty").allowed("at least one").remedy("leave the key out"),
        );
        return None;
    }
    Some(list)
}
