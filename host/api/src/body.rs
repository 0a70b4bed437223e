//! Bodies of requests: whole, no larger than allowed, in time, and declared as what they are.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::{Problem, ProblemKind, extract::Params, state::App};

/// A request's body, declared as JSON, whole, no larger than allowed and in time. Not parsed yet.
pub(crate) struct JsonBody(pub(crate) Bytes);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, mut body) = request.into_parts();
        declared_as_json(&parts.headers)?;
        let (limit, time) = (app.config.body_limit, app.config.body_timeout);
        whole(&parts.headers, &mut body, limit, time).await.map(Self)
    }
}

/// [`JsonBody`], or nothing at all.
pub(crate) struct MaybeJsonBody(pub(crate) Option<Bytes>);

impl FromRequest<App> for MaybeJsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self(None));
        }
        let JsonBody(body) = JsonBody::from_request(request, app).await?;
        Ok(Self(Some(body)))
    }
}

/// A component as the request's body, whole, no larger than allowed and in time. Nothing else is known of it. While it is held, others wait.
pub(crate) struct ComponentBody {
    pub(crate) bytes: Bytes,
    pub(crate) parameters: Params,
    pub(crate) turn: OwnedSemaphorePermit,
}

impl FromRequest<App> for ComponentBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, mut body) = request.into_parts();
        let parameters = Params::from_request_parts(&mut parts, app).await?;
        plain(&parts.headers)?;
        let declared = parts.headers.get(header::CONTENT_TYPE);
        if declared.is_none_or(|declared| !declared.as_bytes().eq_ignore_ascii_case(b"application/wasm")) {
            let detail = "The request must say Content-Type: application/wasm.";
            return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        // Never closed.
        let turn = Arc::clone(&app.pushes).acquire_owned().await;
        let turn = turn.map_err(|_| Problem::internal())?;
        let (limit, time) = (app.config.component_limit, app.config.component_timeout);
        let bytes = whole(&parts.headers, &mut body, limit, time).await?;
        Ok(Self {
            bytes,
            parameters,
            turn,
        })
    }
}

/// Reads a body whole, if it is no larger than allowed and comes in time.
async fn whole(headers: &HeaderMap, body: &mut Body, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (waits, limit_u64) = (headers.contains_key(header::EXPECT), limit as u64);
    if declared
        .is_some_and(|length| length > limit_u64 && waits || length > limit_u64.saturating_mul(OVERFLOW))
    {
        // The client waits for our word before it sends, so there is nothing to read first; or would send more than anybody wants to read.
        return Err(too_large(limit));
    }
    match tokio::time::timeout(time, read(body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            ProblemKind::SlowBody,
            format!(
                "The body did not arrive within {}.",
                humantime::format_duration(time)
            ),
        )),
    }
}

/// How many times its limit of a body that is too large is read and thrown away.
const OVERFLOW: u64 = 4;

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
            if seen as u64 > (limit as u64).saturating_mul(OVERFLOW) {
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

fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "The body must not be compressed: leave Content-Encoding out.";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    Ok(())
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: &'static str| Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    plain(headers)?;
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
