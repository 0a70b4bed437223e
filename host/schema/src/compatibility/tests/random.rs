//! Random schemas and values: where no break is found, nothing that the old schema took is refused.

use fastrand::Rng;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "x1"];

/// How objects are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Objects {
    /// Each says what of properties that it does not name.
    Explicit,
    /// They may leave that open. Nothing is negated then, so that to take less is to take less.
    Open,
}

struct Maker {
    rng: Rng,
    objects: Objects,
}

impl Maker {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(..from.len())].clone()
    }

    fn schema(&mut self, depth: usize) -> Value {
        if self.rng.u8(..12) == 0 {
            return Value::Bool(self.rng.u8(..3) > 0);
        }
        let mut schema = json!({});
        for _ in 0..self.rng.usize(1..4) {
            let more = self.keyword(depth);
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        if self.objects == Objects::Explicit
            && schema.get("properties").is_some()
            && schema.get("additionalProperties").is_none()
        {
            schema["additionalProperties"] = json!(true);
        }
        schema
    }

    fn keyword(&mut self, depth: usize) -> Value {
        let number = self.rng.i8(0..4);
        let deepest = if depth == 0 { 13 } else { 28 };
        match self.rng.u8(..deepest) {
            0..=3 => json!({"type": self.types()}),
            4 => {
                json!({"enum": (0..self.rng.usize(1..4)).map(|_| self.value(1)).collect::<Vec<_>>()})
            }
            5 => json!({"const": self.value(1)}),
            6 => {
                json!({self.pick(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]): number})
            }
            7 => json!({self.pick(&["minLength", "maxLength"]): number}),
            8 => json!({self.pick(&["minItems", "maxItems"]): number}),
            9 => json!({self.pick(&["minProperties", "maxProperties"]): number}),
            10 => json!({"pattern": self.pick(&["^a", "b$", "^$"])}),
            11 => json!({"multipleOf": self.pick(&[json!(1), json!(2), json!(4), json!(0.5)])}),
            12 => json!({"uniqueItems": self.rng.bool(), "required": [self.pick(&NAMES)]}),
            13..=17 => self.object(depth),
            18 => json!({"items": self.schema(depth - 1)}),
            19 => {
                json!({"prefixItems": [self.schema(depth - 1), self.schema(depth - 1)], "items": self.schema(depth - 1)})
            }
            20 => json!({"propertyNames": self.schema(0)}),
            21 => json!({"dependentRequired": {self.pick(&NAMES): [self.pick(&NAMES)]}}),
            22 => json!({"dependentSchemas": {self.pick(&NAMES): self.schema(depth - 1)}}),
            23 if self.objects == Objects::Explicit => json!({"not": self.schema(depth - 1)}),
            24 if self.objects == Objects::Explicit => {
                json!({"if": self.schema(depth - 1), "then": self.schema(depth - 1), "else": self.schema(depth - 1)})
            }
            25 => json!({"$ref": self.pick(&["#/$defs/one", "#/$defs/two"])}),
            26 => json!({"contains": self.schema(0)}),
            _ => {
                let branches: Vec<_> =
                    (0..self.rng.usize(1..4)).map(|_| self.schema(depth - 1)).collect();
                // Of exactly one alternative, to take less may be to take more.
                let exactly = if self.objects == Objects::Explicit { "oneOf" } else { "anyOf" };
                json!({self.pick(&["anyOf", "allOf", exactly]): branches})
            }
        }
    }

    fn types(&mut self) -> Value {
        let names = ["null", "boolean", "integer", "number", "string", "array", "object"];
        match self.rng.bool() {
            true => json!(self.pick(&names)),
            false => json!([self.pick(&names[..4]), self.pick(&names[4..])]),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut properties = serde_json::Map::new();
        for _ in 0..self.rng.usize(1..3) {
            properties.insert(self.pick(&NAMES).to_owned(), self.schema(depth - 1));
        }
        let mut object = json!({"properties": properties});
        if self.rng.u8(..3) == 0 {
            object["type"] = json!("object");
        }
        if self.rng.u8(..3) == 0 {
            object["required"] = json!([self.pick(&NAMES)]);
        }
        if self.rng.u8(..3) == 0 {
            object[self.pick(&["additionalProperties", "unevaluatedProperties"])] =
                self.schema(depth - 1);
        }
        if self.rng.u8(..5) == 0 {
            object["patternProperties"] =
                json!({self.pick(&["^x", "^[ab]"]): self.schema(depth - 1)});
        }
        object
    }

    fn whole(&mut self) -> Value {
        let mut schema = self.schema(3);
        // References inside of values only: at one place of the value they may lead in a circle.
        let definitions = json!({"one": {"properties": {"a": {"$ref": "#/$defs/one"}}, "additionalProperties": self.schema(0)}, "two": self.schema(0)});
        if let Some(members) = schema.as_object_mut() {
            members.insert("$defs".into(), definitions);
        } else {
            schema = json!({"$defs": definitions});
        }
        schema
    }

    /// The same with a few changes somewhere.
    fn changed(&mut self, schema: &Value) -> Value {
        let mut schema = schema.clone();
        for _ in 0..self.rng.usize(1..3) {
            self.change(&mut schema, 0);
        }
        schema
    }

    fn change(&mut self, schema: &mut Value, depth: usize) {
        let inside = self.rng.u8(..3) > 0 && depth < 6;
        match schema {
            Value::Object(members) if !members.is_empty() && inside => {
                let names: Vec<_> = members.keys().cloned().collect();
                let name = self.pick(&names);
                match self.rng.u8(..8) {
                    0 if name != "$defs" => drop(members.remove(&name)),
                    _ => self.change(&mut members[&name], depth + 1),
                }
            }
            Value::Array(items) if !items.is_empty() && inside => {
                let index = self.rng.usize(..items.len());
                match self.rng.u8(..6) {
                    0 => items.push(items[index].clone()),
                    1 if items.len() > 1 => drop(items.remove(index)),
                    _ => self.change(&mut items[index], depth + 1),
                }
            }
            Value::Number(_) => *schema = json!(self.rng.u8(..5)),
            Value::Bool(_) => *schema = json!(self.rng.bool()),
            Value::Object(members) if self.rng.bool() => {
                let more = self.keyword(1);
                members.extend(more.as_object().unwrap().clone());
            }
            Value::Object(_) => *schema = self.schema(1),
            _ => {}
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.rng.u8(..if depth == 0 { 10 } else { 16 }) {
            0 => json!(null),
            1 => json!(self.rng.bool()),
            2..=5 => self.pick(&[
                json!(0),
                json!(1),
                json!(2),
                json!(3),
                json!(4),
                json!(0.5),
                json!(1.5),
                json!(2.0),
                json!(-1),
            ]),
            6..=9 => json!(self.pick(&["", "a", "b", "ab", "abb", "x1"])),
            10 | 11 => {
                Value::Array((0..self.rng.usize(..4)).map(|_| self.value(depth - 1)).collect())
            }
            _ => {
                let count = self.rng.usize(..4);
                Value::Object(
                    (0..count)
                        .map(|_| (self.pick(&NAMES).to_owned(), self.value(depth - 1)))
                        .collect(),
                )
            }
        }
    }
}

/// The schema without the fields that it does not name but would take.
fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    close(&mut schema);
    schema
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            // Of a schema, and not of a value in it, which has no such members with such values.
            let ends = ["additionalProperties", "unevaluatedProperties", "patternProperties"];
            let is_open = members
                .get("properties")
                .is_some_and(|names| names.as_object().is_some_and(|names| !names.is_empty()))
                && ends.iter().all(|keyword| !members.contains_key(*keyword));
            members.values_mut().for_each(close);
            if is_open {
                members.insert("additionalProperties".into(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn nothing_is_refused_where_no_break_is_found(objects: Objects, seeds: std::ops::Range<u64>) {
    let (mut compared, mut passed, mut tried) = (0, 0, 0);
    for seed in seeds {
        let mut maker = Maker { rng: Rng::with_seed(seed), objects };
        let old = maker.whole();
        let new = match seed % 8 {
            0 => maker.whole(),
            _ => maker.changed(&old),
        };
        let promised = match objects {
            Objects::Explicit => old.clone(),
            Objects::Open => closed(&old),
        };
        let compiled = [&promised, &new].map(|schema| Schema::compile(&schema.to_string()));
        let [Ok(before), Ok(after)] = compiled else {
            continue;
        };
        compared += 1;
        if !breaks(&old, &new).is_empty() {
            continue;
        }
        passed += 1;
        for _ in 0..60 {
            let value = maker.value(3);
            if before.takes(&value) {
                tried += 1;
                assert!(after.takes(&value), "seed {seed}: {value}\nold {old}\nnew {new}");
            }
        }
    }
    assert!(
        compared > 1_000 && passed > compared / 10 && tried > 5_000,
        "{compared} {passed} {tried}"
    );
}

#[test]
fn with_objects_that_say_what_else_they_take() {
    nothing_is_refused_where_no_break_is_found(Objects::Explicit, 0..6_000);
}

#[test]
fn with_objects_that_leave_it_open() {
    nothing_is_refused_where_no_break_is_found(Objects::Open, 0..6_000);
}
