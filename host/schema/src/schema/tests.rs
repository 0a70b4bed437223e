use std::time::{Duration, Instant};

use super::*;

fn check(schema: &Value, input: &Value) -> Vec<Fault> {
    let schema = Schema::compile(&schema.to_string()).unwrap();
    let mut errors = Vec::new();
    schema.check(input, input.to_string().len(), "/input", &mut errors);
    errors
}

#[test]
fn the_wrong_field_is_named() {
    let schema = json!({"type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": 0}, "list": {"type": "array", "items": {"type": "string"}}}});
    let pointers = |input: Value| -> Vec<String> {
        check(&schema, &input).into_iter().map(|error| error.pointer).collect()
    };
    assert_eq!(pointers(json!({"n": 3})), Vec::<String>::new());
    assert_eq!(pointers(json!({})), ["/input/n"]);
    assert_eq!(pointers(json!({"n": -1})), ["/input/n"]);
    assert_eq!(pointers(json!({"n": 1.5})), ["/input/n"]);
    assert_eq!(pointers(json!({"n": 1, "a/b": 2})), ["/input/a~1b"]);
    assert_eq!(pointers(json!({"n": 1, "list": ["x", 1]})), ["/input/list/1"]);
    assert_eq!(pointers(json!([])), ["/input"]);
}

#[test]
fn a_pattern_cannot_be_made_to_backtrack() {
    let text = "a".repeat(50_000) + "!";
    assert_eq!(check(&json!({"pattern": "^(a+)+$"}), &json!(text)).len(), 1);
}

#[test]
fn a_schema_that_refers_to_itself_ends() {
    for schema in
        [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}]}), json!({"not": {"$ref": "#"}})]
    {
        // Refused or accepted, either will do, as long as it comes to an end.
        if let Ok(schema) = Schema::compile(&schema.to_string()) {
            schema.check(&json!([[]]), 4, "/input", &mut Vec::new());
        }
    }
    let list = json!({"properties": {"next": {"$ref": "#", "maxProperties": 1}}, "additionalProperties": false});
    assert_eq!(check(&list, &json!({"next": {"next": {}}})), []);
    assert_eq!(
        check(&list, &json!({"next": {"x": 1, "y": 2}})).len(),
        3,
        "beside a reference the rest still counts"
    );
    let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}});
    assert_eq!(check(&tree, &json!({"left": {"right": {"n": 1}}, "right": {}})), []);
    let pointer = check(&tree, &json!({"left": {"right": {"n": "x"}}})).remove(0).pointer;
    assert_eq!(pointer, "/input/left/right/n");
}

/// `a0` asks for `a1` twice, `a1` for `a2` twice, and so on: 2^60 steps.
fn doubling(place: &str, keyword: &str, leaf: Value) -> Value {
    let mut places = serde_json::Map::new();
    for level in 0..60 {
        let next = json!({"$ref": format!("#/{place}/a{}", level + 1)});
        places.insert(format!("a{level}"), json!({keyword: [next, next]}));
    }
    places.insert("a60".into(), leaf);
    json!({"$ref": format!("#/{place}/a0"), place: places})
}

#[test]
fn a_check_that_would_take_for_ever_is_given_up() {
    let begin = Instant::now();
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for place in ["$defs", "definitions", "properties", "somewhere"] {
            let leaf = if keyword == "allOf" {
                json!({"type": "integer"})
            } else {
                json!({"type": "string"})
            };
            let errors = check(&doubling(place, keyword, leaf), &json!(1));
            assert_eq!(errors.len(), 1, "{keyword} {place}: {errors:?}");
            assert!(errors[0].detail.contains("too many steps"), "{keyword} {place}: {errors:?}");
        }
    }
    let twice = json!({"properties": {"a": {"$ref": "#"}}});
    let schema = json!({"type": "object", "anyOf": [twice, {"title": "again", "properties": {"a": {"$ref": "#"}}}]});
    let deep = (0..90).fold(json!(1), |inner, _| json!({"a": inner}));
    assert!(check(&schema, &deep)[0].detail.contains("too many steps"));
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn a_reference_that_would_walk_around_the_count_is_refused() {
    for schema in [
        json!({"$ref": "#/%66oo", "foo": {}}),
        json!({"$ref": "other.json#/foo", "$defs": {"x": {"$id": "other.json", "foo": {}}}}),
        json!({"$defs": {"x": {"$id": "other.json", "$ref": "#/foo", "foo": {}}}}),
        json!({"$ref": "http://127.0.0.1:1/schema.json"}),
        json!({"$ref": "file:///etc/hostname"}),
    ] {
        let error = Schema::compile(&schema.to_string()).unwrap_err();
        assert!(error.contains("reference") || error.contains("id"), "{schema}: {error}");
    }
}

#[test]
fn in_old_drafts_a_reference_hides_what_stands_beside_it() {
    let schema = |dialect: &str| json!({"$schema": dialect, "$ref": "#/definitions/n", "minimum": 5, "definitions": {"n": {"type": "integer"}}});
    assert_eq!(check(&schema("http://json-schema.org/draft-07/schema#"), &json!(1)), []);
    assert_eq!(check(&schema("https://json-schema.org/draft/2020-12/schema"), &json!(1)).len(), 1);
    assert_eq!(check(&schema("http://json-schema.org/draft-07/schema#"), &json!("x")).len(), 1);
}

#[test]
fn unevaluated_properties_see_through_references() {
    let schema = json!({"$ref": "#/$defs/base", "unevaluatedProperties": false, "$defs": {"base": {"properties": {"a": {}}}}});
    assert_eq!(check(&schema, &json!({"a": 1})), []);
    assert_eq!(check(&schema, &json!({"b": 1}))[0].pointer, "/input/b");
}

#[test]
fn a_property_may_have_any_name() {
    let schema = json!({"properties": {"$id": {"type": "string"}, "id": {"type": "integer"}, "a/b": {"enum": [{"$ref": "x"}]}}});
    assert_eq!(check(&schema, &json!({"$id": "x", "id": 1, "a/b": {"$ref": "x"}})), []);
    assert_eq!(check(&schema, &json!({"id": "x"})).len(), 1);
}

#[test]
fn a_large_input_has_steps_enough_and_a_large_wrong_one_costs_one_error_only() {
    let numbers = Value::Array(vec![json!(1); 1_000_000]);
    assert_eq!(
        check(&json!({"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}), &numbers),
        []
    );
    assert_eq!(check(&json!({"items": {"type": "string"}}), &numbers).len(), 1);
    let objects = Value::Array((0..100_000).map(|n| json!({"n": n})).collect());
    let schema = json!({"uniqueItems": true, "items": {"$ref": "#/$defs/o"}, "$defs": {"o": {"properties": {"n": {"$ref": "#/$defs/n"}}},
        "n": {"type": "integer"}}});
    assert_eq!(check(&schema, &objects), []);
}

#[test]
fn what_fits_none_of_several_alternatives_is_told_by_the_one_that_was_meant() {
    let address = json!({"type": "string", "minLength": 3, "pattern": "^[^@]+@[^@]+$", "examples": ["me@a.test"]});
    let schema = json!({
        "properties": {
            "to": {"anyOf": [address, {"type": "array", "items": address, "maxItems": 2}, {"type": "null"}]},
            "by": {"$ref": "#/$defs/by"},
        },
        "$defs": {"by": {"oneOf": [address, {"type": "null"}]}},
        "anyOf": [{"required": ["to"]}, {"required": ["by"]}],
    });
    let told = |input: Value| -> Vec<(String, String)> {
        let faults = check(&schema, &input);
        faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
    };
    let form = "\"nobody\" does not have the form of \"me@a.test\"".to_owned();
    assert_eq!(told(json!({"to": "nobody"})), [("/input/to".to_owned(), form.clone())]);
    assert_eq!(told(json!({"by": "nobody"})), [("/input/by".to_owned(), form.clone())]);
    assert_eq!(told(json!({"to": ["me@a.test", "nobody"]})), [("/input/to/1".to_owned(), form)]);
    let [(pointer, detail)] = told(json!({"to": 7})).try_into().unwrap();
    assert_eq!(pointer, "/input/to");
    assert!(detail.contains("string") && detail.contains("null"), "{detail}");
    let [(pointer, detail)] = told(json!({})).try_into().unwrap();
    assert_eq!(
        (pointer.as_str(), detail.as_str()),
        ("/input", "/input/to is required, or /input/by is required")
    );
}

#[test]
fn a_few_steps_tell_what_fits_and_leave_what_is_hard_to_a_check() {
    let schema = Schema::compile(
        r##"{"type": "object", "properties": {"n": {"type": "integer"}, "tree": {"$ref": "#/$defs/tree"}},
             "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}"##,
    )
    .unwrap();
    assert!(schema.fits_at_once(&json!({ "n": 20 })));
    assert!(!schema.fits_at_once(&json!({ "n": "20" })), "it does not fit");
    let large = json!({ "tree": vec![json!([]); 1_000] });
    assert!(!schema.fits_at_once(&large), "it takes too many steps");
    let mut faults = Vec::new();
    schema.check(&large, large.to_string().len(), "", &mut faults);
    assert!(faults.is_empty(), "and fits");
}
