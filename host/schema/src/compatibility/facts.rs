//! What is known of a value of which all parts of the old schema hold.

use std::{cmp::Ordering, collections::HashSet, fmt};

use serde_json::{Number, Value};

use super::{
    Search,
    part::{Choices, Part},
    values::{compare, key, whole},
};

/// A set of types. Numbers with and without a fraction are told apart, because `integer` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    pub(super) const NUMBER: Self = Self(12);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);
    const NONE: Self = Self(0);
    const NAMED: [(&'static str, Self); 7] = [
        ("null", Self::NULL),
        ("boolean", Self::BOOLEAN),
        ("number", Self::NUMBER),
        ("integer", Self::INTEGER),
        ("string", Self::STRING),
        ("array", Self::ARRAY),
        ("object", Self::OBJECT),
    ];

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub(super) const fn bits(self) -> usize {
        self.0 as usize
    }

    /// What the keyword `type` is set to.
    pub(super) fn named(value: &Value) -> Self {
        let one = |name: &str| {
            let named = Self::NAMED.iter().find(|(known, _)| *known == name);
            named.map_or(Self::NONE, |(_, types)| *types)
        };
        match value {
            Value::String(name) => one(name),
            Value::Array(names) => Self(
                names.iter().fold(0, |sum, name| sum | name.as_str().map_or(0, |name| one(name).0)),
            ),
            _ => Self::NONE,
        }
    }

    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if whole(number).is_some() || is_huge(number) => Self::INTEGER,
            Value::Number(_) => Self(Self::NUMBER.0 & !Self::INTEGER.0),
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// One by one.
    pub(super) fn apart(self) -> Vec<Self> {
        let kinds =
            [Self::BOOLEAN, Self::NUMBER, Self::STRING, Self::ARRAY, Self::OBJECT, Self::NULL];
        let apart = kinds.iter().map(|kind| self.and(*kind));
        apart.filter(|kind| !kind.is_empty()).collect()
    }
}

/// Floats this great have no fraction.
fn is_huge(number: &Number) -> bool {
    number.as_f64().is_some_and(|float| float.abs() >= 1e30)
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => return f.write_str("anything"),
            Self::NONE => return f.write_str("nothing"),
            _ => {}
        }
        // A number without its whole ones has no name; nobody can ask for it.
        let names = self.apart().into_iter().map(|kind| {
            let name = Self::NAMED.iter().find(|(_, types)| *types == kind);
            name.map_or("number", |(name, _)| *name)
        });
        let names: Vec<_> = names.collect();
        f.write_str(&names.join(" or "))
    }
}

/// Which way a bound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    AtLeast,
    AtMost,
}

/// Keywords that bound the same measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure {
    /// The keyword whose bound is allowed itself.
    pub(super) inclusive: &'static str,
    /// The keyword whose bound is not.
    pub(super) exclusive: Option<&'static str>,
    pub(super) way: Way,
    pub(super) types: Types,
}

const fn measure(inclusive: &'static str, way: Way, types: Types) -> Measure {
    Measure { inclusive, exclusive: None, way, types }
}

/// Each with the measure that bounds it from the other side beside it.
pub(super) const MEASURES: [Measure; 8] = [
    Measure {
        exclusive: Some("exclusiveMinimum"),
        ..measure("minimum", Way::AtLeast, Types::NUMBER)
    },
    Measure {
        exclusive: Some("exclusiveMaximum"),
        ..measure("maximum", Way::AtMost, Types::NUMBER)
    },
    measure("minLength", Way::AtLeast, Types::STRING),
    measure("maxLength", Way::AtMost, Types::STRING),
    measure("minItems", Way::AtLeast, Types::ARRAY),
    measure("maxItems", Way::AtMost, Types::ARRAY),
    measure("minProperties", Way::AtLeast, Types::OBJECT),
    measure("maxProperties", Way::AtMost, Types::OBJECT),
];

/// A bound, and whether it is allowed itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) number: &'a Number,
    pub(super) inclusive: bool,
}

impl Measure {
    /// The strictest bound that parts set.
    pub(super) fn bound<'a>(self, parts: &[Part<'a>]) -> Option<Bound<'a>> {
        let bounds = parts.iter().flat_map(|part| {
            let number = |keyword: &str| part.keyword(keyword).and_then(Value::as_number);
            let inclusive = number(self.inclusive).map(|number| Bound { number, inclusive: true });
            let exclusive =
                self.exclusive.and_then(number).map(|number| Bound { number, inclusive: false });
            inclusive.into_iter().chain(exclusive)
        });
        bounds.reduce(|one, other| if self.implies(one, other) { one } else { other })
    }

    /// Whether one bound leaves nothing beyond the other.
    pub(super) fn implies(self, one: Bound<'_>, other: Bound<'_>) -> bool {
        let order = compare(one.number, other.number);
        let stricter = match self.way {
            Way::AtLeast => Ordering::Greater,
            Way::AtMost => Ordering::Less,
        };
        order == stricter || order == Ordering::Equal && (other.inclusive || !one.inclusive)
    }
}

/// The types that a value may have.
pub(super) fn types(parts: &[Part<'_>]) -> Types {
    parts.iter().fold(Types::ALL, |types, part| {
        let more = match part {
            Part::Never => Types::NONE,
            Part::Types(types) => *types,
            Part::Value(value) => Types::of(value),
            Part::Keywords { .. } => part.keyword("type").map_or(Types::ALL, Types::named),
            Part::Not(..) | Part::Unclear => Types::ALL,
        };
        types.and(more)
    })
}

/// Whether a value has a property of this name for sure.
pub(super) fn requires(parts: &[Part<'_>], name: &str) -> bool {
    parts.iter().any(|part| match part {
        Part::Value(value) => value.get(name).is_some(),
        part => part.list("required").iter().any(|required| required == name),
    })
}

const ATOMS: [(&Value, Types); 3] = [
    (&Value::Null, Types::NULL),
    (&Value::Bool(false), Types::BOOLEAN),
    (&Value::Bool(true), Types::BOOLEAN),
];
/// Levels of a value that are looked at to see that there is none.
const IMPOSSIBLE: usize = 3;

impl<'a> Search<'a> {
    /// The values that are possible, if their number is known to be finite. Some of them may not be
    /// possible after all.
    pub(super) fn values(&mut self, parts: &[Part<'a>]) -> Option<Vec<&'a Value>> {
        let types = types(parts);
        let mut lists: Vec<Vec<&'a Value>> =
            parts.iter().filter_map(|part| listed(*part)).collect();
        if lists.is_empty() {
            let atoms = Types::NULL.0 | Types::BOOLEAN.0;
            return types.is_within(Types(atoms)).then(|| {
                let possible = ATOMS.iter().filter(|(_, atom)| atom.is_within(types));
                possible.map(|(value, _)| *value).collect()
            });
        }
        lists.sort_by_key(Vec::len);
        let mut lists = lists.into_iter();
        let mut values = lists.next().unwrap_or_default();
        values.retain(|value| Types::of(value).is_within(types));
        for list in lists {
            if !self.spend(10 * (list.len() + values.len())) {
                break;
            }
            let keys: HashSet<String> = list.into_iter().map(key).collect();
            values.retain(|value| keys.contains(&key(value)));
        }
        Some(values)
    }

    /// Whether it is certain that no value matches all of these.
    pub(super) fn impossible(&mut self, parts: &[Part<'a>]) -> bool {
        self.impossible_within(parts, IMPOSSIBLE)
    }

    fn impossible_within(&mut self, parts: &[Part<'a>], depth: usize) -> bool {
        let parts = self.unfold(parts);
        let types = types(&parts);
        if types.is_empty() || self.values(&parts).is_some_and(|values| values.is_empty()) {
            return true;
        }
        if MEASURES.chunks(2).any(|sides| {
            let [least, most] = sides else { return false };
            types.is_within(least.types) && are_crossed(least.bound(&parts), most.bound(&parts))
        }) {
            return true;
        }
        if depth == 0 || !self.spend(parts.len()) {
            return false;
        }
        self.is_denied(&parts)
            || types.is_within(Types::OBJECT) && self.lacks_a_property(&parts, depth - 1)
            || self.has_no_alternative(&parts, depth - 1)
    }

    fn is_denied(&mut self, parts: &[Part<'a>]) -> bool {
        let denied = parts.iter().filter_map(|part| match part {
            Part::Not(document, schema) => Some(Part::of(document, schema)),
            _ => None,
        });
        let denied: Vec<_> = denied.collect();
        denied.into_iter().any(|denied| parts.iter().any(|part| self.same(*part, denied)))
    }

    fn lacks_a_property(&mut self, parts: &[Part<'a>], depth: usize) -> bool {
        let names: Vec<&'a str> = parts.iter().flat_map(|part| required_by(*part)).collect();
        names.into_iter().any(|name| {
            let property = self.property(parts, name);
            !property.is_empty() && self.impossible_within(&property, depth)
        })
    }

    fn has_no_alternative(&mut self, parts: &[Part<'a>], depth: usize) -> bool {
        let choices = [("anyOf", Choices::ANY_OF), ("oneOf", Choices::ONE_OF)];
        for (index, part) in parts.iter().enumerate() {
            for (keyword, choice) in choices {
                let branches = part.list(keyword);
                if branches.is_empty() || !part.offers(choice) {
                    continue;
                }
                let mut with: Vec<_> = parts.to_vec();
                with[index] = part.without(choice);
                let gone = branches.iter().all(|branch| {
                    with.push(part.sibling(branch));
                    let gone = self.impossible_within(&with, depth);
                    with.pop();
                    gone
                });
                if gone {
                    return true;
                }
            }
        }
        false
    }
}

/// The values that a part lists.
fn listed(part: Part<'_>) -> Option<Vec<&Value>> {
    match part {
        Part::Value(value) => Some(vec![value]),
        part => match (part.keyword("const"), part.keyword("enum")) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(Value::Array(values))) => Some(values.iter().collect()),
            _ => None,
        },
    }
}

/// The names of properties that a part requires.
pub(super) fn required_by(part: Part<'_>) -> Vec<&str> {
    match part {
        Part::Value(value) => value
            .as_object()
            .into_iter()
            .flat_map(|members| members.keys().map(String::as_str))
            .collect(),
        part => part.list("required").iter().filter_map(Value::as_str).collect(),
    }
}

fn are_crossed(least: Option<Bound<'_>>, most: Option<Bound<'_>>) -> bool {
    let (Some(least), Some(most)) = (least, most) else {
        return false;
    };
    match compare(least.number, most.number) {
        Ordering::Greater => true,
        Ordering::Equal => !(least.inclusive && most.inclusive),
        Ordering::Less => false,
    }
}
