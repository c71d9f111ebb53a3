//! Whole numbers within their bounds.

use std::ops::RangeInclusive;

use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Text, Value};
use super::section::Read;

/// A whole number from 1 to `MOST`.
#[derive(Clone, Copy, Debug)]
pub struct Count<const MOST: usize>(pub usize);

impl<const MOST: usize> Read for Count<MOST> {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        whole(node, 1..=MOST, path, mistakes).map(Self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 1, "maximum": MOST })
    }
}

/// A whole number from 0 to `MOST`.
#[derive(Clone, Copy, Debug)]
pub struct UpTo<const MOST: usize>(pub usize);

impl<const MOST: usize> Read for UpTo<MOST> {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        whole(node, 0..=MOST, path, mistakes).map(Self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 0, "maximum": MOST })
    }
}

fn whole(node: &Node, range: RangeInclusive<usize>, path: &str, mistakes: &mut Mistakes) -> Option<usize> {
    let number = match &node.value {
        Value::Whole(number) => usize::try_from(*number).ok(),
        Value::Text(Text { text, is_secret: true }) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Fraction(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
    };
    let fits = number.filter(|number| range.contains(number));
    if fits.is_none() {
        let mistake = Mistake::new(node.place, path, node.value.shown());
        mistakes.add(mistake.allowed(format!("a whole number from {} to {}", range.start(), range.end())));
    }
    fits
}
