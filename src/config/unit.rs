//! Values that carry their unit: lengths of time and numbers of bytes.

use std::time::Duration;

use serde_json::json;

use super::mistake::{Mistake, Mistakes};
use super::node::{Node, Value};
use super::section::Read;
use super::value::parsed;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A length of time: `250ms`, `30s`, `5m`, `1h`, `14d`.
impl Read for Duration {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a whole number with its unit: `250ms`, `30s`, `5m`, `1h`, `14d`";
        if let Value::Whole(number) = node.value {
            let mistake = Mistake::new(node.place, path, format!("`{number}` has no unit")).allowed(allowed);
            mistakes.add(mistake.remedy(format!("`{number}s` for seconds")));
            return None;
        }
        parsed(node, path, allowed, mistakes, |text| with_unit(text, &DURATIONS).map(Self::from_millis))
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d)|.*\\$\\{.*)$" })
    }
}

const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl Read for Size {
    fn read(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let allowed = "a whole number with its unit: `512B`, `64KiB`, `1MiB`, `2GiB`";
        if let Value::Whole(number) = node.value {
            let mistake = Mistake::new(node.place, path, format!("`{number}` has no unit")).allowed(allowed);
            mistakes.add(mistake.remedy(format!("`{number}B` for bytes")));
            return None;
        }
        parsed(node, path, allowed, mistakes, |text| with_unit(text, &SIZES).map(Self))
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^([0-9]+(B|KiB|MiB|GiB)|.*\\$\\{.*)$" })
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}
