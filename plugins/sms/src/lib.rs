//! Task type `sms`: `{"to": "+491701234567", "text": "…"}` → what the gateway answered.
//!
//! The gateway is the operator's: `gateway_url` and, if messages are to have one, `sender` are its
//! configuration, `gateway_key` is a secret. It is sent `POST {"to", "from", "text", "reference"}`
//! with the key as a bearer token. The reference is the task's id, the same at every attempt, so
//! that a gateway which knows references sends a message once although a task may run twice.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taskforge_sdk::{Failure, OrFail, Task, config, http};

taskforge_sdk::handler!(sms, capabilities = &["http", "config"]);

/// An international number as E.164 writes it.
const NUMBER: &str = r"^\+[1-9][0-9]{6,14}$";

/// The longest answer of the gateway that is read, in bytes.
const ANSWER: usize = 64 << 10;

/// How much of an unkind answer becomes the failure's message, in characters.
const QUOTE: usize = 500;

/// By which a gateway says that it has had a message with this reference.
const CONFLICT: u16 = 409;

/// How long the gateway may take.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(20);

/// The message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The recipient's number, with `+` and the country code.
    #[schemars(regex(pattern = NUMBER), example = &"+4915112345678")]
    pub to: String,
    /// The text. Gateways cut long ones into parts and charge for each.
    #[schemars(length(min = 1, max = 1600))]
    pub text: String,
}

/// What the gateway answered.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Output {
    /// The gateway's name for the message, if it gave one.
    pub message_id: Option<String>,
    /// What it says has become of the message, such as `queued`; `accepted` if it says nothing, and
    /// `sent` if it answered 409: it knows the reference, so an earlier attempt reached it.
    pub status: String,
}

/// What the gateway is sent.
#[derive(Debug, Serialize)]
struct Message<'a> {
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    text: &'a str,
    reference: &'a str,
}

/// The handler.
///
/// # Errors
/// Permanent when the operator has not set a value, has not granted the gateway's host, or the
/// gateway refuses the message; retryable when the gateway cannot be reached or asks to try later.
pub async fn sms(input: Input, task: Task) -> Result<Output, Failure> {
    let url = config::require("gateway_url")?;
    // Secrets are often read from files, which end with a line break.
    let key = config::require("gateway_key")?.trim().to_owned();
    let message = Message {
        to: &input.to,
        from: config::get("sender").filter(|sender| !sender.is_empty()),
        text: &input.text,
        reference: &task.id,
    };
    let answer = http::post(url)
        .header("authorization", format!("Bearer {key}"))
        .header("accept", "application/json")
        .json(&message)
        .timeout(GATEWAY_TIMEOUT)
        .send()
        .await
        .context("asking the gateway")?;
    let (status, retry_after) = (answer.status(), answer.retry_after());
    let body = answer.read(ANSWER).await.context("reading the gateway's answer")?;
    judge(status, retry_after, &body.bytes, &key)
}

/// A gateway that took the message may still answer in a form of its own; sending it again for that
/// would be worse.
fn judge(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
    key: &str,
) -> Result<Output, Failure> {
    if (200..300).contains(&status) || status == CONFLICT {
        let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| match &said[name] {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let sent = status == CONFLICT;
        // The status of a conflict's answer is that of the request (RFC 9457), not the message's.
        let status = field("status").filter(|_| !sent);
        return Ok(Output {
            message_id: field("message_id").or_else(|| field("id")),
            status: status.unwrap_or_else(|| if sent { "sent" } else { "accepted" }.to_owned()),
        });
    }
    let message = format!("the gateway answered {status}{}", quote(body, key));
    Err(match (status, retry_after) {
        (408 | 425 | 429 | 500..=599, Some(delay)) => Failure::retry_after(delay, message),
        (408 | 425 | 429 | 500..=599, None) => Failure::retryable(message),
        (401 | 403, _) => Failure::permanent(format!("{message}; gateway_key may be wrong")),
        _ => Failure::permanent(message),
    })
}

/// The beginning of an answer. One that repeats the key is shown without it.
fn quote(body: &[u8], key: &str) -> String {
    let said = String::from_utf8_lossy(body).replace(key, "[gateway_key]");
    match said.trim() {
        "" => String::new(),
        said => format!(": {}", said.chars().take(QUOTE).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_answer_is_the_output_in_whatever_form() {
        for (body, id, status) in [
            (r#"{"message_id":"m-1","status":"queued"}"#, Some("m-1"), "queued"),
            (r#"{"id":17}"#, Some("17"), "accepted"),
            ("OK", None, "accepted"),
            ("", None, "accepted"),
        ] {
            let output = judge(202, None, body.as_bytes(), "k").unwrap();
            assert_eq!((output.message_id.as_deref(), output.status.as_str()), (id, status));
        }
    }

    #[test]
    fn the_status_says_whether_to_try_again_and_the_gateway_when() {
        for status in [408, 429, 500, 503] {
            let seven = Duration::from_secs(7);
            let failure = judge(status, Some(seven), b"busy", "k").unwrap_err();
            assert_eq!(failure.retry(), taskforge_sdk::Retry::After(seven));
            assert!(judge(status, None, b"", "k").unwrap_err().is_retryable());
        }
        for status in [302, 400, 401, 404, 422] {
            let seven = Some(Duration::from_secs(7));
            let failure = judge(status, seven, b"no such number", "k").unwrap_err();
            assert!(!failure.is_retryable() && failure.message().contains("no such number"));
        }
    }

    #[test]
    fn a_gateway_that_knows_the_reference_has_had_the_message() {
        for (body, id) in [
            (&br#"{"status":409,"title":"duplicate","id":"m-7"}"#[..], Some("m-7")),
            (b"duplicate", None),
        ] {
            let output = judge(409, None, body, "k").unwrap();
            assert_eq!((output.message_id.as_deref(), output.status.as_str()), (id, "sent"));
        }
    }

    #[test]
    fn an_answer_that_repeats_the_key_is_shown_without_it() {
        let failure = judge(401, None, b"unknown key s3cret", "s3cret").unwrap_err();
        assert!(!failure.message().contains("s3cret"), "{failure}");
    }

    #[test]
    fn the_schema_knows_a_number_and_the_length_of_a_text() {
        let schema = schemars::schema_for!(Input);
        let schema = schema.as_value();
        assert_eq!(schema["properties"]["to"]["pattern"], NUMBER);
        assert_eq!(schema["properties"]["text"]["maxLength"], 1600);
        assert_eq!(schema["properties"]["text"]["minLength"], 1);
    }
}
