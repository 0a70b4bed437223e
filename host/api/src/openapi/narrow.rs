//! What the derived schemas leave open or say in too involved a way: the texts that parameters
//! take, the kinds of handlers, defaults. Clients are generated from it, and requests and checks of
//! answers.

use utoipa::openapi::{
    Components, Discriminator, KnownFormat, ObjectBuilder, Ref, RefOr, Required, Schema,
    SchemaFormat,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
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
        "id_prefix" => "^-*([0-9A-Fa-f]-*){1,32}$",
        "cursor" => "^[A-Za-z0-9_-]{21}[AQgw]$",
        "wait" => r"^([0-9]{1,4}ms|([0-5]?[0-9]|60)s|[0-5]?[0-9](\.[0-9]{1,6})?|60|1m)$",
        "x-operator" => "^([!-~]([ -~]{0,98}[!-~])?)?$",
        _ => return None,
    })
}

/// What a parameter of a path stands for, and one that is.
fn described(parameter: &str) -> (&'static str, &'static str) {
    match parameter {
        "id" => ("The task", "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11"),
        "name" => ("The plugin, which is the task type", "fibonacci"),
        "type" => ("The task type", "fibonacci"),
        "version" => ("The version", "1.0.0"),
        "key" => ("The name that the plugin reads the secret by", "api-key"),
        _ => ("The tenant", "default"),
    }
}

/// Adds the parameters of an operation's path.
pub(super) fn path(path: &str, operation: &mut Operation) {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters = operation.parameters.get_or_insert_default();
    for (place, name) in names.enumerate() {
        let (description, example) = described(name);
        let text = ObjectBuilder::new().schema_type(Type::String);
        let text = match name {
            "id" => text.format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))),
            _ => text,
        };
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(text))
            .example(Some(example.into()));
        parameters.insert(place, RefOr::T(parameter.build()));
    }
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

/// Makes each kind of handler one object that names its kind, and a handler one of them. What is
/// derived is a union of intersections of parts that may be absent, which generators of clients
/// cannot read.
pub(super) fn handlers(components: &mut Components) {
    let described = match components.schemas.get("Described") {
        Some(RefOr::T(Schema::Object(described))) => described.clone(),
        _ => return,
    };
    if let Some(RefOr::T(plugin)) = components.schemas.get_mut("Plugin")
        && let Schema::AllOf(parts) = plugin
    {
        let own = parts.items.iter().find_map(|part| match part {
            RefOr::T(Schema::Object(own)) => Some(own.clone()),
            _ => None,
        });
        let mut whole = own.unwrap_or_default();
        // Not required: before the first activation there is none of it.
        whole.properties.extend(described.properties);
        whole.description.clone_from(&parts.description);
        *plugin = Schema::Object(whole);
    }
    let kinds = [("component", "Plugin"), ("external", "ExternalType")];
    for (kind, name) in kinds {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name) {
            let text =
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind])).build();
            object.properties.insert("kind".to_owned(), RefOr::T(Schema::Object(text)));
            object.required.push("kind".to_owned());
        }
    }
    if let Some(RefOr::T(Schema::OneOf(handler))) = components.schemas.get_mut("Handler") {
        let references = kinds.map(|(_, name)| RefOr::Ref(Ref::from_schema_name(name)));
        handler.items = references.into();
        let mapping = kinds.map(|(kind, name)| (kind, format!("#/components/schemas/{name}")));
        handler.discriminator = Some(Discriminator::with_mapping("kind", mapping));
    }
}

/// Tells defaults in words only. A property with a `default` that may be left out is taken by some
/// generators for one that is always there, and filled in by others.
pub(super) fn defaults(components: &mut Components) {
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::Object(object)) = schema else {
            continue;
        };
        for property in object.properties.values_mut() {
            let (default, description) = match property {
                RefOr::Ref(reference) => {
                    if let Some(default) = reference.default.take() {
                        tell(&default, &mut reference.description);
                    }
                    continue;
                }
                RefOr::T(Schema::Object(it)) => (it.default.take(), &mut it.description),
                RefOr::T(Schema::Array(it)) => (it.default.take(), &mut it.description),
                RefOr::T(Schema::OneOf(it)) => (it.default.take(), &mut it.description),
                RefOr::T(Schema::AllOf(it)) => (it.default.take(), &mut it.description),
                RefOr::T(Schema::AnyOf(it)) => (it.default.take(), &mut it.description),
                RefOr::T(_) => continue,
            };
            if let Some(default) = default {
                tell(&default, description.get_or_insert_default());
            }
        }
    }
}

fn tell(default: &serde_json::Value, description: &mut String) {
    description.push_str(&format!(" Unless told: `{default}`."));
}
