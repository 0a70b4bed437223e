//! What the path and the headers of a request name, each with an error that says what is wrong.

use std::{convert::Infallible, str::FromStr};

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use taskforge_domain::{TenantId, is_hidden};

use crate::Problem;

/// Whose request this is. Until tenants come it is the default tenant, unless a layer has put
/// another into the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Tenant(pub TenantId);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// The parameter of a path that has one.
pub(crate) struct PathParam<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr<Err: ToString>> FromRequestParts<S> for PathParam<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = raw(parts, state).await?;
        Ok(Self(read(&mut params.iter())?))
    }
}

/// The parameters of a path that has two.
pub(crate) struct PathParams<A, B>(pub(crate) A, pub(crate) B);

impl<S, A, B> FromRequestParts<S> for PathParams<A, B>
where
    S: Send + Sync,
    A: FromStr<Err: ToString>,
    B: FromStr<Err: ToString>,
{
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = raw(parts, state).await?;
        let mut params = params.iter();
        Ok(Self(read(&mut params)?, read(&mut params)?))
    }
}

async fn raw<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    // `target` has checked that they are UTF-8; and a route has the parameters that its handler
    // takes.
    let params = RawPathParams::from_request_parts(parts, state).await;
    params.map_err(|_| Problem::internal())
}

/// Reads the next parameter. The route gives it its name.
fn read<'p, T: FromStr<Err: ToString>>(
    params: &mut impl Iterator<Item = (&'p str, &'p str)>,
) -> Result<T, Problem> {
    let (name, text) = params.next().ok_or_else(Problem::internal)?;
    text.parse().map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
}

/// Who asks, for the record of what happened to a plugin: what the header `x-operator` says, which
/// nobody checks.
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
        let is_name =
            |name: &&str| name.chars().count() <= MAX_OPERATOR && !name.contains(is_hidden);
        let name = said.filter(is_name).ok_or_else(|| {
            let rule = format!(
                "must be at most {MAX_OPERATOR} characters of UTF-8, none of them a control \
                 character"
            );
            Problem::parameter("x-operator", rule)
        })?;
        Ok(Self(if name.is_empty() { "api" } else { name }.to_owned()))
    }
}
