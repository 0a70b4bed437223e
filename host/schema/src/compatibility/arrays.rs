//! What is known of the items of a value, and what a new schema says of them.

use serde_json::Value;

use super::{
    Break, Search,
    facts::{MEASURES, types},
    part::Part,
    values::whole,
};
use crate::text::join;

/// The schemas of the first items, one each, and of the rest.
fn items(part: Part<'_>) -> (&[Value], Option<Part<'_>>) {
    match part.keyword("items") {
        // As it was written before the draft of 2020.
        Some(Value::Array(first)) => (first, part.schema("additionalItems")),
        _ => (part.list("prefixItems"), part.schema("items")),
    }
}

/// What is known of the item at an index.
fn item<'a>(parts: &[Part<'a>], index: usize) -> Vec<Part<'a>> {
    let of = |part: &Part<'a>| match part {
        Part::Value(Value::Array(items)) => Some(items.get(index).map_or(Part::Never, Part::Value)),
        part => {
            let (first, rest) = items(*part);
            first.get(index).map(|schema| part.sibling(schema)).or(rest)
        }
    };
    parts.iter().filter_map(of).collect()
}

/// How many items have schemas of their own.
fn named(parts: &[Part<'_>]) -> usize {
    let of = |part: &Part<'_>| match part {
        Part::Value(Value::Array(items)) => items.len(),
        part => items(*part).0.len(),
    };
    parts.iter().map(of).max().unwrap_or_default()
}

/// The most items that a value may have.
pub(super) fn longest(parts: &[Part<'_>]) -> usize {
    let measure = MEASURES.iter().find(|measure| measure.inclusive == "maxItems");
    let bound = measure.and_then(|measure| measure.bound(parts));
    let bound = bound.and_then(|bound| whole(bound.number));
    bound.and_then(|bound| usize::try_from(bound).ok()).unwrap_or(usize::MAX)
}

impl<'a> Search<'a> {
    /// The rules of `prefixItems` and `items` of one part of the new schema.
    pub(super) fn items(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        let (first, rest) = items(new);
        let longest = longest(old);
        for (index, schema) in first.iter().enumerate().take(longest) {
            let known = item(old, index);
            found.extend(self.inside(&known, new.sibling(schema), &join(at, &index.to_string())));
        }
        let Some(rest) = rest else { return found };
        // Those that the old schema knew one by one, and then one that stands for all further ones.
        let further = named(old).max(first.len());
        for index in first.len()..=further {
            if index >= longest || !self.spend(1) {
                break;
            }
            let known = item(old, index);
            found.extend(self.inside(&known, rest, &join(at, &index.to_string())));
            if found.len() > super::MAX_BREAKS {
                break;
            }
        }
        found
    }

    /// The rule of `uniqueItems`.
    pub(super) fn unique(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let unique = |part: &Part<'a>| part.keyword("uniqueItems") == Some(&Value::Bool(true));
        if !unique(&new) || old.iter().any(unique) || longest(old) <= 1 || types(old).is_empty() {
            return Vec::new();
        }
        vec![Break::at(at, "took the same item twice, and does not now")]
    }
}
