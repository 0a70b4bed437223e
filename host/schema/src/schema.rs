//! A plugin's input schema, compiled, and checks against it that always end soon.
//!
//! Schemas come from strangers. Nothing is fetched for one, patterns are matched in linear time,
//! and a check has a budget: thirty lines of nested `anyOf` and `$ref` can ask for more steps than
//! there are atoms, and a schema of ten thousand conditions on the items of a list of a million for
//! as many as both multiplied. So in every schema, and before every reference, stands a keyword of
//! ours that counts how often it is met, and ends the check when that was too often.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use jsonschema::{Keyword, PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Value, json};

use crate::{
    Fault,
    text::{join, shorten},
};

/// More errors than this help nobody.
pub const MAX_ERRORS: usize = 20;
/// Collecting every error of a large input would cost many times its size in memory; above this
/// many bytes only the first is told.
const COLLECT_BELOW: usize = 64 << 10;
/// References that every check may follow, some milliseconds' worth, and those that it may follow
/// for each byte of input. A list of small objects, each by reference, needs about one for every
/// ten bytes.
const STEPS: u64 = 100_000;
const STEPS_A_BYTE: u64 = 8;
/// Steps of a check that nobody need wait for elsewhere: some tens of microseconds' worth.
const FEW_STEPS: u64 = 256;
/// Alternatives of an `enum` that are looked through in the time of a step.
const LISTED_A_STEP: usize = 64;
/// Places of a document that may be schemas, and the length of all pointers to them: a name of a
/// hundred kilobytes stands in the pointer to everything below it.
const PLACES: usize = 20_000;
const PLACE_BYTES: usize = 8 << 20;
/// Patterns of a schema, and the memory that one may take when it is compiled.
const PATTERNS: usize = 100;
const PATTERN_BYTES: usize = 256 << 10;
/// The counting keyword.
const COUNT: &str = "x-taskforge-count";

/// Examples of a form that are told, and the length of each.
const EXAMPLES: usize = 3;
const EXAMPLE_CHARS: usize = 100;
/// Alternatives that are told when an input fits none of them.
const ALTERNATIVES: usize = 5;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// What fits a pattern, for people who cannot read it: by the pointer to the schema that has
    /// both it and `examples`.
    examples: BTreeMap<String, String>,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// `format` is an annotation, as JSON Schema says by default. References must stay within the
    /// schema, and patterns have no look-around and no back-references.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(text: &str) -> Result<Self, String> {
        let mut schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        count_steps(&mut schema)?;
        let examples = examples(&schema)?;
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES),
            )
            .with_keyword(COUNT, |_, steps, _| Ok(Box::new(Count(steps.as_u64().unwrap_or(1)))))
            .build(&schema)
            .map_err(|error| {
                let place = error.instance_path().as_str();
                shorten(&format!("{error} (at {place:?})"), 500).into_owned()
            })?;
        Ok(Self { validator, examples })
    }

    /// Whether it takes a value; `false` also of a check that would take too long.
    pub(crate) fn takes(&self, value: &Value) -> bool {
        within(STEPS, || self.validator.is_valid(value)) == Some(true)
    }

    /// Whether a value fits, as far as a few steps can tell, some tens of microseconds for a value
    /// of a few kilobytes: `false` also of one that takes more to check. [`Schema::check`] says for
    /// certain.
    #[must_use]
    pub fn fits_at_once(&self, value: &Value) -> bool {
        within(FEW_STEPS, || self.validator.is_valid(value)) == Some(true)
    }

    /// Checks an input of `size` bytes; adds what is wrong with it to `errors`, with pointers that
    /// begin with `pointer`.
    pub fn check(&self, input: &Value, size: usize, pointer: &str, errors: &mut Vec<Fault>) {
        let steps = STEPS + STEPS_A_BYTE * size as u64;
        if within(steps, || self.validator.is_valid(input)) == Some(true) {
            return;
        }
        let room = MAX_ERRORS.saturating_sub(errors.len()).max(1);
        let found = within(steps, || {
            if size < COLLECT_BELOW {
                return self
                    .validator
                    .iter_errors(input)
                    .flat_map(|error| self.describe(&error, pointer))
                    .take(room)
                    .collect();
            }
            let first = self.validator.validate(input).err();
            first
                .map(|error| self.describe(&error, pointer).into_iter().take(1).collect())
                .unwrap_or_default()
        });
        let found: Vec<Fault> = found.unwrap_or_default();
        if found.is_empty() {
            errors.push(Fault::at(
                pointer,
                "takes too many steps to check against the plugin's input schema",
            ));
        }
        errors.extend(found);
    }
}

thread_local! {
    /// What the check that runs on this thread may still do.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Carried by the unwinding that ends a check.
struct Spent;

/// Runs a check under a budget; `None` if it was not enough.
fn within<T>(steps: u64, check: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps);
    // The validator is only read from, so nothing is left half changed.
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(result) => Some(result),
        Err(spent) if spent.is::<Spent>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// The keyword that counts. The validator has no way to be told to stop, so the check is unwound,
/// without a panic message.
struct Count(u64);

impl<'i> Keyword<'i> for Count {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        self.is_valid(instance);
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        match LEFT.get().checked_sub(self.0) {
            Some(left) => LEFT.set(left),
            None => resume_unwind(Box::new(Spent)),
        }
        true
    }
}

/// Keywords whose value is a schema, or a list of schemas.
pub(crate) const SCHEMAS: [&str; 17] = [
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "extends",
];
/// Keywords whose value has schemas as its members.
pub(crate) const MAPS: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Puts the counting keyword before every reference, so that it is met before the reference is
/// followed: `{"$ref": x}` becomes `{"allOf": [{count}, {"$ref": x}]}`, which means the same. And
/// into every other schema, because a large one costs its size for each element of a large input.
fn count_steps(schema: &mut Value) -> Result<(), String> {
    // Up to draft 7 a reference hides what stands beside it, except the definitions that references
    // lead to.
    let dialect = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let hides = ["draft-03", "draft-04", "draft-06", "draft-07"]
        .iter()
        .any(|draft| dialect.contains(draft));
    for pointer in subschemas(schema)? {
        let Some(Value::Object(members)) = schema.pointer_mut(&pointer) else {
            continue;
        };
        let references =
            REFERENCES.iter().filter_map(|keyword| Some((*keyword, members.remove(*keyword)?)));
        let counted: Vec<Value> = references
            .flat_map(|(keyword, to)| [json!({COUNT: 1}), json!({keyword: to})])
            .collect();
        if counted.is_empty() {
            members.insert(COUNT.to_owned(), json!(steps(members)));
            continue;
        }
        if hides {
            members.retain(|keyword, _| keyword.starts_with('$') || keyword == "definitions");
        }
        match members.entry("allOf").or_insert_with(|| Value::Array(Vec::new())) {
            // At the end, so that pointers into the list stay right.
            Value::Array(list) => list.extend(counted),
            _ => return Err(format!("allOf must be an array (at {pointer:?})")),
        }
    }
    Ok(())
}

/// What a schema costs by itself: one step, and one for every so many alternatives or names that it
/// lists.
fn steps(members: &serde_json::Map<String, Value>) -> usize {
    let listed =
        ["enum", "required", "type"].iter().filter_map(|keyword| members.get(*keyword)?.as_array());
    1 + listed.map(Vec::len).sum::<usize>() / LISTED_A_STEP
}

/// The pointers of every place in a document that is used as a schema.
fn subschemas(document: &Value) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    let (mut bytes, mut patterns) = (0, 0);
    let mut waiting = vec![String::new()];
    while let Some(pointer) = waiting.pop() {
        let Some(Value::Object(members)) = document.pointer(&pointer) else {
            continue;
        };
        if !pointer.is_empty()
            && (members.contains_key("$id") || members.get("id").is_some_and(Value::is_string))
        {
            return Err(format!("only the whole schema may have an id, not {pointer:?}"));
        }
        if !found.insert(pointer.clone()) {
            continue;
        }
        bytes += pointer.len();
        if found.len() > PLACES || bytes + waiting.len() * pointer.len() > PLACE_BYTES {
            return Err("it has too many parts, or too long names".to_owned());
        }
        patterns += usize::from(members.contains_key("pattern"));
        if let Some(Value::Object(by_pattern)) = members.get("patternProperties") {
            patterns += by_pattern.len();
        }
        if patterns > PATTERNS {
            return Err(format!("it has more than {PATTERNS} patterns"));
        }
        let at = |keyword: &str| format!("{pointer}/{keyword}");
        for keyword in SCHEMAS {
            match members.get(keyword) {
                Some(Value::Array(list)) => {
                    if list.len() > PLACES || list.len() * pointer.len() > PLACE_BYTES {
                        return Err(format!("{keyword} has too many parts"));
                    }
                    waiting.extend((0..list.len()).map(|n| format!("{}/{n}", at(keyword))));
                }
                Some(_) => waiting.push(at(keyword)),
                None => {}
            }
        }
        for keyword in MAPS {
            let names = members
                .get(keyword)
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(|map| map.keys());
            waiting.extend(names.map(|name| format!("{}/{}", at(keyword), escape(name))));
        }
        for keyword in REFERENCES {
            if let Some(reference) = members.get(keyword).and_then(Value::as_str) {
                waiting.extend(target(reference)?);
            }
        }
    }
    Ok(found)
}

/// The pointer that a reference leads to. An anchor has none, and needs none: it names a place that
/// is found anyway.
fn target(reference: &str) -> Result<Option<String>, String> {
    match reference.strip_prefix('#') {
        Some(fragment) if !fragment.contains('%') => {
            Ok((fragment.is_empty() || fragment.starts_with('/')).then(|| fragment.to_owned()))
        }
        _ => {
            let reference = shorten(reference, 100);
            Err(format!(
                "the reference {reference:?} must lead to a place in this schema, such as \"#/$defs/name\""
            ))
        }
    }
}

fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// What fits each pattern that has examples beside it, as words.
fn examples(schema: &Value) -> Result<BTreeMap<String, String>, String> {
    let of = |pointer: String| {
        let members = schema.pointer(&pointer)?.as_object()?;
        let examples = members.get("examples")?.as_array()?;
        let told = examples.iter().take(EXAMPLES).map(|example| {
            let text = example.to_string();
            shorten(&text, EXAMPLE_CHARS).into_owned()
        });
        let words = told.collect::<Vec<_>>().join(" or ");
        (members.contains_key("pattern") && !words.is_empty()).then_some((pointer, words))
    };
    Ok(subschemas(schema)?.into_iter().filter_map(of).collect())
}

impl Schema {
    /// What fits the pattern that an error is about.
    fn example(&self, error: &ValidationError<'_>) -> Option<&str> {
        let pattern = error.schema_path().as_str();
        let schema = pattern.strip_suffix("/pattern")?;
        self.examples.get(schema).map(String::as_str)
    }

    /// What is wrong with an input that fits none of several alternatives. Those for another type
    /// of value are not what was meant; if one is left, its faults are the input's.
    fn nearest(
        &self,
        error: &ValidationError<'_>,
        context: &[Vec<ValidationError<'_>>],
        pointer: &str,
    ) -> Vec<Fault> {
        let here = error.instance_path().as_str();
        let is_of_type = |branch: &&Vec<ValidationError<'_>>| {
            !branch.iter().any(|error| {
                matches!(error.kind(), ValidationErrorKind::Type { .. })
                    && error.instance_path().as_str() == here
            })
        };
        let mut meant: Vec<_> = context.iter().filter(is_of_type).collect();
        if meant.is_empty() {
            meant = context.iter().collect();
        }
        let faults = |branch: &Vec<ValidationError<'_>>| -> Vec<Fault> {
            branch.iter().flat_map(|error| self.describe(error, pointer)).collect()
        };
        if let [branch] = meant.as_slice() {
            return faults(branch);
        }
        let place = format!("{pointer}{here}");
        let told = meant.iter().take(ALTERNATIVES).filter_map(|branch| {
            let fault = faults(branch).into_iter().next()?;
            Some(match fault.pointer == place {
                true => fault.detail,
                false => format!("{} {}", fault.pointer, fault.detail),
            })
        });
        let told = told.collect::<Vec<_>>().join(", or ");
        vec![Fault::at(shorten(&place, 500), shorten(&told, 300))]
    }

    /// Names the field that is wrong. For a missing or surplus property that is the property
    /// itself, not the object around it.
    fn describe(&self, error: &ValidationError<'_>, pointer: &str) -> Vec<Fault> {
        let place =
            shorten(&format!("{pointer}{}", error.instance_path().as_str()), 500).into_owned();
        match error.kind() {
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context }
                if context.iter().any(|branch| !branch.is_empty()) =>
            {
                self.nearest(error, context, pointer)
            }
            ValidationErrorKind::Pattern { .. } => {
                let detail = match self.example(error) {
                    Some(example) => {
                        let value = error.instance().to_string();
                        format!(
                            "{} does not have the form of {example}",
                            shorten(&value, EXAMPLE_CHARS)
                        )
                    }
                    None => shorten(&error.to_string(), 300).into_owned(),
                };
                vec![Fault::at(place, detail)]
            }
            ValidationErrorKind::Required { property: Value::String(name) } => {
                vec![Fault::at(join(&place, name), "is required")]
            }
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let surplus = |name: &String| {
                    Fault::at(join(&place, name), "is not a property of this input")
                };
                unexpected.iter().take(MAX_ERRORS).map(surplus).collect()
            }
            _ => vec![Fault::at(place, shorten(&error.to_string(), 300))],
        }
    }
}

#[cfg(test)]
mod tests;
