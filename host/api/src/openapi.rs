//! The OpenAPI document: what the routes say about themselves, and what is true of all of them.

use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, HeaderBuilder, HttpMethod, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, PathItem},
        schema::Type,
    },
};

use crate::{FieldError, ProblemKind, problem::ProblemBody, routes};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "TaskForge",
        description = "A task queue whose handlers are WebAssembly components. A task is accepted when it is committed; it then runs at \
                       least once, and its result is committed exactly once.\n\nEvery error is a problem document (RFC 9457) with a stable \
                       `type`. Times are RFC 3339 in UTC, ids are UUIDv7. Durations are text (`500ms`, `30s`, `2h`) or a number of seconds.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "tasks", description = "Work to be done, and what became of it"),
        (name = "plugins", description = "The handlers that tasks may name"),
        (name = "operations", description = "For those who run the server"),
    ),
    components(schemas(ProblemBody<'_>, FieldError)),
)]
struct Document;

/// The document that `/openapi.json` serves.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes::documented().into_openapi()
}

/// The document before the routes are added.
pub(crate) fn base() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Adds what every operation may answer.
pub(crate) fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            for kind in common(path, &method, operation) {
                let response = RefOr::T(problem(kind));
                operation
                    .responses
                    .responses
                    .entry(kind.status().as_str().to_owned())
                    .or_insert(response);
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let known = [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Delete, &mut item.delete),
    ];
    known
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn common(path: &str, _: &HttpMethod, operation: &Operation) -> Vec<ProblemKind> {
    let mut kinds = vec![ProblemKind::Internal];
    if operation
        .parameters
        .as_ref()
        .is_some_and(|parameters| !parameters.is_empty())
    {
        kinds.push(ProblemKind::InvalidParameter);
    }
    if operation.request_body.is_some() {
        kinds.extend([
            ProblemKind::MalformedBody,
            ProblemKind::SlowBody,
            ProblemKind::BodyTooLarge,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::Validation,
        ]);
    }
    if path.contains("{id}") {
        kinds.push(ProblemKind::NotFound);
    }
    if path.starts_with("/tasks") {
        kinds.push(ProblemKind::Unavailable);
    }
    kinds
}

fn problem(kind: ProblemKind) -> Response {
    let example = serde_json::json!({
        "type": kind.uri(), "title": kind.title(), "status": kind.status().as_u16(), "detail": kind.title(),
        "instance": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11",
    });
    let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(Some(example))
        .build();
    let response = ResponseBuilder::new()
        .description(kind.title())
        .content("application/problem+json", content);
    if kind != ProblemKind::Unavailable {
        return response.build();
    }
    let seconds = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some("Seconds to wait before the next try"));
    response
        .header(
            "Retry-After",
            HeaderBuilder::new().schema(Some(seconds.build())).build(),
        )
        .build()
}
