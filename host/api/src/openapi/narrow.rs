//! What the derived schemas leave open, said exactly: the texts that parameters take, and a plugin
//! before its first activation. Clients generate requests and check answers from it.

use utoipa::openapi::{
    Components, ObjectBuilder, RefOr, Schema,
    path::{Operation, Parameter},
    schema::{ArrayItems, Object, Type},
};

/// The texts that a parameter of this name takes, wherever it stands.
fn pattern(parameter: &str) -> Option<&'static str> {
    Some(match parameter {
        "name" | "type" | "task_type" => "^[A-Za-z][A-Za-z0-9_.-]{0,99}$",
        "tenant" => "^[a-z0-9][a-z0-9_-]{0,62}$",
        "version" => "^[0-9][A-Za-z0-9.+-]{0,99}$",
        // Other visible characters are taken too; these travel in a path whoever writes it.
        "key" => "^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$",
        "group" => "^[0-9a-f]{16}$",
        "cursor" => "^[A-Za-z0-9_-]{21}[AQgw]$",
        "wait" => r"^([0-9]{1,4}ms|([0-5]?[0-9]|60)s|[0-5]?[0-9](\.[0-9]{1,6})?|60|1m)$",
        "x-operator" => "^([!-~]([ -~]{0,98}[!-~])?)?$",
        _ => return None,
    })
}

/// Narrows the parameters of an operation.
pub(super) fn parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if let Some(RefOr::T(Schema::Array(list))) = &mut parameter.schema {
            // Nothing would be written as one empty text, which is none of the values.
            list.min_items = Some(1);
        }
        let Some(pattern) = pattern(&parameter.name) else {
            continue;
        };
        if let Some(text) = text(parameter) {
            text.pattern = Some(pattern.to_owned());
        }
    }
}

/// The schema of a parameter's text, or of the texts that it lists.
fn text(parameter: &mut Parameter) -> Option<&mut Object> {
    let schema = match &mut parameter.schema {
        Some(RefOr::T(Schema::Array(array))) => match &mut array.items {
            ArrayItems::RefOrSchema(items) => &mut **items,
            ArrayItems::False => return None,
        },
        Some(schema) => schema,
        None => return None,
    };
    match schema {
        RefOr::T(Schema::Object(text)) => Some(text),
        _ => None,
    }
}

/// A plugin has either a version and all that goes with it, or none of that. Derived from an
/// optional part, the schema says that in place of that part the whole plugin may be null.
pub(super) fn plugin(components: &mut Components) {
    let Some(RefOr::T(Schema::AllOf(plugin))) = components.schemas.get_mut("Plugin") else {
        return;
    };
    let none = ObjectBuilder::new().schema_type(Type::Null).build();
    let inactive = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("version", none)
        .required("version")
        .description(Some("No version runs yet"))
        .build();
    for part in &mut plugin.items {
        if let RefOr::T(Schema::OneOf(optional)) = part {
            optional.items.truncate(1);
            optional.items.push(RefOr::T(Schema::Object(inactive.clone())));
        }
    }
}
