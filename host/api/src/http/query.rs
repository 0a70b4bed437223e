//! The query of a request: each parameter is read on its own, and an error names the one that is
//! wrong.

use std::{str::FromStr, time::Duration};

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use taskforge_domain::Timestamp;

use crate::{Problem, ProblemKind, http::json::shorten};

/// The longest that a client may ask to wait for a task.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The parameters of the query, of which handlers take those that they know; the rest is refused.
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) =
            Query::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(
                |_| Problem::new(ProblemKind::InvalidParameter, "The query string cannot be read."),
            )?;
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
        read(&value).map(Some).map_err(|detail| Problem::parameter(name, shorten(&detail, 300)))
    }

    /// Takes a parameter that may be given several times, each time with several values between
    /// commas.
    pub(crate) fn many<T: FromStr<Err: ToString>>(
        &mut self,
        name: &str,
    ) -> Result<Vec<T>, Problem> {
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

/// A query without parameters.
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = Params::from_request_parts(parts, state).await?;
        params.end("none").map(|()| Self)
    }
}

/// Reads a whole number in a range.
pub(crate) fn number(min: u32, max: u32) -> impl FnOnce(&str) -> Result<u32, String> {
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
    }
}

/// Reads a time.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "must be a time in RFC 3339, such as 2026-01-31T08:00:00Z (write + as %2B)".to_owned()
    })
}

/// Reads a duration: text for people, or a number of seconds.
pub(crate) fn duration(max: Duration) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| {
        let seconds =
            text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let given = seconds.or_else(|| humantime::parse_duration(text).ok());
        let given =
            given.ok_or("must be a duration such as 500ms, 10s or 1m, or a number of seconds")?;
        if given > max {
            Err(format!("must be at most {}", humantime::format_duration(max)))
        } else {
            Ok(given)
        }
    }
}
