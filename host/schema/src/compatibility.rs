//! Whether a new schema takes everything that the old one took.
//!
//! The question cannot be answered for every pair of schemas, so the search is conservative: a new
//! schema passes where it can be *shown* to take what the old one took, and every other change is a
//! break. Unchanged text passes whatever it means. Annotations (titles, defaults, examples,
//! `format`) are ignored.
//!
//! One incompatibility is allowed on purpose: the new schema may give a meaning to a field which
//! the old one did not name, in an object whose other fields it did name. Clients of the old schema
//! do not send that field, and most new versions add an optional field. A free-form object, whose
//! schema names no fields, must still take all.
//!
//! | file | the concept |
//! |---|---|
//! | [`part`] | a schema taken apart: what must all hold of a value |
//! | [`facts`] | what is known of a value that the old schema took |
//! | [`rules`] | one keyword of the new schema against those facts |
//! | [`objects`], [`arrays`] | the same for what is inside |
//! | [`choices`] | `anyOf`, `oneOf`, `not`, `if` |
//! | [`same`] | whether two schemas are textually the same, with what they refer to |
//! | [`values`] | comparing numbers and values |

mod arrays;
mod choices;
mod facts;
mod objects;
mod part;
mod rules;
mod same;
mod values;

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    Schema,
    compatibility::part::{Document, Part},
    text::shorten,
};

/// Where a new schema refuses what the old one took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// The field of the input, as a JSON pointer. A `*` in it stands for every field that has no
    /// name in the schema.
    pub pointer: String,
    /// What changed, as a sentence.
    pub detail: String,
}

impl Break {
    fn at(pointer: &str, detail: impl AsRef<str>) -> Self {
        Self {
            pointer: shorten(pointer, 500).into_owned(),
            detail: shorten(detail.as_ref(), 300).into_owned(),
        }
    }
}

/// More breaks than this help nobody.
const MAX_BREAKS: usize = 50;
/// Steps of a search, each about the time of comparing two words: some hundred milliseconds at
/// most.
const STEPS: u64 = 500_000;
/// What looking at one pair of schemas costs at least.
const PAIR: u64 = 50;
/// Schemas within schemas. Bounds the stack; nobody nests half as deep.
const DEPTH: usize = 48;

/// Looks for inputs that the old schema took and the new one refuses. None found means that there
/// are none, but for fields that the old schema did not name (see above). Always ends soon,
/// whatever the schemas say; both should be ones that [`Schema::compile`] takes.
#[must_use]
pub fn breaks(old: &Value, new: &Value) -> Vec<Break> {
    if old == new {
        return Vec::new();
    }
    let (old, new) = (Document::new(old), Document::new(new));
    let mut search = Search::default();
    let mut found = search.covers(&[Part::whole(&old)], Part::whole(&new), "");
    // Of a schema that refers to itself, what stands outermost first.
    found.sort_by_key(|found| found.pointer.matches('/').count());
    let mut seen = Vec::new();
    found.retain(|found| {
        let first = !seen.contains(found);
        if first {
            seen.push(found.clone());
        }
        first && seen.len() <= MAX_BREAKS
    });
    found
}

/// A search under way.
#[derive(Default)]
struct Search<'a> {
    /// Steps taken.
    taken: u64,
    /// Schemas within schemas, now.
    depth: usize,
    /// How deep in the value the search is.
    level: usize,
    /// Above 0, fields without a name count as breaks too: where old and new have changed places,
    /// or are mixed.
    strict: usize,
    /// What is being shown, and at which level. A pair that comes again deeper in the value may be
    /// taken as shown: values end somewhere. At the same level it shows nothing.
    under_way: Vec<(Pair, usize)>,
    /// Compiled patterns. `None`: not one that can be used.
    patterns: HashMap<&'a str, Option<Schema>>,
    /// Pairs of schemas, by their places in memory, and whether they are the same.
    same: HashMap<(usize, usize), bool>,
}

/// What is known, what is to be shown, and how strictly.
type Pair = (Vec<part::Identity>, part::Identity, bool);

impl<'a> Search<'a> {
    /// Takes steps; `false` when there are none left.
    fn spend(&mut self, steps: usize) -> bool {
        self.taken = self.taken.saturating_add(steps as u64);
        self.taken <= STEPS
    }

    /// What values that all of `old` hold of may be refused by `new`.
    fn covers(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        if !self.spend(PAIR as usize) {
            return vec![Break::at("", "is too intricate to be compared with the old schema")];
        }
        if self.depth >= DEPTH {
            return vec![Break::at(at, "is nested too deeply to be compared with the old schema")];
        }
        self.depth += 1;
        let found = self.covers_within(old, new, at);
        self.depth -= 1;
        found
    }

    fn covers_within(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let old = self.unfold(old);
        if old.iter().any(|part| self.same(*part, new)) || self.impossible(&old) {
            return Vec::new();
        }
        let pair = (part::identities(&old), new.identity(), self.strict > 0);
        if let Some((_, level)) = self.under_way.iter().find(|(shown, _)| *shown == pair) {
            return match level < &self.level {
                true => Vec::new(),
                false => vec![Break::at(at, "refers to itself in a way that cannot be compared")],
            };
        }
        self.under_way.push((pair, self.level));
        let found = self.rules(&old, new, at);
        self.under_way.pop();
        if found.is_empty() {
            return found;
        }
        // Not shown of all at once; perhaps of each alternative that the old schema had.
        let Some(alternatives) = self.alternatives(&old) else {
            return found;
        };
        self.each(&alternatives, |search, old| search.covers(old, new, at))
    }

    /// What is wrong with any of several cases.
    fn each(
        &mut self,
        cases: &[Vec<Part<'a>>],
        mut show: impl FnMut(&mut Self, &[Part<'a>]) -> Vec<Break>,
    ) -> Vec<Break> {
        let mut found = Vec::new();
        for case in cases {
            found.extend(show(self, case));
            if found.len() > MAX_BREAKS {
                break;
            }
        }
        found
    }

    /// The same, where fields without a name count as breaks.
    fn strictly<T>(&mut self, show: impl FnOnce(&mut Self) -> T) -> T {
        self.strict += 1;
        let shown = show(self);
        self.strict -= 1;
        shown
    }

    /// The same one level deeper in the value.
    fn inside(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        self.level += 1;
        let found = self.covers(old, new, at);
        self.level -= 1;
        found
    }
}

#[cfg(test)]
mod tests;
