//! `anyOf`, `oneOf`, `not` and `if`.

use serde_json::Value;

use super::{
    Break, Search,
    facts::{Types, required_by, types},
    part::{Choices, Document, Part},
};
use crate::text::join;

/// More values than this are not looked at one by one.
const MANY: usize = 200;

/// What one alternative takes, another may have to leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    AtLeastOne,
    ExactlyOne,
}

impl<'a> Search<'a> {
    /// The alternatives that the old schema has, each with all else that holds. `None`: it has none
    /// that were not looked at yet.
    pub(super) fn alternatives(&mut self, old: &[Part<'a>]) -> Option<Vec<Vec<Part<'a>>>> {
        old.iter().enumerate().find_map(|(index, part)| {
            let (choice, cases) = cases(*part)?;
            let mut common = old.to_vec();
            common[index] = part.without(choice);
            let with = |case: Vec<Part<'a>>| common.iter().copied().chain(case).collect();
            Some(cases.into_iter().map(with).collect())
        })
    }

    /// The values that are possible one by one, or else their types.
    fn apart(&mut self, old: &[Part<'a>]) -> Option<Vec<Vec<Part<'a>>>> {
        let with = |part: Part<'a>| old.iter().copied().chain([part]).collect();
        match self.values(old) {
            Some(values) => (2..=MANY)
                .contains(&values.len())
                .then(|| values.into_iter().map(|value| with(Part::Value(value))).collect()),
            None => {
                let types = types(old);
                let apart = types.apart();
                (types != Types::ALL && apart.len() > 1)
                    .then(|| apart.into_iter().map(|types| with(Part::Types(types))).collect())
            }
        }
    }

    /// The rule of `anyOf`.
    pub(super) fn any_of(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        self.one_among(old, new, new.list("anyOf"), Count::AtLeastOne, at)
    }

    /// The rule of `oneOf`.
    pub(super) fn one_of(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        self.one_among(old, new, new.list("oneOf"), Count::ExactlyOne, at)
    }

    fn one_among(
        &mut self,
        old: &[Part<'a>],
        new: Part<'a>,
        branches: &'a [Value],
        count: Count,
        at: &str,
    ) -> Vec<Break> {
        // By what cannot match anyway, and by what is not like the rest, as far as is known.
        let (mut near, mut shown) = (Vec::new(), None);
        for branch in branches {
            let branch = new.sibling(branch);
            if !self.excludes(old, branch) {
                near.push(branch);
            }
        }
        for branch in &near {
            let found = self.covers(old, *branch, at);
            if found.is_empty() {
                shown = Some(found);
                break;
            }
            if near.len() == 1 {
                shown = Some(found);
            }
        }
        match (shown, count) {
            (Some(found), Count::AtLeastOne) if found.is_empty() => found,
            (Some(found), Count::ExactlyOne) if found.is_empty() && near.len() == 1 => found,
            (shown, _) => {
                if let Some(cases) = self.apart(old) {
                    return self.each(&cases, |search, old| {
                        search.one_among(old, new, branches, count, at)
                    });
                }
                match shown {
                    Some(found) if !found.is_empty() => found,
                    Some(_) => vec![Break::at(
                        at,
                        "may match more than one of the alternatives that it has now (oneOf)",
                    )],
                    None => vec![self.none_of_them(old, new, branches, at)],
                }
            }
        }
    }

    fn none_of_them(
        &mut self,
        old: &[Part<'a>],
        new: Part<'a>,
        branches: &'a [Value],
        at: &str,
    ) -> Break {
        if let Some([value]) = self.values(old).as_deref() {
            return Break::at(at, format!("no longer takes {value}"));
        }
        // The name of a variant, most likely.
        let names: Vec<&'a str> = old.iter().flat_map(|part| required_by(*part)).collect();
        for name in names {
            let known = self.property(old, name);
            let values = self.values(&known).unwrap_or_default();
            let [value] = values.as_slice() else { continue };
            let gone = branches.iter().all(|branch| {
                let branch = self.unfold(&[new.sibling(branch)]);
                let both: Vec<_> =
                    known.iter().copied().chain(self.property(&branch, name)).collect();
                self.impossible(&both)
            });
            if gone {
                return Break::at(&join(at, name), format!("no longer takes {value}"));
            }
        }
        let detail = "and none of the alternatives that it has now takes all of that";
        Break::at(at, format!("was {}, {detail}", types(old)))
    }

    /// Whether it is certain that nothing matches both.
    fn excludes(&mut self, old: &[Part<'a>], other: Part<'a>) -> bool {
        let both: Vec<_> = old.iter().copied().chain([other]).collect();
        self.impossible(&both)
    }

    /// The rule of `not`.
    pub(super) fn not(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let Some(denied) = new.schema("not") else {
            return Vec::new();
        };
        if self.excludes(old, denied) || old.iter().any(|part| self.denies(*part, denied)) {
            return Vec::new();
        }
        match self.apart(old) {
            Some(cases) => self.each(&cases, |search, old| search.not(old, new, at)),
            None => vec![Break::at(at, "cannot be compared with what it was: not has changed")],
        }
    }

    /// Whether an old part denies all that the new schema denies.
    fn denies(&mut self, old: Part<'a>, denied: Part<'a>) -> bool {
        let Part::Not(document, schema) = old else {
            return false;
        };
        self.strictly(|search| search.covers(&[denied], Part::of(document, schema), "").is_empty())
    }

    /// The rule of `if`, `then` and `else`.
    pub(super) fn conditional(&mut self, old: &[Part<'a>], new: Part<'a>, at: &str) -> Vec<Break> {
        let Some(condition) = new.keyword("if") else {
            return Vec::new();
        };
        let unchanged = |search: &mut Self, part: &Part<'a>| {
            ["if", "then", "else"].iter().all(|keyword| search.same_keyword(*part, new, keyword))
        };
        if old.iter().any(|part| unchanged(self, part)) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let cases = [("then", new.sibling(condition)), ("else", denial(new, condition))];
        for (keyword, case) in cases {
            if let Some(schema) = new.schema(keyword) {
                let known: Vec<_> = old.iter().copied().chain([case]).collect();
                // The condition may name fields that the old schema did not.
                found.extend(self.strictly(|search| search.covers(&known, schema, at)));
            }
        }
        found
    }
}

fn denial<'a>(part: Part<'a>, schema: &'a Value) -> Part<'a> {
    match part {
        Part::Keywords { document, .. } => Part::Not(document, schema),
        _ => Part::Unclear,
    }
}

/// The alternatives of one part, and what is spent when they are looked at.
fn cases<'a>(part: Part<'a>) -> Option<(Choices, Vec<Vec<Part<'a>>>)> {
    let Part::Keywords { document, .. } = part else {
        return None;
    };
    let any = part.list("anyOf");
    if !any.is_empty() && part.offers(Choices::ANY_OF) {
        let cases = any.iter().map(|branch| vec![part.sibling(branch)]);
        return Some((Choices::ANY_OF, cases.collect()));
    }
    let one = part.list("oneOf");
    if !one.is_empty() && part.offers(Choices::ONE_OF) {
        return Some((Choices::ONE_OF, exactly_one(document, part, one)));
    }
    let condition = part.keyword("if").filter(|_| part.offers(Choices::IF))?;
    let then = [Some(part.sibling(condition)), part.schema("then")];
    let other = [Some(Part::Not(document, condition)), part.schema("else")];
    let cases = [then, other].map(|case| case.into_iter().flatten().collect());
    Some((Choices::IF, cases.into()))
}

/// Each alternative, and that the others do not match. Of many alternatives that would be too much
/// to carry along.
fn exactly_one<'a>(
    document: &'a Document<'a>,
    part: Part<'a>,
    branches: &'a [Value],
) -> Vec<Vec<Part<'a>>> {
    let case = |index: usize| {
        let others = branches.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.map(|(_, branch)| Part::Not(document, branch));
        let others = others.take(if branches.len() > MANY { 0 } else { MANY });
        [part.sibling(&branches[index])].into_iter().chain(others).collect()
    };
    (0..branches.len()).map(case).collect()
}
