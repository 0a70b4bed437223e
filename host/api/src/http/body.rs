//! Bodies of requests: whole, no larger than allowed, in time, and declared as what they are.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, OptionalFromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::{ApiConfig, Problem, ProblemKind, http::fields::Object, state::App};

/// A request's body, declared as JSON, whole, no larger than allowed and in time. Not parsed yet.
pub(crate) struct JsonBody(pub(crate) Bytes);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        declared_as_json(&parts.headers)?;
        let pace = Pace::new(&app.config, app.config.body_timeout);
        let incoming = Incoming::new(&parts.headers, body, app.config.body_limit, pace)?;
        incoming.whole().await.map(Self)
    }
}

/// A body that is one object, read whole.
pub(crate) struct JsonObject<T>(pub(crate) T);

impl<T: for<'t> Object<'t>> FromRequest<App> for JsonObject<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let JsonBody(body) = JsonBody::from_request(request, app).await?;
        T::from_body(&body).map(Self)
    }
}

/// The same, or nothing at all.
impl<T: for<'t> Object<'t>> OptionalFromRequest<App> for JsonObject<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Option<Self>, Problem> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        let object = <Self as FromRequest<App>>::from_request(request, app).await?;
        Ok(Some(object))
    }
}

/// How fast a body must come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// For the whole of it.
    time: Duration,
    grace: Duration,
    rate: u32,
}

impl Pace {
    pub(crate) fn new(config: &ApiConfig, time: Duration) -> Self {
        Self { time, grace: config.body_grace, rate: config.body_rate.max(1) }
    }

    /// When more must have come, after so many bytes.
    fn due(&self, bytes: usize) -> Duration {
        let seconds = bytes as u64 / u64::from(self.rate);
        self.time.min(self.grace + Duration::from_secs(seconds))
    }
}

/// A body as it comes: no larger than allowed, and in time. Of one that is refused the rest is
/// left: the connection ends after the answer (`socket`).
pub(crate) struct Incoming {
    body: Body,
    limit: usize,
    pace: Pace,
    began: Instant,
    bytes: usize,
}

impl Incoming {
    pub(crate) fn new(
        headers: &HeaderMap,
        body: Body,
        limit: usize,
        pace: Pace,
    ) -> Result<Self, Problem> {
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        Ok(Self { body, limit, pace, began: Instant::now(), bytes: 0 })
    }

    /// The next piece of it, until there is none.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let due = self.began + self.pace.due(self.bytes);
            let Ok(frame) = tokio::time::timeout_at(due, self.body.frame()).await else {
                return Err(slow(self.began.elapsed()));
            };
            let Some(frame) = frame else { return Ok(None) };
            let broken = |_| Problem::new(ProblemKind::MalformedBody, "The body broke off.");
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            self.bytes += data.len();
            if self.bytes > self.limit {
                return Err(too_large(self.limit));
            }
            return Ok(Some(data));
        }
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Bytes, Problem> {
        let mut kept = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            kept.extend_from_slice(&piece);
        }
        Ok(kept.freeze())
    }
}

fn slow(after: Duration) -> Problem {
    let seconds = after.as_secs_f64();
    let detail =
        format!("The body came too slowly: after {seconds:.1} s there was not enough of it.");
    Problem::new(ProblemKind::SlowBody, detail)
}

fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemKind::BodyTooLarge, format!("The body is larger than {limit} bytes."))
}

pub(crate) fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "The body must not be compressed: leave Content-Encoding out.";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    Ok(())
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse =
        |detail: &'static str| Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    plain(headers)?;
    let Some(declared) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    else {
        return refuse("The request must say Content-Type: application/json.");
    };
    let mut parts = declared.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    let charset = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("charset"));
    if !json {
        refuse("The request must say Content-Type: application/json.")
    } else if charset
        .is_some_and(|(_, charset)| !charset.trim_matches('"').eq_ignore_ascii_case("utf-8"))
    {
        refuse("JSON is UTF-8: leave the charset out of Content-Type.")
    } else {
        Ok(())
    }
}
