//! What handlers take out of a request, each with an error that names what is wrong.

use std::{convert::Infallible, str::FromStr, time::Duration};

use axum::extract::{FromRequestParts, Path, Query, rejection::PathRejection};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::request::Parts;
use taskforge_domain::{
    SecretName, TaskId, TaskState, TaskType, TenantId, Timestamp, VersionNumber, is_hidden,
};
use taskforge_store::{Cursor, TaskFilter};

use crate::{Problem, ProblemKind, json::shorten};

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

/// The `{name}` and the `{version}` of the path.
pub(crate) struct VersionPath(pub(crate) TaskType, pub(crate) VersionNumber);

impl<S: Send + Sync> FromRequestParts<S> for VersionPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (name, version) = pair(parts, state, "version").await?;
        Ok(Self(name, version))
    }
}

/// The `{name}` and the `{key}` of the path.
pub(crate) struct SecretPath(pub(crate) TaskType, pub(crate) SecretName);

impl<S: Send + Sync> FromRequestParts<S> for SecretPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (name, key) = pair(parts, state, "key").await?;
        Ok(Self(name, key))
    }
}

/// Who asks, for the record of what happened to a plugin: what the header `x-operator` says, which nobody checks.
pub(crate) struct By(pub(crate) String);

/// Characters of an operator's name.
const MAX_OPERATOR: usize = 100;

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(said) = parts.headers.get("x-operator") else {
            return Ok(Self("api".to_owned()));
        };
        let said = std::str::from_utf8(said.as_bytes()).map(str::trim).ok();
        let is_name = |name: &&str| name.chars().count() <= MAX_OPERATOR && !name.contains(is_hidden);
        let name = said.filter(is_name).ok_or_else(|| {
            let rule = format!(
                "must be at most {MAX_OPERATOR} characters of UTF-8, none of them a control character"
            );
            Problem::parameter("x-operator", rule)
        })?;
        Ok(Self(if name.is_empty() { "api" } else { name }.to_owned()))
    }
}

async fn path<T, S>(parts: &mut Parts, state: &S, name: &str) -> Result<T, Problem>
where
    T: FromStr<Err: ToString>,
    S: Send + Sync,
{
    let text = Path::<String>::from_request_parts(parts, state).await;
    segment(&text.map_err(|rejection| not_unicode(&rejection, name))?.0, name)
}

/// The `{name}` of the path and what follows it.
async fn pair<T, S>(parts: &mut Parts, state: &S, second: &str) -> Result<(TaskType, T), Problem>
where
    T: FromStr<Err: ToString>,
    S: Send + Sync,
{
    let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
    let Path((name, text)) = texts.map_err(|rejection| not_unicode(&rejection, second))?;
    Ok((segment(&name, "name")?, segment(&text, second)?))
}

fn segment<T: FromStr<Err: ToString>>(text: &str, name: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
}

fn not_unicode(rejection: &PathRejection, name: &str) -> Problem {
    match rejection {
        PathRejection::FailedToDeserializePathParams(_) => Problem::parameter(name, "is not UTF-8"),
        _ => Problem::internal(),
    }
}

/// The parameters of the query, of which handlers take those that they know; the rest is refused.
#[derive(Default)]
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

/// The ids that begin with some hexadecimal digits. Lists are in the order of ids, so these are neighbours.
pub(crate) struct IdPrefix {
    pub(crate) first: TaskId,
    last: TaskId,
}

impl IdPrefix {
    /// Reads the digits, between which dashes count for nothing.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let digits = text.replace('-', "");
        let is_prefix =
            (1..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let filled =
            |with: &str| uuid::Uuid::try_parse(&format!("{digits}{}", with.repeat(32 - digits.len())));
        match is_prefix
            .then(|| filled("0").ok().zip(filled("f").ok()))
            .flatten()
        {
            Some((first, last)) => Ok(Self {
                first: TaskId::from_uuid(first),
                last: TaskId::from_uuid(last),
            }),
            None => Err("must be the beginning of an id: 1 to 32 hexadecimal digits".to_owned()),
        }
    }

    /// Where a list of them goes on.
    pub(crate) fn begin(&self, after: Option<Cursor>) -> Option<Cursor> {
        let above = self.last.as_uuid().as_u128().checked_add(1);
        let above = above.map(|above| TaskId::from_uuid(uuid::Uuid::from_u128(above)));
        let after = after.map(|Cursor(id)| id);
        above.into_iter().chain(after).min().map(Cursor)
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
