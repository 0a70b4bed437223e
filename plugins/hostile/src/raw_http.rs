//! Requests in spellings that a polite client would not send. Built on the bindings, because every
//! client above them parses and normalises what the attack is about.

use serde_json::{Value, json};
use taskforge_sdk::{Failure, http};

use crate::attack::HttpGet;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    location: Option<String>,
    bytes: u64,
}

/// Sends the request and, if asked to, those that it redirects to.
///
/// # Errors
/// The host's refusal or the network's error, as the SDK classifies it.
pub fn get(request: &HttpGet) -> Result<Value, Failure> {
    let mut answer = None;
    for _ in 0..request.times {
        answer = Some(follow(request)?);
    }
    Ok(answer.unwrap_or(Value::Null))
}

fn follow(request: &HttpGet) -> Result<Value, Failure> {
    let mut url = request.url.clone();
    let mut hops = 0;
    loop {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let authority = request.authority.as_deref().filter(|_| hops == 0).unwrap_or(authority);
        let path = request.path.as_deref().filter(|_| hops == 0).unwrap_or(path);
        let answer = send(scheme, authority, path, &request.headers)?;
        match answer.location {
            Some(location)
                if request.follow && (300..400).contains(&answer.status) && hops < 10 =>
            {
                url = http::Url::parse(&url)
                    .and_then(|base| base.join(&location))
                    .map_or(location, String::from);
                hops += 1;
            }
            _ => {
                return Ok(
                    json!({ "status": answer.status, "url": url, "bytes": answer.bytes, "redirects": hops }),
                );
            }
        }
    }
}

/// Sends requests without waiting, and then waits for every answer.
///
/// # Errors
/// The host's refusal or the network's error.
#[cfg(target_family = "wasm")]
pub fn slow(url: &str, count: u32) -> Result<Value, Failure> {
    use wasip2::http::{
        outgoing_handler,
        types::{Fields, OutgoingBody, OutgoingRequest, Scheme},
    };

    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut waiting = Vec::new();
    for _ in 0..count {
        let request = OutgoingRequest::new(Fields::new());
        request.set_scheme(Some(&Scheme::Http)).ok();
        request.set_authority(Some(address)).ok();
        request.set_path_with_query(Some("/")).ok();
        let body = request.body().ok();
        waiting.push(outgoing_handler::handle(request, None).map_err(http::Error::from)?);
        if let Some(body) = body {
            OutgoingBody::finish(body, None).ok();
        }
    }
    for answer in &waiting {
        answer.subscribe().block();
        if let Some(Ok(answer)) = answer.get() {
            answer.map_err(http::Error::from)?;
        }
    }
    Ok(json!({ "answers": waiting.len() }))
}

/// Sends requests without waiting, and then waits for every answer.
///
/// # Errors
/// Always: there is nobody to ask.
#[cfg(not(target_family = "wasm"))]
pub fn slow(url: &str, _: u32) -> Result<Value, Failure> {
    send("http", url, "/", &[]).map(|_| Value::Null)
}

#[cfg(not(target_family = "wasm"))]
fn send(_: &str, authority: &str, _: &str, _: &[(String, String)]) -> Result<Answer, Failure> {
    Err(Failure::permanent(format!("there is no way to {authority} outside a TaskForge host")))
}

#[cfg(target_family = "wasm")]
fn send(
    scheme: &str,
    authority: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<Answer, Failure> {
    use wasip2::{
        http::{
            outgoing_handler,
            types::{Headers, OutgoingBody, OutgoingRequest, Scheme, http_error_code},
        },
        io::streams::StreamError,
    };

    let entries: Vec<_> =
        headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let headers = Headers::from_list(&entries)
        .map_err(|error| Failure::permanent(format!("headers: {error}")))?;
    let request = OutgoingRequest::new(headers);
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let refused =
        |what: &'static str| move |()| Failure::permanent(format!("the host refuses the {what}"));
    request.set_scheme(Some(&scheme)).map_err(refused("scheme"))?;
    request.set_authority(Some(authority)).map_err(refused("authority"))?;
    request.set_path_with_query(Some(path)).map_err(refused("path"))?;
    let body = request.body().map_err(refused("body"))?;
    let future = outgoing_handler::handle(request, None).map_err(http::Error::from)?;
    OutgoingBody::finish(body, None).map_err(http::Error::from)?;

    future.subscribe().block();
    let response = match future.get() {
        Some(Ok(response)) => response.map_err(http::Error::from)?,
        _ => return Err(Failure::permanent("the host lost the response")),
    };
    let status = response.status();
    let location = response.headers().get("location").into_iter().next();
    let body = response.consume().map_err(refused("reading"))?;
    let stream = body.stream().map_err(refused("reading"))?;
    let mut bytes = 0;
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(chunk) => bytes += chunk.len() as u64,
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => http::Error::from(code).into(),
                    None => Failure::retryable(error.to_debug_string()),
                });
            }
        }
    }
    let location = location.map(|value| String::from_utf8_lossy(&value).into_owned());
    Ok(Answer { status, location, bytes })
}
