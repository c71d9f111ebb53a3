//! The JSON Schemas of gateway.yaml and of policy tests, for editors.

use serde_json::{Value, json};

use super::file::Config;
use super::policy::PolicyTests;
use super::section::Read;

/// The schema (2020-12) of gateway.yaml, made of the same descriptions that read the file.
#[must_use]
pub fn schema() -> Value {
    whole::<Config>("Bearward gateway.yaml")
}

/// The same of policy tests.
#[must_use]
pub fn of_policy_tests() -> Value {
    whole::<PolicyTests>("Bearward policy tests")
}

fn whole<T: Read>(title: &str) -> Value {
    let mut schema = T::schema();
    let definitions = hoist(&mut schema);
    if let Value::Object(members) = &mut schema {
        members.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        members.insert("title".to_owned(), json!(title));
        members.insert("$defs".to_owned(), definitions);
    }
    schema
}

/// Takes the definitions out of wherever they stand, so that `#/$defs/...` finds them.
fn hoist(value: &mut Value) -> Value {
    let mut found = serde_json::Map::new();
    match value {
        Value::Object(members) => {
            if let Some(Value::Object(definitions)) = members.remove("$defs") {
                found.extend(definitions);
            }
            for member in members.values_mut() {
                if let Value::Object(below) = hoist(member) {
                    found.extend(below);
                }
            }
        }
        Value::Array(list) => {
            for element in list {
                if let Value::Object(below) = hoist(element) {
                    found.extend(below);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Value::Object(found)
}
