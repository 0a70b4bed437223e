//! A WASI web server as `wstd` makes one. Its component exports `wasi:cli/run` as well, which only
//! says that it is none.

#[cfg(not(target_family = "wasm"))]
fn main() {}

#[cfg(target_family = "wasm")]
use wstd::http::{Body, Error, Request, Response};

/// Answers `{"status", "retry_after", "body"}` as it is told to, and anything else with what it was
/// asked.
#[cfg(target_family = "wasm")]
#[wstd::http_server]
async fn main(mut request: Request<Body>) -> Result<Response<Body>, Error> {
    use serde_json::{Value, json};

    let input: Value = serde_json::from_str(request.body_mut().str_contents().await?)?;
    let mut answer = Response::builder();
    if let Some(status) = input["status"].as_u64() {
        answer = answer.status(u16::try_from(status)?);
        if let Some(seconds) = input["retry_after"].as_u64() {
            answer = answer.header("retry-after", seconds);
        }
        let body = input["body"].as_str().unwrap_or_default().to_owned();
        return Ok(answer.body(body.into())?);
    }
    let headers: Value = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap_or_default())))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let echo = json!({
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
        "input": input,
    });
    Ok(answer.body(echo.to_string().into())?)
}
