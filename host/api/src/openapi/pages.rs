//! The pages: Swagger UI from files in the binary, and the way to it.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, header};
use utoipa_swagger_ui::Config;

use crate::{Problem, ProblemKind};

/// Scripts and fetches from here only. Swagger UI sets style attributes and draws its icons from
/// `data:` URIs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The script that starts Swagger UI.
const START: &str = "swagger-initializer.js";
/// Follows it: a key that the address brings behind its `#`, which browsers send to nobody, is
/// entered, and taken out of the address and so of the history.
const ENTER_KEY: &str = r#"
(() => {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  history.replaceState(null, "", location.pathname);
  const start = window.onload;
  window.onload = () => {
    start();
    window.ui.getConfigs().onComplete = () => window.ui.preauthorizeApiKey("bearer", key);
  };
})();
"#;

/// `/`, `/docs` and what is below it.
pub(crate) fn pages<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // The validator badge would send the address of this server's document to a public site.
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .display_request_duration(true);
    let config = Arc::new(config);
    let index = Arc::clone(&config);
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(|| async move { page("", index) }))
        .route("/docs/{*file}", get(|Path(file): Path<String>| async move { page(&file, config) }))
}

fn page(file: &str, config: Arc<Config<'static>>) -> Response {
    let page = match utoipa_swagger_ui::serve(file, config) {
        Ok(Some(page)) => page,
        Ok(None) => {
            return Problem::new(ProblemKind::NoRoute, "There is no such page under /docs/.")
                .into_response();
        }
        Err(error) => {
            tracing::error!(%error, "a page of the documentation could not be made");
            return Problem::internal().into_response();
        }
    };
    let content_type = HeaderValue::from_str(&page.content_type);
    let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
        (
            header::CONTENT_TYPE,
            content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
        ),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        // The files change with the binary only, but their names do not.
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=300")),
    ];
    if page.gzpipped {
        headers.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
    }
    let mut bytes = page.bytes.into_owned();
    if file == START {
        bytes.extend_from_slice(ENTER_KEY.as_bytes());
    }
    let mut response = bytes.into_response();
    response.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
    response
}
