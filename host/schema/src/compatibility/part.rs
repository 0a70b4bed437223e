//! A schema taken apart: what must all hold of a value.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Search, facts::Types};

/// A whole schema, with what its references lead to.
pub(super) struct Document<'a> {
    pub(super) root: &'a Value,
    pub(super) dialect: Dialect<'a>,
}

/// The version of JSON Schema that a document is written in. Keywords differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect<'a> {
    /// A reference hides its siblings, `format` is checked.
    Draft7,
    Draft2019,
    /// The default.
    Draft2020,
    /// Nothing is known about what its keywords mean.
    Other(&'a str),
}

impl<'a> Document<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let dialect = match root.get("$schema").and_then(Value::as_str) {
            None => Dialect::Draft2020,
            Some(name) => match name.trim_end_matches('#') {
                "https://json-schema.org/draft/2020-12/schema" => Dialect::Draft2020,
                "https://json-schema.org/draft/2019-09/schema" => Dialect::Draft2019,
                "http://json-schema.org/draft-07/schema" => Dialect::Draft7,
                other => Dialect::Other(other),
            },
        };
        Self { root, dialect }
    }
}

/// Something that holds of a value.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// The keywords of one schema, without those that its references lead to. `spent` are
    /// alternatives that were looked at one by one already.
    Keywords { document: &'a Document<'a>, members: &'a Map<String, Value>, spent: Choices },
    /// It is this very value.
    Value(&'a Value),
    /// It has one of these types.
    Types(Types),
    /// It does not match this schema.
    Not(&'a Document<'a>, &'a Value),
    /// There is no such value.
    Never,
    /// Nobody knows: a reference that cannot be followed, or no schema.
    Unclear,
}

/// A set of keywords with alternatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Choices(u8);

impl Choices {
    pub(super) const ANY_OF: Self = Self(1);
    pub(super) const ONE_OF: Self = Self(2);
    pub(super) const IF: Self = Self(4);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What tells parts apart: their place in memory, which does not change during a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity(u8, usize, Choices);

pub(super) fn identities(parts: &[Part<'_>]) -> Vec<Identity> {
    let mut identities: Vec<_> = parts.iter().map(|part| part.identity()).collect();
    identities.sort_unstable();
    identities.dedup();
    identities
}

impl<'a> Part<'a> {
    pub(super) fn whole(document: &'a Document<'a>) -> Self {
        Self::of(document, document.root)
    }

    /// The part that a schema is.
    pub(super) fn of(document: &'a Document<'a>, schema: &'a Value) -> Self {
        match schema {
            Value::Bool(true) => Self::Types(Types::ALL),
            Value::Bool(false) => Self::Never,
            Value::Object(members) => {
                Self::Keywords { document, members, spent: Choices::default() }
            }
            _ => Self::Unclear,
        }
    }

    pub(super) fn identity(self) -> Identity {
        let none = Choices::default();
        match self {
            Self::Keywords { members, spent, .. } => {
                Identity(0, std::ptr::from_ref(members).addr(), spent)
            }
            Self::Value(value) => Identity(1, std::ptr::from_ref(value).addr(), none),
            Self::Types(types) => Identity(2, types.bits(), none),
            Self::Not(_, schema) => Identity(3, std::ptr::from_ref(schema).addr(), none),
            Self::Never => Identity(4, 0, none),
            Self::Unclear => Identity(5, 0, none),
        }
    }

    /// The value of a keyword, if it means anything in the schema's dialect.
    pub(super) fn keyword(self, name: &str) -> Option<&'a Value> {
        let Self::Keywords { document, members, .. } = self else {
            return None;
        };
        let means = match document.dialect {
            Dialect::Other(_) => false,
            Dialect::Draft2020 => name != "additionalItems",
            Dialect::Draft2019 => name != "prefixItems",
            Dialect::Draft7 => !NOT_IN_DRAFT_7.contains(&name),
        };
        means.then(|| members.get(name)).flatten()
    }

    /// The members of a keyword whose value is an object.
    pub(super) fn map(self, name: &str) -> Option<&'a Map<String, Value>> {
        self.keyword(name)?.as_object()
    }

    /// The items of a keyword whose value is a list.
    pub(super) fn list(self, name: &str) -> &'a [Value] {
        let list = self.keyword(name).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// A schema inside this one.
    pub(super) fn schema(self, name: &str) -> Option<Self> {
        Some(self.sibling(self.keyword(name)?))
    }

    /// Another schema of the same document.
    pub(super) fn sibling(self, schema: &'a Value) -> Self {
        match self {
            Self::Keywords { document, .. } => Self::of(document, schema),
            _ => Self::Unclear,
        }
    }

    /// The same without some alternatives.
    pub(super) fn without(self, choices: Choices) -> Self {
        match self {
            Self::Keywords { document, members, spent } => {
                Self::Keywords { document, members, spent: spent.with(choices) }
            }
            other => other,
        }
    }

    /// Whether alternatives are still to be looked at.
    pub(super) fn offers(self, choices: Choices) -> bool {
        matches!(self, Self::Keywords { spent, .. } if !spent.has(choices))
    }
}

const NOT_IN_DRAFT_7: [&str; 8] = [
    "prefixItems",
    "dependentRequired",
    "dependentSchemas",
    "minContains",
    "maxContains",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
];

/// How far the unfolding of a part has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    Done,
}

impl<'a> Search<'a> {
    /// Follows references and `allOf`: parts that must all hold, none of which has such keywords
    /// left to look at.
    pub(super) fn unfold(&mut self, parts: &[Part<'a>]) -> Vec<Part<'a>> {
        let (mut unfolded, mut progress) = (Vec::new(), HashMap::new());
        for part in parts {
            self.unfold_one(*part, &mut progress, &mut unfolded, 0);
        }
        unfolded
    }

    fn unfold_one(
        &mut self,
        part: Part<'a>,
        progress: &mut HashMap<Identity, Progress>,
        unfolded: &mut Vec<Part<'a>>,
        depth: usize,
    ) {
        let Part::Keywords { document, members, .. } = part else {
            unfolded.push(part);
            return;
        };
        // Whatever was spent of it: the same schema twice says nothing more.
        let place = Part::whole_of(document, members).identity();
        match progress.get(&place) {
            Some(Progress::Done) => return,
            // It refers to itself at one place of the value, and so means nothing.
            Some(Progress::Open) => return unfolded.push(Part::Unclear),
            None => {}
        }
        if depth > super::DEPTH || !self.spend(1) {
            return unfolded.push(Part::Unclear);
        }
        progress.insert(place, Progress::Open);
        let reference = members.get("$ref");
        if reference.is_none() || document.dialect != Dialect::Draft7 {
            unfolded.push(part);
            for schema in part.list("allOf") {
                self.unfold_one(part.sibling(schema), progress, unfolded, depth + 1);
            }
        }
        if let Some(not) = part.keyword("not") {
            unfolded.push(Part::Not(document, not));
        }
        if let Some(reference) = reference {
            let target = part.target(reference).unwrap_or(Part::Unclear);
            self.unfold_one(target, progress, unfolded, depth + 1);
        }
        progress.insert(place, Progress::Done);
    }
}

impl<'a> Part<'a> {
    fn whole_of(document: &'a Document<'a>, members: &'a Map<String, Value>) -> Self {
        Self::Keywords { document, members, spent: Choices::default() }
    }

    /// Where a reference leads. `None` for one by name: [`super::Schema`] knows those, this search
    /// does not.
    fn target(self, reference: &Value) -> Option<Self> {
        let Self::Keywords { document, .. } = self else {
            return None;
        };
        let pointer = reference.as_str()?.strip_prefix('#')?;
        Some(Self::of(document, document.root.pointer(pointer)?))
    }
}
