//! The OpenAPI document: what the routes say about themselves, and what is true of all of them.

use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, PathItem},
        schema::Type,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::{
    FieldError, ProblemKind,
    http::{key, problem::ProblemBody},
};

mod narrow;
pub(crate) mod pages;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "TaskForge",
        description = "A task queue whose handlers are WebAssembly components. A task is accepted \
            when it is committed; it then runs at least once, and its result is committed exactly \
            once.\n\nEvery error is a problem document (RFC 9457) with a stable `type`. Times are \
            RFC 3339 in UTC, ids are UUIDv7. Durations are text (`500ms`, `30s`, `2h`) or a number \
            of seconds.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "tasks", description = "Work to be done, and what became of it"),
        (name = "dead letters", description = "Tasks that have failed for good"),
        (name = "queues", description = "How the fleet is shared out: pauses, caps, weights"),
        (name = "external workers", description = "Handlers that are no WebAssembly, over HTTP"),
        (name = "plugins",
            description = "The handlers that tasks may name: their versions, and which of them \
                run. Whoever changes something may say in the header `x-operator` who it \
                is, for the record"),
        (name = "operations", description = "For those who run the server"),
    ),
    components(schemas(ProblemBody<'_>, FieldError)),
    // Either will do.
    security(("bearer" = []), ("header" = [])),
)]
struct Document;

/// The document before the routes are added.
pub(crate) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some(
        "The API key. A server without one, which listens on loopback only, does not ask."
            .to_owned(),
    );
    let header = ApiKeyValue::with_description(
        key::HEADER,
        "The API key, for clients that cannot set Authorization.",
    );
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("header", SecurityScheme::ApiKey(ApiKey::Header(header)));
    document
}

/// Adds what every operation may answer.
pub(crate) fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    if let Some(components) = &mut document.components {
        narrow::handlers(components);
        narrow::defaults(components);
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            narrow::path(path, operation);
            narrow::parameters(operation);
            if key::is_open(path) {
                // One empty requirement: nothing is asked for.
                operation.security = Some(Vec::new());
            }
            for kind in common(path, operation) {
                let status = kind.status().as_str().to_owned();
                let responses = &mut operation.responses.responses;
                responses.entry(status).or_insert(RefOr::T(problem(kind)));
            }
            for (status, response) in &mut operation.responses.responses {
                // What routes say of an error is why; what it looks like is always the same.
                if let RefOr::T(response) = response
                    && status.as_str() >= "400"
                    && response.content.is_empty()
                {
                    let content = RefOr::T(content().build());
                    response.content.insert(PROBLEM.to_owned(), content);
                }
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
        .into_iter()
        .filter_map(|operation| operation.as_mut())
}

fn common(path: &str, operation: &Operation) -> Vec<ProblemKind> {
    // The head may be wrong whatever it asks for, and without a key another site's page may ask.
    let mut kinds = vec![ProblemKind::Internal, ProblemKind::ForeignOrigin];
    if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
        kinds.push(ProblemKind::InvalidParameter);
    } else {
        kinds.push(ProblemKind::BadRequest);
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
    if ["{id}", "{name}", "{type}"].iter().any(|name| path.contains(name)) {
        kinds.push(ProblemKind::NotFound);
    }
    if !key::is_open(path) {
        kinds.push(ProblemKind::Unauthorized);
    }
    if !["/healthz", "/readyz"].contains(&path) {
        kinds.push(ProblemKind::Unavailable);
    }
    kinds
}

/// The media type of errors.
const PROBLEM: &str = "application/problem+json";

fn content() -> ContentBuilder {
    let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
    ContentBuilder::new().schema(Some(schema))
}

fn problem(kind: ProblemKind) -> Response {
    let example = serde_json::json!({
        "type": kind.uri(), "title": kind.title(), "status": kind.status().as_u16(),
        "detail": kind.title(),
        "instance": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11",
    });
    let response = ResponseBuilder::new()
        .description(kind.title())
        .content(PROBLEM, content().example(Some(example)).build());
    if kind != ProblemKind::Unavailable {
        return response.build();
    }
    let seconds = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some("Seconds to wait before the next try"));
    response
        .header("Retry-After", HeaderBuilder::new().schema(Some(seconds.build())).build())
        .build()
}
