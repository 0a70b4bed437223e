//! What handlers take out of a request, each with an error that names what is wrong.

use std::{convert::Infallible, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::PathRejection},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header, request::Parts};
use http_body_util::BodyExt;
use taskforge_domain::{TaskId, TaskState, TaskType, TenantId, Timestamp};
use taskforge_store::{Cursor, TaskFilter};

use crate::{Problem, ProblemKind, json::shorten, state::App};

/// Whose request this is. Until tenants come it is the default tenant, unless a layer has put another into the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Tenant(pub TenantId);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// The `{id}` of the path.
pub(crate) struct TaskPath(pub(crate) TaskId);

impl<S: Send + Sync> FromRequestParts<S> for TaskPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path(parts, state, "id").await.map(Self)
    }
}

/// The `{type}` of the path.
pub(crate) struct QueuePath(pub(crate) TaskType);

impl<S: Send + Sync> FromRequestParts<S> for QueuePath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path(parts, state, "type").await.map(Self)
    }
}

/// The `{tenant}` of the path.
pub(crate) struct TenantPath(pub(crate) TenantId);

impl<S: Send + Sync> FromRequestParts<S> for TenantPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path(parts, state, "tenant").await.map(Self)
    }
}

/// The `{name}` of the path.
pub(crate) struct PluginPath(pub(crate) TaskType);

impl<S: Send + Sync> FromRequestParts<S> for PluginPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path(parts, state, "name").await.map(Self)
    }
}

async fn path<T, S>(parts: &mut Parts, state: &S, name: &str) -> Result<T, Problem>
where
    T: FromStr<Err: ToString>,
    S: Send + Sync,
{
    let text =
        Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| match rejection {
                PathRejection::FailedToDeserializePathParams(_) => Problem::parameter(name, "is not UTF-8"),
                _ => Problem::internal(),
            })?;
    text.0
        .parse()
        .map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
}

/// The parameters of the query, of which handlers take those that they know; the rest is refused.
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(ProblemKind::InvalidParameter, "The query string cannot be read."))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Takes a parameter that may be given once.
    pub(crate) fn one<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let mut given = self.0.extract_if(.., |(key, _)| key == name);
        let Some((_, value)) = given.next() else {
            return Ok(None);
        };
        if given.next().is_some() {
            return Err(Problem::parameter(name, "is given twice"));
        }
        read(&value)
            .map(Some)
            .map_err(|detail| Problem::parameter(name, shorten(&detail, 300)))
    }

    /// Takes a parameter that may be given several times, each time with several values between commas.
    pub(crate) fn many<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Result<Vec<T>, Problem> {
        let given = self.0.extract_if(.., |(key, _)| key == name);
        let texts: Vec<String> = given
            .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        if texts.len() > 100 {
            return Err(Problem::parameter(name, "has more than 100 values"));
        }
        let read = |text: &String| text.trim().parse().map_err(|error: T::Err| error.to_string());
        texts
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|detail| Problem::parameter(name, shorten(&detail, 300)))
    }

    /// Whether nothing is given besides this parameter.
    pub(crate) fn is_empty_but_for(&self, name: &str) -> bool {
        self.0.iter().all(|(key, _)| key == name)
    }

    /// Takes the parameters that choose tasks.
    pub(crate) fn filter(&mut self) -> Result<TaskFilter, Problem> {
        Ok(TaskFilter {
            states: self.many("status")?,
            types: self.many("task_type")?,
            error_kinds: self.many("error_kind")?,
            created_from: self.one("created_from", time)?,
            created_before: self.one("created_before", time)?,
            ..TaskFilter::default()
        })
    }

    /// Takes the parameters that choose dead letters.
    pub(crate) fn dead_letters(&mut self) -> Result<TaskFilter, Problem> {
        Ok(TaskFilter {
            ids: self.many("id")?,
            states: vec![TaskState::Failed],
            types: self.many("task_type")?,
            error_kinds: self.many("error_kind")?,
            fingerprints: self.many("group")?,
            finished_from: self.one("failed_from", time)?,
            finished_before: self.one("failed_before", time)?,
            ..TaskFilter::default()
        })
    }

    /// Says that no other parameter is known.
    pub(crate) fn end(self, known: &str) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::parameter(
                name,
                format!("is not a parameter of this route; known are {known}"),
            )),
        }
    }
}

/// Reads a whole number in a range.
pub(crate) fn number(min: u32, max: u32) -> impl FnOnce(&str) -> Result<u32, String> {
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "must be a time in RFC 3339, such as 2026-01-31T08:00:00Z (write + as %2B)".to_owned())
}

/// Reads a duration: text for people, or a number of seconds.
pub(crate) fn duration(max: Duration) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| {
        let seconds = text
            .parse::<f64>()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let given = seconds.or_else(|| humantime::parse_duration(text).ok());
        let given = given.ok_or("must be a duration such as 500ms, 10s or 1m, or a number of seconds")?;
        if given > max {
            Err(format!("must be at most {}", humantime::format_duration(max)))
        } else {
            Ok(given)
        }
    }
}

/// The place in a list, as clients hand it back.
pub(crate) fn write_cursor(Cursor(id): Cursor) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.as_uuid())
}

/// Reads what [`write_cursor`] wrote.
pub(crate) fn read_cursor(text: &str) -> Result<Cursor, String> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| uuid::Uuid::from_slice(&bytes).ok());
    bytes
        .map(|id| Cursor(TaskId::from_uuid(id)))
        .ok_or_else(|| "must be a next_cursor of an earlier answer".to_owned())
}

/// A request's body, declared as JSON, whole, no larger than allowed and in time. Not parsed yet.
pub(crate) struct JsonBody(pub(crate) Bytes);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, mut body) = request.into_parts();
        declared_as_json(&parts.headers)?;
        let limit = app.config.body_limit;
        let declared = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) && parts.headers.contains_key(header::EXPECT)
        {
            // The client waits for our word before it sends, so there is nothing to read first.
            return Err(too_large(limit));
        }
        match tokio::time::timeout(app.config.body_timeout, read(&mut body, limit)).await {
            Ok(read) => read.map(Self),
            Err(_) => Err(Problem::new(
                ProblemKind::SlowBody,
                format!(
                    "The body did not arrive within {}.",
                    humantime::format_duration(app.config.body_timeout)
                ),
            )),
        }
    }
}

/// Reads up to `limit` bytes. Of a body that is larger, some more is read and thrown away: a client that has sent everything it had
/// reads the answer, while one whose connection is closed in the middle of sending gets an error instead.
async fn read(body: &mut Body, limit: usize) -> Result<Bytes, Problem> {
    let mut kept = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(ProblemKind::MalformedBody, "The body broke off."))?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            kept.extend_from_slice(&data);
        } else {
            kept = BytesMut::new();
            if seen > limit.saturating_mul(4) {
                break;
            }
        }
    }
    if seen > limit {
        Err(too_large(limit))
    } else {
        Ok(kept.freeze())
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        ProblemKind::BodyTooLarge,
        format!("The body is larger than {limit} bytes."),
    )
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: &'static str| Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return refuse("The body must not be compressed: leave Content-Encoding out.");
    }
    let Some(declared) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return refuse("The request must say Content-Type: application/json.");
    };
    let mut parts = declared.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let charset = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("charset"));
    if !json {
        refuse("The request must say Content-Type: application/json.")
    } else if charset.is_some_and(|(_, charset)| !charset.trim_matches('"').eq_ignore_ascii_case("utf-8")) {
        refuse("JSON is UTF-8: leave the charset out of Content-Type.")
    } else {
        Ok(())
    }
}
