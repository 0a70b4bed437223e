//! Whether two schemas are textually the same, annotations aside, with everything that they refer
//! to.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    Search,
    part::{Dialect, Document, Part},
};
use crate::schema::{MAPS, SCHEMAS};

/// Keywords that say nothing of what is taken.
const ANNOTATIONS: [&str; 13] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
];

/// Whether a keyword of this dialect is an annotation. Definitions count where they are referred
/// to.
fn is_annotation(dialect: Dialect<'_>, keyword: &str) -> bool {
    let checks_formats = matches!(dialect, Dialect::Draft7 | Dialect::Other(_));
    ANNOTATIONS.contains(&keyword) || (keyword == "format" && !checks_formats)
}

/// Two documents that are compared.
#[derive(Clone, Copy)]
struct Sides<'a> {
    left: &'a Document<'a>,
    right: &'a Document<'a>,
}

/// Pairs of schemas that are still to be compared.
type Waiting<'a> = Vec<(&'a Value, &'a Value)>;

impl<'a> Search<'a> {
    /// Whether two parts say the same.
    pub(super) fn same(&mut self, left: Part<'a>, right: Part<'a>) -> bool {
        let (
            Part::Keywords { document: left, members: left_members, .. },
            Part::Keywords { document: right, members: right_members, .. },
        ) = (left, right)
        else {
            return false;
        };
        if std::ptr::eq(left_members, right_members) {
            return true;
        }
        let pair =
            (std::ptr::from_ref(left_members).addr(), std::ptr::from_ref(right_members).addr());
        if let Some(same) = self.same.get(&pair) {
            return *same;
        }
        let mut waiting = Vec::new();
        let sides = Sides { left, right };
        let same = left.dialect == right.dialect
            && self.same_members(sides, left_members, right_members, &mut waiting)
            && self.same_all(sides, waiting);
        self.same.insert(pair, same);
        same
    }

    /// Whether a value is the same under a keyword of two schemas.
    pub(super) fn same_keyword(&mut self, left: Part<'a>, right: Part<'a>, keyword: &str) -> bool {
        let (Part::Keywords { document: left_in, .. }, Part::Keywords { document: right_in, .. }) =
            (left, right)
        else {
            return false;
        };
        let sides = Sides { left: left_in, right: right_in };
        let mut waiting = Vec::new();
        left_in.dialect == right_in.dialect
            && match (left.keyword(keyword), right.keyword(keyword)) {
                (None, None) => true,
                (Some(left), Some(right)) => {
                    self.same_value(sides, keyword, left, right, &mut waiting)
                        && self.same_all(sides, waiting)
                }
                _ => false,
            }
    }

    fn same_all(&mut self, sides: Sides<'a>, mut waiting: Waiting<'a>) -> bool {
        let mut seen = HashSet::new();
        while let Some((left, right)) = waiting.pop() {
            if !seen.insert((std::ptr::from_ref(left).addr(), std::ptr::from_ref(right).addr())) {
                continue;
            }
            let same = match (left, right) {
                (Value::Object(left), Value::Object(right)) => {
                    self.same_members(sides, left, right, &mut waiting)
                }
                _ => left == right,
            };
            if !same {
                return false;
            }
        }
        true
    }

    fn same_members(
        &mut self,
        sides: Sides<'a>,
        left: &'a Map<String, Value>,
        right: &'a Map<String, Value>,
        waiting: &mut Waiting<'a>,
    ) -> bool {
        let says = |members: &'a Map<String, Value>| {
            members.iter().filter(move |(keyword, _)| !is_annotation(sides.left.dialect, keyword))
        };
        self.spend(left.len() + right.len())
            && says(left).count() == says(right).count()
            && says(left).all(|(keyword, left)| {
                right
                    .get(keyword)
                    .is_some_and(|right| self.same_value(sides, keyword, left, right, waiting))
            })
    }

    /// What a keyword is set to, the same on both sides. Schemas in it are left in `waiting`.
    fn same_value(
        &mut self,
        sides: Sides<'a>,
        keyword: &str,
        left: &'a Value,
        right: &'a Value,
        waiting: &mut Waiting<'a>,
    ) -> bool {
        match (left, right) {
            // A reference by name leads wherever the whole document says.
            (Value::String(left), Value::String(right)) if keyword.starts_with('$') => {
                let (Some(left_to), Some(right_to)) =
                    (target(sides.left, left), target(sides.right, right))
                else {
                    return false;
                };
                waiting.push((left_to, right_to));
                left == right
            }
            (Value::Array(left), Value::Array(right)) if SCHEMAS.contains(&keyword) => {
                waiting.extend(left.iter().zip(right));
                left.len() == right.len()
            }
            (left, right) if SCHEMAS.contains(&keyword) => {
                waiting.push((left, right));
                true
            }
            (Value::Object(left), Value::Object(right)) if MAPS.contains(&keyword) => {
                self.spend(left.len())
                    && left.len() == right.len()
                    && left.iter().all(|(name, left)| {
                        right.get(name).is_some_and(|right| {
                            waiting.push((left, right));
                            true
                        })
                    })
            }
            _ => left == right,
        }
    }
}

fn target<'a>(document: &Document<'a>, reference: &str) -> Option<&'a Value> {
    document.root.pointer(reference.strip_prefix('#')?)
}
