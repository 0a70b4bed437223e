//! One keyword of the new schema against what is known of a value.

use serde_json::{Value, json};

use super::{
    Break, Search,
    facts::{MEASURES, Measure, Types, Way, types},
    objects,
    part::{Dialect, Part},
    values::{key, whole},
};
use crate::Schema;

/// Keywords that speak of one value as a whole, without schemas in them, and the types that they
/// speak of.
const PLAIN: [(&str, Types); 14] = [
    ("minimum", Types::NUMBER),
    ("exclusiveMinimum", Types::NUMBER),
    ("maximum", Types::NUMBER),
    ("exclusiveMaximum", Types::NUMBER),
    ("multipleOf", Types::NUMBER),
    ("minLength", Types::STRING),
    ("maxLength", Types::STRING),
    ("pattern", Types::STRING),
    ("minItems", Types::ARRAY),
    ("maxItems", Types::ARRAY),
    ("uniqueItems", Types::ARRAY),
    ("minProperties", Types::OBJECT),
    ("maxProperties", Types::OBJECT),
    ("required", Types::OBJECT),
];
/// Keywords that are compared by their text only, together with those that they depend on.
const OPAQUE: [&[&str]; 4] = [
    &["contains", "minContains", "maxContains"],
    &["dependencies"],
    &["$dynamicRef"],
    &["$recursiveRef"],
];
/// Of the seventh draft also these.
const OPAQUE_IN_DRAFT_7: [&[&str]; 3] = [&["format"], &["contentEncoding"], &["contentMediaType"]];
/// Keywords that see what others beside them have seen: unchanged only if the whole schema around
/// them is.
const SEEING: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];

impl<'a> Search<'a> {
    /// Every keyword of the new schema, references and `allOf` followed.
    pub(super) fn rules(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        for new in self.unfold(&[new]) {
            match new {
                Part::Keywords { document, .. } => {
                    if let Dialect::Other(name) = document.dialect {
                        let detail = format!("is written in {name}, which cannot be compared");
                        found.push(Break::at(at, detail));
                    } else if !old.iter().any(|part| self.same(*part, new)) {
                        found.extend(self.keywords(old, new, at));
                    }
                }
                Part::Never if !self.impossible(old) => {
                    found.push(Break::at(at, "takes nothing any more"));
                }
                Part::Unclear => {
                    found.push(Break::at(at, "has a reference that cannot be compared"));
                }
                // What `not` says is found at its keyword.
                _ => {}
            }
            if found.len() > super::MAX_BREAKS {
                break;
            }
        }
        found
    }

    fn keywords(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let possible = types(old);
        let mut found = self.type_and_values(old, new, at);
        if !found.is_empty() {
            // Whatever else it says, it says of something else than before.
            return found;
        }
        found.extend(self.plain(old, new, possible, at));
        if !possible.and(Types::ARRAY).is_empty() {
            found.extend(self.items(old, new, at));
        }
        if !possible.and(Types::OBJECT).is_empty() {
            found.extend(self.properties(old, new, at));
            found.extend(self.property_names(old, new, at));
            found.extend(self.dependent_required(old, new, at));
            found.extend(self.dependent_schemas(old, new, at));
        }
        found.extend(self.choices(old, new, at));
        found.extend(self.opaque(old, new, at));
        found
    }

    fn type_and_values(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        for keyword in ["const", "enum"] {
            let allowed: Vec<&'a Value> = match (keyword, new.keyword(keyword)) {
                (_, None) => continue,
                ("const", Some(value)) => vec![value],
                (_, Some(values)) => values.as_array().into_iter().flatten().collect(),
            };
            let found = self.among(old, &allowed, at);
            if !found.is_empty() {
                return found;
            }
        }
        let (was, is) = (types(old), new.keyword("type").map_or(Types::ALL, Types::named));
        if was.is_within(is) {
            return Vec::new();
        }
        match self.values(old) {
            Some(values) => {
                let refused = values.into_iter().filter(|value| !Types::of(value).is_within(is));
                refused.map(|value| no_longer(value, at)).collect()
            }
            None => vec![Break::at(at, format!("type was {was}, is {is} now"))],
        }
    }

    /// The rule of `enum` and `const`.
    fn among(&mut self, old: &[Part<'a>], allowed: &[&'a Value], at: &str) -> Vec<Break> {
        let Some(values) = self.values(old) else {
            let detail = format!("was {}, takes only listed values now", types(old));
            return vec![Break::at(at, detail)];
        };
        if !self.spend(10 * (values.len() + allowed.len())) {
            return vec![Break::at(at, "lists too many values to be compared")];
        }
        let allowed: std::collections::HashSet<_> =
            allowed.iter().map(|value| key(value)).collect();
        let refused = values.into_iter().filter(|value| !allowed.contains(&key(value)));
        refused.take(super::MAX_BREAKS).map(|value| no_longer(value, at)).collect()
    }

    /// Keywords without schemas in them.
    fn plain(&mut self, old: &[Part<'a>], new: Part<'a>, possible: Types, at: &str) -> Vec<Break> {
        if let Some(values) = self.values(old) {
            return self.plain_of_values(&values, new, at);
        }
        let mut found = Vec::new();
        for measure in MEASURES {
            if !possible.and(measure.types).is_empty() {
                found.extend(bounded(measure, old, new, at));
            }
        }
        if !possible.and(Types::NUMBER).is_empty() {
            found.extend(multiple(old, new, possible, at));
        }
        if !possible.and(Types::STRING).is_empty() {
            found.extend(pattern(old, new, at));
        }
        if !possible.and(Types::ARRAY).is_empty() {
            found.extend(self.unique(old, new, at));
        }
        if !possible.and(Types::OBJECT).is_empty() {
            found.extend(self.required(old, new, at));
        }
        found
    }

    /// Of values that are known, each is tried.
    fn plain_of_values(&mut self, values: &[&'a Value], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        for (keyword, types) in PLAIN {
            let Some(set) = new.keyword(keyword) else { continue };
            if !self.spend(super::PAIR as usize + 10 * values.len()) {
                return vec![Break::at(at, "lists too many values to be compared")];
            }
            let Ok(schema) = Schema::compile(&json!({keyword: set}).to_string()) else {
                found.push(Break::at(at, format!("{keyword} cannot be compared")));
                continue;
            };
            let refused = values
                .iter()
                .filter(|value| Types::of(value).is_within(types) && !schema.takes(value));
            found.extend(refused.take(super::MAX_BREAKS).map(|value| no_longer(value, at)));
        }
        found
    }

    fn choices(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        for (keyword, rule) in [
            ("anyOf", Self::any_of as fn(&mut Self, &[Part<'a>], Part<'a>, &str) -> Vec<Break>),
            ("oneOf", Self::one_of),
            ("not", Self::not),
        ] {
            if new.keyword(keyword).is_some()
                && !old.iter().any(|part| self.same_keyword(*part, new, keyword))
            {
                found.extend(rule(self, old, new, at));
            }
        }
        found.extend(self.conditional(old, new, at));
        found
    }

    fn opaque(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let mut found = Vec::new();
        let Part::Keywords { document, .. } = new else {
            return found;
        };
        let more: &[&[&str]] = match document.dialect {
            Dialect::Draft7 => &OPAQUE_IN_DRAFT_7,
            _ => &[],
        };
        for group in OPAQUE.iter().chain(more) {
            let unchanged = |search: &mut Self, part: &Part<'a>| {
                group.iter().all(|keyword| search.same_keyword(*part, new, keyword))
            };
            if new.keyword(group[0]).is_some() && !old.iter().any(|part| unchanged(self, part)) {
                found.push(Break::at(
                    at,
                    format!("{} has changed, and cannot be compared", group[0]),
                ));
            }
        }
        // The whole schema was looked at already, and is not the same.
        for keyword in SEEING {
            let plain = keyword == "unevaluatedProperties" && objects::is_plain(new);
            let allows = matches!(new.schema(keyword), None | Some(Part::Types(Types::ALL)));
            if !allows && !plain {
                let detail = format!("{keyword} cannot be compared beside what has changed");
                found.push(Break::at(at, detail));
            }
        }
        found
    }
}

fn no_longer(value: &Value, at: &str) -> Break {
    Break::at(at, format!("no longer takes {value}"))
}

fn bounded(measure: Measure, old: &[Part<'_>], new: Part<'_>, at: &str) -> Option<Break> {
    let is = measure.bound(&[new])?;
    let was = measure.bound(old);
    if was.is_some_and(|was| measure.implies(was, is))
        || is_met_by_required(measure, old, is.number)
    {
        return None;
    }
    let keyword = match (is.inclusive, measure.exclusive) {
        (false, Some(exclusive)) => exclusive,
        _ => measure.inclusive,
    };
    let detail = match (was, measure.way) {
        (None, _) => match is_trivial(keyword, is.number) {
            true => return None,
            false => format!("had no {keyword}, has {} now", is.number),
        },
        (Some(was), Way::AtLeast) => format!("{keyword} rose from {} to {}", was.number, is.number),
        (Some(was), Way::AtMost) => format!("{keyword} fell from {} to {}", was.number, is.number),
    };
    Some(Break::at(at, detail))
}

/// Lengths and counts are never negative.
fn is_trivial(keyword: &str, number: &serde_json::Number) -> bool {
    ["minLength", "minItems", "minProperties"].contains(&keyword) && whole(number) == Some(0)
}

/// Required properties are properties.
fn is_met_by_required(measure: Measure, old: &[Part<'_>], number: &serde_json::Number) -> bool {
    let most = old.iter().map(|part| {
        let names: std::collections::HashSet<_> =
            part.list("required").iter().filter_map(Value::as_str).collect();
        names.len() as i128
    });
    measure.inclusive == "minProperties"
        && whole(number).is_some_and(|number| most.max().is_some_and(|most| most >= number))
}

fn multiple(old: &[Part<'_>], new: Part<'_>, possible: Types, at: &str) -> Option<Break> {
    let is = new.keyword("multipleOf")?.as_number()?;
    let was: Vec<_> =
        old.iter().filter_map(|part| part.keyword("multipleOf")?.as_number()).collect();
    let divides = |was: &&serde_json::Number| match (whole(was), whole(is)) {
        (Some(was), Some(is)) => is != 0 && was % is == 0,
        _ => *was == is,
    };
    let whole_anyway =
        whole(is) == Some(1) && possible.and(Types::NUMBER).is_within(Types::INTEGER);
    if whole_anyway || was.iter().any(divides) {
        return None;
    }
    let detail = match was.first() {
        Some(was) => format!("multipleOf was {was}, is {is} now"),
        None => format!("must be a multiple of {is} now"),
    };
    Some(Break::at(at, detail))
}

fn pattern(old: &[Part<'_>], new: Part<'_>, at: &str) -> Option<Break> {
    let is = new.keyword("pattern")?.as_str()?;
    let mut was = old.iter().filter_map(|part| part.keyword("pattern")?.as_str());
    let first = was.clone().next();
    if was.any(|was| was == is) {
        return None;
    }
    let detail = match first {
        Some(was) => format!("pattern was {was:?}, is {is:?} now"),
        None => format!("had no pattern, must match {is:?} now"),
    };
    Some(Break::at(at, detail))
}
