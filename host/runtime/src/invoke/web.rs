//! Calls a WASI web server: the task is a `POST /`, and the answer is its output or failure.

use std::{
    fmt::Write,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use taskforge_domain::{Failure, FailureKind, Shape};
use tokio::{sync::oneshot, task::unconstrained};
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiBody,
    p2::bindings::{
        ProxyPre,
        http::types::{ErrorCode, Scheme},
    },
};

use super::text;
use crate::{
    budget::{Budget, Charge},
    contract::handler,
    ending::{self, Unanswered},
    host::HostState,
};

/// The authority of the request. It is never resolved; libraries expect one.
const AUTHORITY: &str = "taskforge";

type Sent = Result<Response<WasiBody>, ErrorCode>;

/// Instantiates the server, sends it the task and waits until its function returns, which may be
/// after the answer has ended.
pub(super) async fn call(
    code: &ProxyPre<HostState>,
    store: &mut Store<HostState>,
    task: handler::Task<'_>,
) -> wasmtime::Result<Result<String, Failure>> {
    let (sender, receiver) = oneshot::channel();
    let budget = store.data().budget.clone();
    let request = request(&task, &budget)?;
    let (request, out) = {
        let mut http = store.data_mut().uncounted_http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        (request, http.new_response_outparam(sender)?)
    };
    let limit = store.data().output_limit();
    let server = code.instantiate_async(&mut *store).await?;
    let answered = {
        let mut call =
            pin!(server.wasi_http_incoming_handler().call_handle(&mut *store, request, out));
        // `unconstrained`: once the function has returned, all that will ever come is there, and is
        // read in one poll.
        let mut answer = pin!(unconstrained(read(receiver, limit, &budget)));
        let mut answered = None;
        poll_fn(|context: &mut Context<'_>| {
            let returned = call.as_mut().poll(context);
            // The guest writes into a channel of a few parts, which must be read while it writes.
            if answered.is_none()
                && let Poll::Ready(answer) = answer.as_mut().poll(context)
            {
                answered = Some(answer);
            }
            match &answered {
                Some(Ok(Err(Failed::Said(failure))))
                    if matches!(
                        failure.kind,
                        FailureKind::OutputTooLarge | FailureKind::OutOfMemory
                    ) =>
                {
                    Poll::Ready(Ok(()))
                }
                _ => returned,
            }
        })
        .await?;
        answered
    };
    match answered {
        Some(Ok(answer)) => Ok(answer.map_err(|failure| in_its_words(failure, store.data()))),
        Some(Err(unanswered)) => Err(unanswered.into()),
        None => Err(unanswered("returned and left its answer without an end").into()),
    }
}

/// A failure with the answer's message, or else with what the guest wrote to standard error.
fn in_its_words(failure: Failed, state: &HostState) -> Failure {
    match failure {
        Failed::Said(failure) => failure,
        Failed::Silent(failure) => {
            Failure { message: ending::said(state).unwrap_or(failure.message), ..failure }
        }
    }
}

fn request(task: &handler::Task<'_>, budget: &Budget) -> wasmtime::Result<Request<Full<Bytes>>> {
    let body = Full::new(budget.bytes("the input", task.input.as_bytes().to_vec())?);
    Ok(Request::post(format!("http://{AUTHORITY}/"))
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, task.input.len())
        .header("taskforge-task-id", task.id)
        .header("taskforge-attempt", task.attempt)
        .header("taskforge-max-attempts", task.max_attempts)
        .header("taskforge-deadline", task.deadline)
        .body(body)?)
}

/// Text, cut to what a message shows. An error of the interface may have a text of megabytes, each
/// byte of which becomes several.
struct Shown(String);

impl Write for Shown {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = (ending::MESSAGE + 1).saturating_sub(self.0.len());
        self.0.push_str(crate::log::cut(text, room));
        if text.len() <= room { Ok(()) } else { Err(std::fmt::Error) }
    }
}

/// A failure that an answer tells.
#[derive(Debug)]
enum Failed {
    /// In the answer's own words.
    Said(Failure),
    /// By its status only.
    Silent(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

type Answer = Result<Result<String, Failed>, Unanswered>;

/// Reads the answer to its end, and keeps at most `limit` bytes of it.
async fn read(sent: oneshot::Receiver<Sent>, limit: u64, budget: &Budget) -> Answer {
    let response = match sent.await {
        Ok(Ok(response)) => response,
        Ok(Err(code)) => {
            let mut shown = Shown(String::new());
            // Fails when the text is longer than is shown.
            write!(shown, "the handler answered with an error: {code}").ok();
            let why = ending::message(&shown.0);
            return Ok(Err(Failure::new(FailureKind::Retryable, why).into()));
        }
        Err(_) => return Err(unanswered("returned without an answer")),
    };
    let (head, mut body) = response.into_parts();
    let success = head.status.is_success();
    let room = if success { limit } else { ending::MESSAGE as u64 };
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let (mut bytes, mut charge) = (Vec::new(), Charge::empty(budget));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unanswered(&format!("broke off its answer: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        let fits = data.len().min(room - bytes.len());
        if let Err(over) = charge.buffer("the output", &mut bytes, fits) {
            return Ok(Err(Failure::new(FailureKind::OutOfMemory, over.to_string()).into()));
        }
        bytes.extend_from_slice(&data[..fits]);
        if success && fits < data.len() {
            return Ok(Err(ending::output_too_large(limit).into()));
        }
    }
    if success {
        return Ok(text(bytes, Shape::Http).map_err(Failed::Said));
    }
    let after = head.headers.get(RETRY_AFTER).and_then(|value| wait(value.to_str().ok()?.trim()));
    Ok(Err(failure(head.status, after, &bytes)))
}

/// The wait that `Retry-After` names: seconds, or a date, which may have passed (RFC 9110, 10.2.3).
/// The SDK reads the header by the same rule.
fn wait(value: &str) -> Option<Duration> {
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let ahead = date(value)?.duration_since(Timestamp::now());
    Some(Duration::try_from(ahead).unwrap_or_default())
}

/// The three forms of a date (RFC 9110, 5.6.7) and near forms: a day of one digit, a month's whole
/// name, another name of the zone, which is always GMT.
fn date(value: &str) -> Option<Timestamp> {
    const FORMS: [&str; 4] = ["%d %b %Y %T", "%d %B %Y %T", "%d-%b-%y %T", "%b %d %T %Y"];
    let zoned = ["GMT", "UTC"].iter().find_map(|zone| value.strip_suffix(zone));
    let text = zoned.unwrap_or(value).trim();
    // The day of the week is redundant.
    let text = match text.split_once([',', ' ']) {
        Some((day, rest)) if is_day_of_week(day) => rest.trim(),
        _ => text,
    };
    let times = FORMS.iter().map(|form| DateTime::strptime(form, text));
    let time = times.filter_map(Result::ok).next()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn is_day_of_week(word: &str) -> bool {
    let start = word.get(..3).unwrap_or_default().to_ascii_lowercase();
    ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].contains(&start.as_str())
}

fn failure(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Failed {
    let passing = matches!(status.as_u16(), 408 | 425 | 429 | 500..=599);
    let kind = if passing { FailureKind::Retryable } else { FailureKind::Permanent };
    let retry_after = retry_after.filter(|_| passing);
    let failure = |message| Failure { kind, message, retry_after };
    let body = String::from_utf8_lossy(body);
    match body.trim() {
        "" => Failed::Silent(failure(format!("the handler answered with status {status}"))),
        said => Failed::Said(failure(ending::message(said))),
    }
}

fn unanswered(what: &str) -> Unanswered {
    Unanswered(ending::message(&format!("the handler {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_the_time_until_a_date() {
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(wait(value), seconds.map(Duration::from_secs), "{value}");
        }
        // `date -u -d '1994-11-06 08:49:37' +%s`
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 6 November 1994 8:49:37 UTC",
        ] {
            assert_eq!(date(text).map(Timestamp::as_second), Some(784_111_777), "{text}");
            assert_eq!(wait(text), Some(Duration::ZERO));
        }
        let ahead = wait("Sun, 6 Nov 2133 08:49:37 UTC").unwrap();
        assert!(ahead > Duration::from_secs(365 * 86_400), "{ahead:?}");
        for text in ["Sun, 06 Nov 1994", "08:49:37", "32 Nov 1994 08:49:37", "tomorrow"] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn a_status_says_whether_another_attempt_may_help() {
        let minute = Some(Duration::from_secs(60));
        for (status, kind, after) in [
            (400, FailureKind::Permanent, None),
            (404, FailureKind::Permanent, None),
            (302, FailureKind::Permanent, None),
            (408, FailureKind::Retryable, minute),
            (429, FailureKind::Retryable, minute),
            (500, FailureKind::Retryable, minute),
            (503, FailureKind::Retryable, minute),
        ] {
            let failure = failure(StatusCode::from_u16(status).unwrap(), minute, b" no \n");
            let Failed::Said(failure) = failure else { panic!("{failure:?}") };
            assert_eq!((failure.kind, failure.retry_after), (kind, after), "{status}");
            assert_eq!(failure.message, "no");
        }
        let Failed::Silent(silent) = failure(StatusCode::NOT_FOUND, None, b"") else {
            panic!("it has no words")
        };
        assert_eq!(silent.message, "the handler answered with status 404 Not Found");
    }
}
