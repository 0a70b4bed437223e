//! The one API key, until there are users with keys of their own.

use std::{fmt, str::FromStr};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{Problem, ProblemKind};

/// The header for clients that cannot set `Authorization`.
pub(crate) const HEADER: &str = "x-api-key";
const MIN_LENGTH: usize = 16;
const MAX_LENGTH: usize = 1024;

/// Routes that answer without a key: probes have none, and the pages are where a person enters
/// theirs. They show nothing of what is stored.
const OPEN: [&str; 7] =
    ["/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/", "/docs/{*file}"];

/// The static key of a deployment. Only digests of it are kept.
#[derive(Clone)]
pub struct ApiKey {
    digest: [u8; 32],
    lease_secret: [u8; 32],
}

/// A text that cannot be a key. It says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key is {MIN_LENGTH} to {MAX_LENGTH} visible ASCII characters without spaces")]
pub struct InvalidApiKey;

impl ApiKey {
    /// Takes a key.
    ///
    /// # Errors
    /// When it is shorter than 16 characters or could not travel in a header.
    pub fn new(text: &str) -> Result<Self, InvalidApiKey> {
        let is_key = (MIN_LENGTH..=MAX_LENGTH).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_key {
            return Err(InvalidApiKey);
        }
        let lease_secret =
            Sha256::new().chain_update(b"taskforge lease token\0").chain_update(text);
        Ok(Self {
            digest: Sha256::digest(text).into(),
            lease_secret: lease_secret.finalize().into(),
        })
    }

    /// Whether this is the key. Digests are compared, all of them in the same time, so neither a
    /// common beginning nor the length shows.
    fn is(&self, given: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        self.digest.ct_eq(&given).into()
    }

    /// Whether a request carries the key, in either header.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
        });
        let plain = headers.get_all(HEADER).iter().map(|value| value.as_bytes());
        bearer.chain(plain).any(|given| self.is(given))
    }

    /// What lease tokens are made with: the same in every process of the deployment, and no way
    /// back to the key.
    pub(crate) const fn lease_secret(&self) -> &[u8; 32] {
        &self.lease_secret
    }
}

impl FromStr for ApiKey {
    type Err = InvalidApiKey;
    fn from_str(text: &str) -> Result<Self, InvalidApiKey> {
        Self::new(text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Whether a route answers without a key.
pub(crate) fn is_open(route: &str) -> bool {
    OPEN.contains(&route)
}

/// The layer that asks for the key. It looks at the route that matched and not at the path, so
/// there is no second spelling of an open one.
pub(crate) async fn ask(State(key): State<ApiKey>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    if route.is_some_and(|route| is_open(route.as_str())) || key.is_in(request.headers()) {
        return next.run(request).await;
    }
    metrics::counter!("taskforge_http_unauthorized_total").increment(1);
    // The same for no key and for a wrong one.
    Problem::new(
        ProblemKind::Unauthorized,
        "Send the API key, as Authorization: Bearer KEY or as X-API-Key: KEY.",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_long_and_fits_a_header() {
        for bad in [
            "",
            "short",
            "123456789012345",
            "with a space 1234567",
            "ключ-ключ-ключ-ключ",
            "line\nbreak-1234567",
        ] {
            assert_eq!(ApiKey::new(bad).unwrap_err(), InvalidApiKey, "{bad}");
        }
        let key = ApiKey::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(…)");
    }

    #[test]
    fn it_is_found_in_either_header_and_nothing_else_passes() {
        let key = ApiKey::new("0123456789abcdef").unwrap();
        let carries = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            key.is_in(&headers)
        };
        for value in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef"] {
            assert!(carries("authorization", value), "{value}");
        }
        assert!(carries(HEADER, "0123456789abcdef"));
        for value in [
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcdeg",
        ] {
            assert!(!carries("authorization", value), "{value}");
        }
        for value in ["", "0123456789abcde", "0123456789abcdef0", "Bearer 0123456789abcdef"] {
            assert!(!carries(HEADER, value), "{value}");
        }
        assert!(!key.is_in(&HeaderMap::new()));
    }
}
