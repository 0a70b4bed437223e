//! What is known of the properties of a value, and what a new schema says of them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Break, Search,
    facts::{Types, requires},
    part::Part,
};
use crate::{Schema, text::join};

/// Keywords that make a schema depend on what others beside it have seen.
const IN_PLACE: [&str; 9] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "not",
    "dependentSchemas",
];

/// The schema of properties that no other keyword of a part speaks of. `unevaluatedProperties`
/// means the same where nothing beside it sees properties.
fn additional(part: Part<'_>) -> Option<Part<'_>> {
    part.schema("additionalProperties").or_else(|| {
        let alone = IN_PLACE.iter().all(|keyword| part.keyword(keyword).is_none());
        part.schema("unevaluatedProperties").filter(|_| alone)
    })
}

/// Whether the keyword `unevaluatedProperties` says nothing that [`additional`] does not say.
pub(super) fn is_plain(part: Part<'_>) -> bool {
    IN_PLACE.iter().all(|keyword| part.keyword(keyword).is_none())
}

fn named<'a>(part: Part<'a>) -> Vec<&'a str> {
    let members = match part {
        Part::Value(Value::Object(members)) => Some(members),
        part => part.map("properties"),
    };
    members.into_iter().flat_map(|members| members.keys().map(String::as_str)).collect()
}

fn patterns<'a>(part: Part<'a>) -> impl Iterator<Item = (&'a str, Part<'a>)> {
    let patterns = part.map("patternProperties").into_iter().flatten();
    patterns.map(move |(pattern, schema)| (pattern.as_str(), part.sibling(schema)))
}

impl<'a> Search<'a> {
    /// Whether a pattern matches a name. `None`: nobody can tell.
    fn matches(&mut self, pattern: &'a str, name: &str) -> Option<bool> {
        if !self.spend(20) {
            return None;
        }
        let compiled = self
            .patterns
            .entry(pattern)
            .or_insert_with(|| Schema::compile(&json!({"pattern": pattern}).to_string()).ok());
        let name = Value::String(name.to_owned());
        Some(compiled.as_ref()?.takes(&name))
    }

    /// What is known of a property, if a value has it.
    pub(super) fn property(&mut self, parts: &[Part<'a>], name: &str) -> Vec<Part<'a>> {
        let mut known = Vec::new();
        for part in parts {
            if let Part::Value(Value::Object(members)) = part {
                known.push(members.get(name).map_or(Part::Never, Part::Value));
                continue;
            }
            let own = part.map("properties").and_then(|members| members.get(name));
            known.extend(own.map(|schema| part.sibling(schema)));
            let mut others_speak = own.is_some();
            for (pattern, schema) in patterns(*part) {
                match self.matches(pattern, name) {
                    Some(true) => known.push(schema),
                    Some(false) => continue,
                    None => {}
                }
                others_speak = true;
            }
            if !others_speak {
                known.extend(additional(*part));
            }
        }
        known
    }

    /// What is known of properties that no old schema names, and that are known to match none of
    /// these patterns.
    fn others(parts: &[Part<'a>], unmatched: &BTreeSet<&str>) -> Vec<Part<'a>> {
        let of = |part: &Part<'a>| match part {
            Part::Value(Value::Object(_)) => Some(Part::Never),
            part => additional(*part)
                .filter(|_| patterns(*part).all(|(pattern, _)| unmatched.contains(pattern))),
        };
        parts.iter().filter_map(of).collect()
    }

    /// A field that the old schema did not name, in an object whose other fields it did name and to
    /// which it set no end.
    fn is_unnamed(&mut self, old: &[Part<'a>], name: &str) -> bool {
        let names_others = |part: &Part<'a>| {
            part.map("properties").is_some_and(|members| !members.is_empty())
                && ["additionalProperties", "unevaluatedProperties", "patternProperties"]
                    .iter()
                    .all(|keyword| part.keyword(keyword).is_none())
        };
        self.strict == 0
            && self.property(old, name).is_empty()
            && !requires(old, name)
            && old.iter().any(names_others)
    }

    /// The rules of `properties`, `patternProperties` and `additionalProperties` of one part of the
    /// new schema.
    pub(super) fn properties(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        for (name, schema) in new.map("properties").into_iter().flatten() {
            if !self.is_unnamed(old, name) {
                let known = self.property(old, name);
                found.extend(self.inside(&known, new.sibling(schema), &join(at, name)));
            }
        }
        let old_names: BTreeSet<&'a str> = old.iter().flat_map(|part| named(*part)).collect();
        let mut unmatched = BTreeSet::new();
        for (pattern, schema) in patterns(new) {
            unmatched.insert(pattern);
            found.extend(self.matching(old, &old_names, (pattern, schema), at));
        }
        if let Some(schema) = additional(new) {
            found.extend(self.additional(old, &old_names, (new, schema), &unmatched, at));
        }
        found
    }

    fn matching(
        &mut self,
        old: &[Part<'a>],
        old_names: &BTreeSet<&'a str>,
        (pattern, schema): (&'a str, Part<'a>),
        at: &str,
    ) -> Vec<Break> {
        let mut found = Vec::new();
        for name in old_names {
            if self.matches(pattern, name) != Some(false) {
                let known = self.property(old, name);
                found.extend(self.inside(&known, schema, &join(at, name)));
            }
        }
        let mut known = Self::others(old, &BTreeSet::new());
        for part in old {
            let own = patterns(*part).find(|(old_pattern, _)| *old_pattern == pattern);
            known.extend(own.map(|(_, schema)| schema));
        }
        found.extend(self.inside(&known, schema, &join(at, "*")));
        found
    }

    fn additional(
        &mut self,
        old: &[Part<'a>],
        old_names: &BTreeSet<&'a str>,
        (new, schema): (Part<'a>, Part<'a>),
        unmatched: &BTreeSet<&'a str>,
        at: &str,
    ) -> Vec<Break> {
        let mut found = Vec::new();
        let new_names: BTreeSet<&str> = named(new).into_iter().collect();
        for name in old_names.difference(&new_names) {
            if unmatched.iter().any(|pattern| self.matches(pattern, name) == Some(true)) {
                continue;
            }
            let (known, at) = (self.property(old, name), join(at, name));
            if !matches!(schema, Part::Never) {
                found.extend(self.inside(&known, schema, &at));
            } else if !self.impossible(&known) {
                let detail = "is not a property any more, and no others are allowed";
                found.push(Break::at(&at, detail));
            }
        }
        let known = Self::others(old, unmatched);
        if !matches!(schema, Part::Never) {
            found.extend(self.inside(&known, schema, &join(at, "*")));
        } else if !self.impossible(&known) {
            let detail = "took other properties than those that it names, and takes none now";
            found.push(Break::at(at, detail));
        }
        found
    }

    /// The rule of `propertyNames`.
    pub(super) fn property_names(
        &mut self,
        old: &[Part<'a>],
        new: Part<'a>,
        at: &str,
    ) -> Vec<Break> {
        let Some(schema) = new.schema("propertyNames") else {
            return Vec::new();
        };
        let mut known: Vec<_> =
            old.iter().filter_map(|part| part.schema("propertyNames")).collect();
        known.push(Part::Types(Types::STRING));
        let found = self.inside(&known, schema, at);
        let of_names = |found: Break| {
            Break::at(&found.pointer, format!("names of properties: {}", found.detail))
        };
        found.into_iter().map(of_names).collect()
    }

    /// The rule of `required`.
    pub(super) fn required(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        for name in new.list("required").iter().filter_map(Value::as_str) {
            if !requires(old, name) {
                let named = old.iter().any(|part| named(*part).contains(&name));
                let detail = if named {
                    "was optional, is required now"
                } else {
                    "was not there, is required now"
                };
                found.push(Break::at(&join(at, name), detail));
            }
        }
        found
    }

    /// The rule of `dependentRequired`.
    pub(super) fn dependent_required(
        &mut self,
        old: &[Part<'a>],
        new: Part<'a>,
        at: &str,
    ) -> Vec<Break> {
        let mut found = Vec::new();
        for (trigger, names) in new.map("dependentRequired").into_iter().flatten() {
            for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
                let before = |part: &Part<'a>| {
                    let names = part.map("dependentRequired").and_then(|map| map.get(trigger));
                    let names = names.and_then(Value::as_array);
                    names.is_some_and(|names| names.iter().any(|required| required == name))
                };
                let known = self.property(old, trigger);
                if name != trigger
                    && !requires(old, name)
                    && !old.iter().any(before)
                    && !self.impossible(&known)
                {
                    let detail = format!("is required now where {trigger:?} is given");
                    found.push(Break::at(&join(at, name), detail));
                }
            }
        }
        found
    }

    /// The rule of `dependentSchemas`.
    pub(super) fn dependent_schemas(
        &mut self,
        old: &[Part<'a>],
        new: Part<'a>,
        at: &str,
    ) -> Vec<Break> {
        let mut found = Vec::new();
        for (trigger, schema) in new.map("dependentSchemas").into_iter().flatten() {
            let schema = new.sibling(schema);
            let before = old.iter().filter_map(|part| {
                let schema = part.map("dependentSchemas")?.get(trigger)?;
                Some(part.sibling(schema))
            });
            let before: Vec<_> = before.collect();
            if !before.into_iter().any(|before| self.same(before, schema)) {
                found.extend(self.covers(old, schema, at));
            }
        }
        found
    }
}
