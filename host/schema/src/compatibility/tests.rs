#![allow(clippy::needless_pass_by_value, reason = "a table of schemas reads best as literals")]

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

mod random;

fn texts(old: &Value, new: &Value) -> Vec<String> {
    for schema in [old, new] {
        Schema::compile(&schema.to_string()).unwrap();
    }
    let found = breaks(old, new).into_iter();
    found.map(|found| format!("{}: {}", found.pointer, found.detail)).collect()
}

#[track_caller]
fn takes_all(old: Value, new: Value) {
    assert_eq!(texts(&old, &new), Vec::<String>::new(), "{old}\n{new}");
}

#[track_caller]
fn breaks_at(old: Value, new: Value, expected: &[&str]) {
    assert_eq!(texts(&old, &new), expected, "{old}\n{new}");
}

/// An object with these properties, the first of which are required.
fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn field(schema: Value) -> Value {
    object(json!({"n": schema}), &[])
}

#[test]
fn what_is_unchanged_breaks_nothing_whatever_it_means() {
    for schema in [
        json!(true),
        json!({}),
        json!({"contains": {"const": 1}, "minContains": 2}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"pattern": "^x"}}}}),
        json!({"properties": {"next": {"$ref": "#"}}, "unevaluatedProperties": false}),
        json!({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": true}),
        json!({"$dynamicRef": "#node", "$defs": {"x": {"$dynamicAnchor": "node", "type": "object"}}}),
    ] {
        takes_all(schema.clone(), schema.clone());
        if schema.is_object() {
            let mut told = schema.clone();
            told["title"] = json!("Another title");
            if !schema.to_string().contains("dynamic") && !schema.to_string().contains("draft-04") {
                takes_all(schema, told);
            }
        }
    }
}

#[test]
fn the_field_that_breaks_is_named() {
    let one = |old: Value, new: Value, text: &str| breaks_at(field(old), field(new), &[text]);
    breaks_at(
        object(json!({"n": {"type": "integer"}}), &[]),
        object(json!({"n": {"type": "integer"}}), &["n"]),
        &["/n: was optional, is required now"],
    );
    breaks_at(
        object(json!({"n": {}}), &[]),
        object(json!({"n": {}, "m": {}}), &["m"]),
        &["/m: was not there, is required now"],
    );
    one(
        json!({"type": "integer", "minimum": 0}),
        json!({"type": "integer", "minimum": 1}),
        "/n: minimum rose from 0 to 1",
    );
    one(
        json!({"type": "integer", "minimum": 0}),
        json!({"type": "integer", "exclusiveMinimum": 0}),
        "/n: exclusiveMinimum rose from 0 to 0",
    );
    one(
        json!({"type": "number"}),
        json!({"type": "number", "maximum": 10}),
        "/n: had no maximum, has 10 now",
    );
    one(
        json!({"type": "string", "maxLength": 9}),
        json!({"type": "string", "maxLength": 8}),
        "/n: maxLength fell from 9 to 8",
    );
    one(json!({"enum": ["a", "b"]}), json!({"enum": ["a", "c"]}), "/n: no longer takes \"b\"");
    one(
        json!({"type": "string"}),
        json!({"enum": ["a"]}),
        "/n: was string, takes only listed values now",
    );
    one(json!({"const": 1}), json!({"const": 2}), "/n: no longer takes 1");
    one(
        json!({"type": ["string", "null"]}),
        json!({"type": "string"}),
        "/n: type was string or null, is string now",
    );
    one(
        json!({"type": "number"}),
        json!({"type": "integer"}),
        "/n: type was number, is integer now",
    );
    one(json!({}), json!({"type": "string"}), "/n: type was anything, is string now");
    one(
        json!({"type": "string"}),
        json!({"type": "string", "pattern": "^a"}),
        "/n: had no pattern, must match \"^a\" now",
    );
    one(
        json!({"type": "string", "pattern": "^a"}),
        json!({"type": "string", "pattern": "^b"}),
        "/n: pattern was \"^a\", is \"^b\" now",
    );
    one(
        json!({"type": "integer", "multipleOf": 2}),
        json!({"type": "integer", "multipleOf": 4}),
        "/n: multipleOf was 2, is 4 now",
    );
    one(
        json!({"type": "array", "items": {"type": ["string", "integer"]}}),
        json!({"type": "array", "items": {"type": "string"}}),
        "/n/0: type was integer or string, is string now",
    );
    one(
        json!({"type": "array"}),
        json!({"type": "array", "uniqueItems": true}),
        "/n: took the same item twice, and does not now",
    );
    one(json!({"type": "null"}), json!(false), "/n: takes nothing any more");
}

#[test]
fn what_stands_deeper_is_named_by_its_whole_pointer() {
    let deep = |least: u64| {
        json!({"$ref": "#/$defs/job", "$defs": {"job": object(json!({"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}}}), &["steps"]),
            "step": object(json!({"a/b": {"type": "integer", "minimum": least}}), &[])}})
    };
    takes_all(deep(1), deep(0));
    breaks_at(deep(0), deep(1), &["/steps/0/a~1b: minimum rose from 0 to 1"]);
    let map = |kind: &str| json!({"type": "object", "additionalProperties": {"type": kind}});
    breaks_at(map("number"), map("integer"), &["/*: type was number, is integer now"]);
}

#[test]
fn loosening_is_never_a_break() {
    let pairs = [
        (json!({"type": "string"}), json!({"type": ["string", "null"]})),
        (json!({"type": "integer"}), json!({"type": "number"})),
        (json!({"type": "integer", "minimum": 1}), json!({"type": "integer", "minimum": 0})),
        (
            json!({"type": "integer", "minimum": 1}),
            json!({"type": "number", "exclusiveMinimum": 0.5}),
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!({"type": "integer", "exclusiveMinimum": 0}),
        ),
        (json!({"type": "string", "maxLength": 3}), json!({"type": "string"})),
        (json!({"type": "string"}), json!({"type": "string", "minLength": 0})),
        (json!({"type": "string", "pattern": "^a"}), json!({"type": "string"})),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["b", "c", "a"]})),
        (
            json!({"enum": ["a", "b"]}),
            json!({"type": "string", "maxLength": 1, "pattern": "^[ab]$"}),
        ),
        (json!({"enum": [1, 2]}), json!({"type": "integer", "minimum": 1, "maximum": 2.0})),
        (json!({"type": "boolean"}), json!({"enum": [true, false, null]})),
        (json!({"const": 1}), json!({"enum": [1.0]})),
        (json!({"type": "integer"}), json!({"type": "number", "multipleOf": 1})),
        (json!({"type": "number", "multipleOf": 6}), json!({"type": "number", "multipleOf": 3})),
        (json!({"type": "string", "format": "uri"}), json!({"type": "string", "format": "email"})),
        (
            json!({"type": "array", "maxItems": 2, "minItems": 1}),
            json!({"type": "array", "maxItems": 3}),
        ),
        (
            json!({"type": "array", "uniqueItems": true}),
            json!({"type": "array", "uniqueItems": false}),
        ),
        (
            json!({"type": "array", "prefixItems": [{"type": "integer"}], "items": false}),
            json!({"type": "array", "items": {"type": "number"}}),
        ),
        (json!({"type": "string"}), json!({"anyOf": [{"type": "string"}, {"type": "null"}]})),
        (
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
            json!({"type": ["string", "null", "array"]}),
        ),
        (
            json!({"oneOf": [{"const": "a"}, {"const": "b"}]}),
            json!({"oneOf": [{"const": "a"}, {"const": "b"}, {"const": "c"}]}),
        ),
        (
            json!({"oneOf": [{"const": "a", "description": "x"}, {"const": "b"}]}),
            json!({"enum": ["a", "b"]}),
        ),
        (json!({"enum": ["a", "b"]}), json!({"oneOf": [{"const": "a"}, {"const": "b"}]})),
        (
            json!({"allOf": [{"type": "string"}, {"maxLength": 3}]}),
            json!({"type": "string", "maxLength": 4}),
        ),
        (
            json!({"type": "string", "maxLength": 3}),
            json!({"allOf": [{"type": "string"}, {"maxLength": 4}]}),
        ),
        (json!({"type": "string"}), json!({"not": {"type": "integer"}})),
        (json!({"not": {"type": "integer"}}), json!({"not": {"type": "integer", "minimum": 4}})),
        (json!({"not": {"const": "a"}, "type": "string"}), json!({"not": {"const": "a"}})),
        (json!(false), json!({"type": "string"})),
        (json!({"type": "string"}), json!(true)),
    ];
    for (old, new) in pairs {
        takes_all(old.clone(), new.clone());
        takes_all(field(old), field(new));
    }
}

#[test]
fn a_new_optional_field_breaks_nobody_who_kept_to_the_old_schema() {
    let old = object(json!({"a": {"type": "string"}}), &["a"]);
    let new = object(json!({"a": {"type": "string"}, "b": {"type": "integer"}}), &["a"]);
    takes_all(old.clone(), new.clone());
    breaks_at(
        json!({"type": "object"}),
        new,
        &[
            "/a: was not there, is required now",
            "/a: type was anything, is string now",
            "/b: type was anything, is integer now",
        ],
    );
    let free = |schema: Value| json!({"type": "object", "properties": {"a": {}}, "additionalProperties": schema});
    breaks_at(
        free(json!(true)),
        json!({"type": "object", "properties": {"a": {}, "b": {"type": "integer"}}}),
        &["/b: type was anything, is integer now"],
    );
    takes_all(
        free(json!({"type": "integer"})),
        json!({"type": "object", "properties": {"a": {}, "b": {"type": "number"}}}),
    );
    takes_all(
        free(json!(false)),
        json!({"type": "object", "properties": {"a": {}, "b": {"type": "integer"}}, "additionalProperties": false}),
    );
}

#[test]
fn closing_an_object_breaks_what_it_does_not_name() {
    let closed = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    breaks_at(
        closed(json!({"a": {}, "extra": {}})),
        closed(json!({"a": {}})),
        &["/extra: is not a property any more, and no others are allowed"],
    );
    breaks_at(
        object(json!({"a": {}}), &[]),
        closed(json!({"a": {}})),
        &[": took other properties than those that it names, and takes none now"],
    );
    let patterned = |pattern: &str| json!({"type": "object", "patternProperties": {pattern: {"type": "integer"}}, "additionalProperties": false});
    takes_all(closed(json!({"x-a": {"const": 1}})), patterned("^x-"));
    takes_all(patterned("^x-"), patterned("^x-"));
    assert_eq!(texts(&patterned("^x-"), &patterned("^y-")).len(), 2);
}

#[test]
fn variants_may_be_added_and_not_taken_away() {
    let tagged = |kinds: &[&str]| {
        let variant = |kind: &&str| json!({"type": "object", "properties": {"kind": {"const": kind}, "n": {"type": "integer"}}, "required": ["kind"]});
        json!({"oneOf": kinds.iter().map(variant).collect::<Vec<_>>()})
    };
    takes_all(tagged(&["a", "b"]), tagged(&["a", "b", "c"]));
    assert_eq!(texts(&tagged(&["a", "b"]), &tagged(&["a"])), ["/kind: no longer takes \"b\""]);
    let outside = |names: &[&str]| {
        let variant = |name: &&str| json!({"type": "object", "properties": {*name: {"type": "string"}}, "required": [name], "additionalProperties": false});
        json!({"oneOf": names.iter().map(variant).chain([json!({"type": "string", "enum": ["none"]})]).collect::<Vec<_>>()})
    };
    takes_all(outside(&["a", "b"]), outside(&["c", "b", "a"]));
    assert!(!texts(&outside(&["a", "b"]), &outside(&["a"])).is_empty());
    let may_overlap = json!({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}]});
    assert!(!texts(&json!({"type": "integer"}), &may_overlap).is_empty());
}

#[test]
fn an_optional_type_may_be_written_in_either_way() {
    let referred = json!({"properties": {"k": {"anyOf": [{"$ref": "#/$defs/K"}, {"type": "null"}]}}, "$defs": {"K": {"enum": ["a", "b"]}}});
    let inline = json!({"properties": {"k": {"enum": ["a", "b", null]}}});
    takes_all(referred.clone(), inline.clone());
    takes_all(inline, referred.clone());
    let required =
        json!({"properties": {"k": {"$ref": "#/$defs/K"}}, "$defs": {"K": {"enum": ["a", "b"]}}});
    takes_all(required.clone(), referred.clone());
    breaks_at(referred, required, &["/k: no longer takes null"]);
}

#[test]
fn schemas_that_refer_to_themselves_are_compared() {
    let tree = |least: i64| {
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": least}, "left": {"$ref": "#/$defs/tree"}, "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}}})
    };
    takes_all(tree(1), tree(0));
    assert_eq!(texts(&tree(0), &tree(1))[0], "/n: minimum rose from 0 to 1");
    let plain = json!({"type": "object", "properties": {"n": {"type": "integer"}, "left": {"type": "object"}}});
    assert!(texts(&plain, &tree(0)).contains(&"/n: was optional, is required now".to_owned()));
    takes_all(tree(0), plain);
}

#[test]
fn what_cannot_be_compared_is_a_break_that_says_so() {
    let says = |old: Value, new: Value, what: &str| {
        let found = texts(&old, &new);
        assert!(found.iter().any(|text| text.contains(what)), "{found:?} says {what:?}");
    };
    says(json!({"type": "array"}), json!({"type": "array", "contains": {"const": 1}}), "contains");
    says(
        json!({"properties": {"a": {}}, "$ref": "#/$defs/b", "$defs": {"b": {}}}),
        json!({"properties": {"a": {}}, "$ref": "#/$defs/b", "$defs": {"b": {}}, "unevaluatedProperties": false}),
        "unevaluatedProperties",
    );
    says(json!({"type": "string"}), json!({"type": "string", "not": {"pattern": "^a"}}), "not");
    says(
        json!({"type": "string"}),
        json!({"$schema": "http://json-schema.org/draft-04/schema#", "type": "string"}),
        "draft-04",
    );
    says(
        json!({"type": "string"}),
        json!({"$ref": "#name", "$defs": {"a": {"$anchor": "name", "type": "string"}}}),
        "reference",
    );
}

#[test]
fn the_draft_of_2017_is_understood_beside_that_of_2020() {
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"$ref": "#/definitions/n", "maximum": 3}],
        "additionalItems": false, "definitions": {"n": {"type": "integer"}}});
    let new =
        |more: Value| json!({"type": "array", "prefixItems": [more], "items": {"type": "string"}});
    takes_all(old.clone(), new(json!({"type": "number"})));
    breaks_at(
        old,
        new(json!({"type": "integer", "maximum": 3})),
        &["/0: had no maximum, has 3 now"],
    );
}

#[test]
fn conditions_are_compared_case_by_case() {
    let either = json!({"if": {"properties": {"k": {"const": 1}}, "required": ["k"]}, "then": {"required": ["a"]}, "else": {"required": ["b"]}});
    takes_all(either.clone(), json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}));
    takes_all(json!({"type": "object", "required": ["a", "b"]}), either.clone());
    breaks_at(
        json!({"type": "object", "required": ["a"]}),
        either,
        &["/b: was not there, is required now"],
    );
}

/// `a0` asks for `a1` twice, `a1` for `a2` twice, and so on.
fn doubling(keyword: &str, leaf: Value) -> Value {
    let mut places = serde_json::Map::new();
    for level in 0..40 {
        let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
        let other = json!({"$ref": format!("#/$defs/a{}", level + 1), "title": "again"});
        let value = match keyword {
            "properties" => json!({"properties": {"l": next, "r": other}}),
            _ => json!({keyword: [next, other]}),
        };
        places.insert(format!("a{level}"), value);
    }
    places.insert("a40".into(), leaf);
    json!({"$ref": "#/$defs/a0", "$defs": places})
}

/// Whatever comes out.
fn ends(old: &Value, new: &Value) {
    let begin = Instant::now();
    drop(breaks(old, new));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_search_ends_soon_whatever_the_schemas_say() {
    let begin = Instant::now();
    for keyword in ["anyOf", "allOf", "properties"] {
        let (old, new) = (
            doubling(keyword, json!({"type": "integer"})),
            doubling(keyword, json!({"type": "number", "minimum": 3})),
        );
        assert!(!breaks(&old, &new).is_empty(), "{keyword}");
        for other in ["anyOf", "oneOf", "not"] {
            let other = doubling(other, json!({"type": "string", "pattern": "^a"}));
            ends(&old, &other);
            ends(&other, &new);
        }
    }
    let deep = |leaf: Value| (0..60).fold(leaf, |inner, _| json!({"properties": {"a": inner}}));
    assert_eq!(
        breaks(&deep(json!({"type": "integer"})), &deep(json!({"type": "string"}))).len(),
        1
    );
    for around in ["not", "if"] {
        let deep = |leaf: Value| (0..60).fold(leaf, |inner, _| json!({around: inner}));
        ends(&deep(json!({"type": "integer"})), &deep(json!({"type": "string"})));
    }
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
    ] {
        assert!(!breaks(&json!({"type": "string"}), &schema).is_empty(), "{schema}");
        ends(&schema, &json!({"type": "string"}));
    }
    let many = |from: u64| json!({"enum": (from..from + 100_000).collect::<Vec<_>>()});
    assert!(breaks(&many(0), &many(1)).len() <= 50);
    let wide = |least: u64| {
        let properties =
            (0..5_000).map(|n| (format!("p{n}"), json!({"type": "integer", "minimum": least})));
        json!({"properties": properties.collect::<serde_json::Map<_, _>>(), "patternProperties": {"^x": {}, "^y": {}}})
    };
    assert!(!breaks(&wide(0), &wide(1)).is_empty());
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}
