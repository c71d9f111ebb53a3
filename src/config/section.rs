//! How a mapping of the file becomes a struct: one description for reading, schema and defaults.
//!
//! `section!` takes a struct's fields with their docs and makes of them the struct, its reader, which
//! finds unknown and missing keys, and its JSON Schema. So a key cannot be read without being
//! documented, nor be in the schema without being read.

use std::rc::Rc;

use serde_json::{Map, json};

use super::mistake::{Mistake, Mistakes};
use super::node::{Key, Node, Text, Value, join};
use super::place::{At, Place};

/// A value that can be read from a node and described by a JSON Schema.
pub trait Read: Sized {
    /// Reads the value; what is wrong goes to `mistakes`, and there is no value then.
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self>;

    /// Its JSON Schema (2020-12).
    fn schema() -> serde_json::Value;
}

/// A reader of one mapping's members.
pub struct Members<'n> {
    members: &'n [(Key, Node)],
    path: &'n str,
    place: Place,
}

impl<'n> Members<'n> {
    /// Opens a mapping whose keys are `known`; unknown ones are mistakes.
    pub fn open(node: &'n Node, path: &'n str, known: &[&str], mistakes: &mut Mistakes) -> Option<Self> {
        let Value::Map(members) = &node.value else {
            let list = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let found = format!("{} where a mapping is needed", node.value.kind());
            mistakes.add(Mistake::new(node.place, path, found).allowed(format!("keys: {list}")));
            return None;
        };
        for (key, _) in members.iter().filter(|(key, _)| !known.contains(&key.name.as_str()) && key.name != "<<") {
            let list = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let found = format!("unknown key `{}`", key.name.escape_debug());
            let mistake = Mistake::new(key.place, path, found).allowed(format!("keys here: {list}"));
            mistakes.add(mistake.near(&key.name, known.iter().copied()));
        }
        Some(Self { members, path, place: node.place })
    }

    /// A key that has to be there.
    pub fn required<T: Read>(&self, name: &str, mistakes: &mut Mistakes) -> Option<At<T>> {
        let found = self.optional(name, mistakes);
        if found.is_none() && self.find(name).is_none() {
            mistakes
                .add(Mistake::new(self.place, self.path, format!("`{name}` is missing")).allowed("it has to be given"));
        }
        found
    }

    /// A key that may be left out.
    pub fn optional<T: Read>(&self, name: &str, mistakes: &mut Mistakes) -> Option<At<T>> {
        let node = self.find(name)?;
        let path = join(self.path, name);
        let value = T::read(node, &path, mistakes)?;
        Some(At { value, place: node.place, trail: path.into() })
    }

    /// A key whose value is `default`, as it would stand in the file, where it is left out or wrong.
    pub fn or_default<T: Read>(&self, name: &str, default: &str, mistakes: &mut Mistakes) -> Option<At<T>> {
        if let Some(found) = self.optional(name, mistakes) {
            return Some(found);
        }
        let path = join(self.path, name);
        let node = Node { value: Value::of_default(default), place: self.place };
        let value = T::read(&node, &path, mistakes)?;
        Some(At { value, place: self.place, trail: path.into() })
    }

    fn find(&self, name: &str) -> Option<&'n Node> {
        self.members.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }
}

impl Value {
    /// What it is called in a message.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Whole(_) | Self::Fraction(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// What it is, with its value where that may be shown.
    pub fn shown(&self) -> String {
        match self {
            Self::Bool(value) => format!("`{value}`"),
            Self::Whole(number) => format!("`{number}`"),
            Self::Fraction(number) => format!("`{number}`"),
            Self::Text(Text { is_secret: true, .. }) => "a value from the environment".to_owned(),
            Self::Text(Text { text, .. }) => {
                let short: String = text.chars().take(80).collect();
                format!("`{}`", short.escape_debug())
            }
            Self::Null | Self::List(_) | Self::Map(_) => self.kind().to_owned(),
        }
    }

    fn of_default(text: &str) -> Self {
        match text {
            "[]" => Self::List(Vec::new()),
            "{}" => Self::Map(Vec::new()),
            _ if text.starts_with('[') => {
                let words = text.trim_matches(['[', ']']).split(", ");
                // A default is nowhere in the file.
                let place = Place { line: 1, column: 1, length: 1 };
                Self::List(words.map(|word| Node { value: Self::of_default(word), place }).collect())
            }
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ => {
                text.parse().map_or_else(|_| Self::Text(Text { text: text.to_owned(), is_secret: false }), Self::Whole)
            }
        }
    }
}

/// A list.
impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::List(list) = &node.value else {
            let mistake = Mistake::new(node.place, path, format!("{} where a list is needed", node.value.shown()));
            mistakes.add(mistake.allowed("a list, for example `[a, b]`"));
            return None;
        };
        let read = list.iter().enumerate().filter_map(|(number, element)| {
            let path: Rc<str> = format!("{path}[{number}]").into();
            let value = T::read(element, &path, mistakes)?;
            Some(At { value, place: element.place, trail: path })
        });
        Some(read.collect())
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": or_variable(T::schema()) })
    }
}

/// A mapping from names that the operator chooses.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The entries that could be read.
    pub entries: Vec<(At<String>, At<T>)>,
    /// Every name that is declared, also of entries with mistakes inside.
    pub declared: Vec<At<String>>,
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::Map(members) = &node.value else {
            let mistake = Mistake::new(node.place, path, format!("{} where a mapping is needed", node.value.shown()));
            mistakes.add(mistake.allowed("names with what belongs to them below"));
            return None;
        };
        let mut named = Self { entries: Vec::new(), declared: Vec::new() };
        for (key, member) in members {
            let path: Rc<str> = join(path, &key.name).into();
            let name = At { value: key.name.clone(), place: key.place, trail: Rc::clone(&path) };
            named.declared.push(name.clone());
            if let Some(value) = T::read(member, &path, mistakes) {
                named.entries.push((name, At { value, place: member.place, trail: path }));
            }
        }
        Some(named)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "object", "additionalProperties": or_variable(T::schema()) })
    }
}

impl<T> Named<T> {
    /// The names, for a message: `` `member`, `order` ``.
    pub fn names(&self) -> String {
        if self.declared.is_empty() {
            return "none".to_owned();
        }
        self.declared.iter().map(|name| format!("`{}`", name.value)).collect::<Vec<_>>().join(", ")
    }
}

/// The key that a field is read from: `match` for `r#match`.
pub fn key(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// A schema that takes `${NAME}` as well, in the place of a boolean, a number or one of a few words: what that stands for
/// is not known to an editor.
pub fn or_variable(schema: serde_json::Value) -> serde_json::Value {
    let word = |name: &str| schema.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let holds = |names: &[&str]| names.iter().any(|name| schema.get(name).is_some());
    let is_free = word("type") == "string" && !holds(&["enum", "pattern"]);
    let takes_it = is_free || word("pattern").contains("\\$\\{");
    let is_whole = ["object", "array"].contains(&word("type")) || holds(&["const", "anyOf", "allOf", "$ref"]);
    if takes_it || is_whole {
        return schema;
    }
    json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{" }] })
}

/// A default as JSON.
fn shown(default: &str) -> serde_json::Value {
    fn of(value: Value) -> Option<serde_json::Value> {
        match value {
            Value::Bool(value) => Some(value.into()),
            Value::Whole(number) => Some(number.into()),
            Value::Text(text) => Some(text.text.into()),
            Value::List(list) => Some(list.into_iter().filter_map(|node| of(node.value)).collect()),
            Value::Map(_) => Some(json!({})),
            Value::Null | Value::Fraction(_) => None,
        }
    }
    of(Value::of_default(default)).unwrap_or_else(|| default.into())
}

/// Puts a description and a default beside a schema.
pub fn described(schema: serde_json::Value, doc: &[&str], default: Option<&str>) -> serde_json::Value {
    let schema = or_variable(schema);
    let serde_json::Value::Object(mut members) = schema else { return schema };
    let doc = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    if members.contains_key("$ref") {
        members = Map::from_iter([("allOf".to_owned(), json!([members]))]);
    }
    members.insert("description".to_owned(), doc.trim().into());
    if let Some(default) = default {
        members.insert("default".to_owned(), shown(default));
    }
    members.into()
}

/// Makes a struct, its reader and its schema of one list of fields.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ $how:ident $field:ident : $type:ty $(= $default:literal)? , )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $crate::config::section::section!(@type $how $type), )+
        }

        impl $crate::config::section::Read for $name {
            fn read(
                node: &$crate::config::node::Node,
                path: &str,
                mistakes: &mut $crate::config::mistake::Mistakes,
            ) -> Option<Self> {
                let known = [$( $crate::config::section::key(stringify!($field)) ),+];
                let members = $crate::config::section::Members::open(node, path, &known, mistakes)?;
                $( let $field = $crate::config::section::section!(@read $how members $field mistakes $($default)?); )+
                Some(Self { $( $field: $crate::config::section::section!(@take $how $field), )+ })
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    if stringify!($how) == "required" { required.push($crate::config::section::key(stringify!($field))); }
                    let default: Option<&str> = $crate::config::section::section!(@default $($default)?);
                    let schema = <$type as $crate::config::section::Read>::schema();
                    let schema = $crate::config::section::described(schema, &[$($doc),+], default);
                    properties.insert($crate::config::section::key(stringify!($field)).to_owned(), schema);
                )+
                serde_json::json!({
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }
        }
    };
    (@type optional $type:ty) => { Option<$crate::config::place::At<$type>> };
    (@type $how:ident $type:ty) => { $crate::config::place::At<$type> };
    (@read required $members:ident $field:ident $mistakes:ident) => { $members.required($crate::config::section::key(stringify!($field)), $mistakes) };
    (@read optional $members:ident $field:ident $mistakes:ident) => { $members.optional($crate::config::section::key(stringify!($field)), $mistakes) };
    (@read default $members:ident $field:ident $mistakes:ident $default:literal) => {
        $members.or_default($crate::config::section::key(stringify!($field)), $default, $mistakes)
    };
    (@take optional $field:ident) => { $field };
    (@take $how:ident $field:ident) => { $field? };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

pub(crate) use section;
