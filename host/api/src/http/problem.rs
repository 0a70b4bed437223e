//! Errors as clients see them: RFC 9457 problem details.
//!
//! A problem's text is written for the client. What went wrong inside is logged where it is turned
//! into one, and never travels.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use taskforge_store::StoreError;
use utoipa::ToSchema;

/// The classes of problem. Each has a `type` URI that stays the same for good, so clients may match
/// on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The body is not JSON, or nests too deeply.
    MalformedBody,
    /// A path or query parameter is wrong.
    InvalidParameter,
    /// The API key is missing or wrong.
    Unauthorized,
    /// The server asks for no key, and the request comes from another site's page or names another
    /// host.
    ForeignOrigin,
    /// There is no such task or plugin.
    NotFound,
    /// There is no such route.
    NoRoute,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    SlowBody,
    /// The task's state does not allow it.
    StateConflict,
    /// The plugin's state does not allow it, or its name or version is taken.
    PluginConflict,
    /// The new version of a plugin refuses inputs that the running one takes.
    BreakingChange,
    /// The component is not signed, or not by anybody whom the server trusts.
    Signature,
    /// More would be stored than the operator allows.
    Quota,
    /// The component is none that the server can run.
    Component,
    /// The lease token is wrong, or the lease that it stands for is over.
    LeaseLost,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body is not declared as plain JSON, or as WebAssembly where that is asked for.
    UnsupportedMediaType,
    /// The body is JSON, but a field in it is wrong.
    Validation,
    /// The headers are wrong in a way that no other kind covers.
    BadRequest,
    /// Our fault.
    Internal,
    /// The database does not answer; the same request may succeed later.
    Unavailable,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::MalformedBody,
        Self::InvalidParameter,
        Self::Unauthorized,
        Self::ForeignOrigin,
        Self::NotFound,
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::SlowBody,
        Self::StateConflict,
        Self::PluginConflict,
        Self::BreakingChange,
        Self::Signature,
        Self::Quota,
        Self::Component,
        Self::LeaseLost,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::Validation,
        Self::BadRequest,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The `type` URI.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        match self {
            Self::MalformedBody => "urn:taskforge:problem:malformed-body",
            Self::InvalidParameter => "urn:taskforge:problem:invalid-parameter",
            Self::Unauthorized => "urn:taskforge:problem:unauthorized",
            Self::ForeignOrigin => "urn:taskforge:problem:foreign-origin",
            Self::NotFound => "urn:taskforge:problem:not-found",
            Self::NoRoute => "urn:taskforge:problem:no-route",
            Self::MethodNotAllowed => "urn:taskforge:problem:method-not-allowed",
            Self::SlowBody => "urn:taskforge:problem:slow-body",
            Self::StateConflict => "urn:taskforge:problem:state-conflict",
            Self::PluginConflict => "urn:taskforge:problem:plugin-conflict",
            Self::BreakingChange => "urn:taskforge:problem:breaking-change",
            Self::Signature => "urn:taskforge:problem:signature",
            Self::Quota => "urn:taskforge:problem:quota",
            Self::Component => "urn:taskforge:problem:component",
            Self::LeaseLost => "urn:taskforge:problem:lease-lost",
            Self::BodyTooLarge => "urn:taskforge:problem:body-too-large",
            Self::UnsupportedMediaType => "urn:taskforge:problem:unsupported-media-type",
            Self::Validation => "urn:taskforge:problem:validation",
            Self::BadRequest => "urn:taskforge:problem:bad-request",
            Self::Internal => "urn:taskforge:problem:internal",
            Self::Unavailable => "urn:taskforge:problem:unavailable",
        }
    }

    /// A short summary that is the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::MalformedBody => "The request body cannot be read",
            Self::InvalidParameter => "A parameter is not valid",
            Self::Unauthorized => "The API key is missing or wrong",
            Self::ForeignOrigin => "The request comes from another site",
            Self::NotFound => "Not found",
            Self::NoRoute => "No such route",
            Self::MethodNotAllowed => "The route does not have this method",
            Self::SlowBody => "The request body took too long",
            Self::StateConflict => "The task's state does not allow this",
            Self::PluginConflict => "The plugin's state does not allow this",
            Self::BreakingChange => "The new version breaks clients of the old one",
            Self::Signature => "The component is not signed by anybody trusted",
            Self::Quota => "More would be stored than is allowed",
            Self::Component => "The component cannot run here",
            Self::LeaseLost => "The lease is over",
            Self::BodyTooLarge => "The request body is too large",
            Self::UnsupportedMediaType => {
                "The request body must be declared as what the route takes"
            }
            Self::Validation => "The request is not valid",
            Self::BadRequest => "The request is not valid HTTP for this server",
            Self::Internal => "Internal error",
            Self::Unavailable => "Temporarily unavailable",
        }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::MalformedBody | Self::InvalidParameter | Self::BadRequest => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Signature | Self::Quota | Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::StateConflict | Self::PluginConflict | Self::BreakingChange | Self::LeaseLost => {
                StatusCode::CONFLICT
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Validation | Self::Component => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where in the body, as a JSON pointer (RFC 6901): `/input/n`, `/tasks/17/priority`. Empty for
    /// the body as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "/input/n")]
    pub pointer: Option<String>,
    /// Which path or query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parameter: Option<String>,
    /// What is wrong with it.
    #[schema(example = "-1 is less than the minimum of 0")]
    pub detail: String,
}

impl FieldError {
    /// Something wrong in the body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, detail: detail.into() }
    }
}

impl FieldError {
    /// The same in a value that stands at a pointer.
    pub(crate) fn below(self, pointer: &str) -> Self {
        Self { pointer: self.pointer.map(|within| format!("{pointer}{within}")), ..self }
    }
}

/// A problem on its way to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<u32>,
}

/// The JSON form of a problem (RFC 9457), served as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Which class of problem this is. Stable: match on it.
    #[serde(rename = "type")]
    #[schema(value_type = String, format = "uri", example = "urn:taskforge:problem:validation")]
    kind: &'a str,
    /// The class in words.
    #[schema(value_type = String, example = "The request is not valid")]
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// This occurrence in words.
    #[schema(value_type = String, example = "/input/n: -1 is less than the minimum of 0")]
    detail: &'a str,
    /// The id of the request, which the answer's `x-request-id` and the server's log carry too.
    #[schema(value_type = String, format = "uri-reference",
        example = "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11")]
    instance: &'a str,
    /// What is wrong, part by part, where there are parts.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem with one sentence about this occurrence.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = (kind == ProblemKind::Unavailable).then_some(1);
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after }
    }

    /// A body in which these fields are wrong.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => "The request is not valid.".to_owned(),
            [first, rest @ ..] => {
                let place = first.pointer.as_deref().filter(|pointer| !pointer.is_empty());
                let more = match rest.len() {
                    0 => String::new(),
                    1 => " (and 1 more error)".to_owned(),
                    more => format!(" (and {more} more errors)"),
                };
                format!(
                    "{}{}{more}",
                    place.map(|place| format!("{place}: ")).unwrap_or_default(),
                    first.detail
                )
            }
        };
        Self { errors, ..Self::new(ProblemKind::Validation, detail) }
    }

    /// The same problem with these parts.
    pub(crate) fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// The same problem of a body that stands at a pointer, if fields are wrong in it.
    pub(crate) fn below(self, pointer: &str) -> Self {
        if self.kind != ProblemKind::Validation {
            return self;
        }
        let errors = self.errors.into_iter().map(|error| error.below(pointer));
        Self::validation(errors.collect())
    }

    /// A path or query parameter that is wrong.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        // The name may be the client's invention, and of any length.
        let name: String = name.chars().take(100).collect();
        let detail = detail.into();
        Self {
            errors: vec![FieldError {
                pointer: None,
                parameter: Some(name.clone()),
                detail: detail.clone(),
            }],
            ..Self::new(ProblemKind::InvalidParameter, format!("{name}: {detail}"))
        }
    }

    /// The problem that a bare status stands for, made by a layer that knows no better.
    pub(crate) fn from_status(status: StatusCode) -> Self {
        let kind = match status {
            StatusCode::NOT_FOUND => ProblemKind::NoRoute,
            StatusCode::METHOD_NOT_ALLOWED => ProblemKind::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => ProblemKind::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ProblemKind::UnsupportedMediaType,
            status if status.is_client_error() => ProblemKind::BadRequest,
            _ => ProblemKind::Internal,
        };
        Self::new(kind, kind.title())
    }

    /// Which class of problem it is.
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// This occurrence in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Writes the problem into the answer that stands for it.
    pub(crate) fn write_into(&self, response: &mut Response, request_id: &str) {
        let status = self.kind.status();
        let body = ProblemBody {
            kind: self.kind.uri(),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: &self.detail,
            instance: request_id,
            errors: &self.errors,
        };
        // Strings and numbers only: this cannot fail, and an empty body is still a correct status.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == ProblemKind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        *response.body_mut() = body.into();
    }
}

/// The answer carries the problem as an extension; the `request` layer, which knows the request's
/// id, writes it out.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Closed => {
                tracing::warn!(%error, "the store is unavailable");
                Self::new(
                    ProblemKind::Unavailable,
                    "The database does not answer. Try again in a moment.",
                )
            }
            // The API never sweeps, so nobody can depose it.
            StoreError::Misconfigured(_)
            | StoreError::Schema(_)
            | StoreError::Corrupt(_)
            | StoreError::Refused(_)
            | StoreError::Lapsed
            | StoreError::Deposed => {
                tracing::error!(%error, "the store failed");
                Self::internal()
            }
        }
    }
}

impl Problem {
    /// Our fault, about which the client is told nothing but the request's id.
    pub(crate) fn internal() -> Self {
        Self::new(
            ProblemKind::Internal,
            "Something went wrong on the server. Its log has more under this request's id.",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own() {
        let types: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.uri()).collect();
        assert_eq!(types.len(), ProblemKind::ALL.len());
        assert!(ProblemKind::ALL.iter().all(|kind| !kind.status().is_success()));
    }

    #[test]
    fn internal_text_stays_inside() {
        for error in [
            StoreError::Unavailable("secret".into()),
            StoreError::Misconfigured("secret".into()),
            StoreError::Schema("secret".into()),
            StoreError::Corrupt("secret".into()),
            StoreError::Refused("secret".into()),
            StoreError::Deposed,
        ] {
            assert!(!Problem::from(error).detail().contains("secret"));
        }
    }
}
