//! Task type `email`: `{"to", "subject", "text"|"html", …}` → a receipt, through the host's mailer.
//!
//! A recipient whom the mail server refuses takes nothing from the others: the receipt names both.
//! What is wrong with the message, and a refusal for good by the mail server, are permanent
//! failures; a server that cannot be reached or asks to try later is a retryable one. At-least-once
//! execution means that a message can be sent twice when a worker dies between the mailer's receipt
//! and the commit of the result.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taskforge_sdk::{Failure, mail};

taskforge_sdk::handler!(email, capabilities = &["mail"]);

/// One line: no control characters, so no line break and no second header. The host refuses them
/// too.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f]*$";

/// The message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["text"]}, {"required": ["html"]}]))]
pub struct Input {
    /// Recipients: an address, or a list of them, each as `user@example.com` or `Name
    /// <user@example.com>`.
    #[schemars(schema_with = "required_addresses")]
    pub to: Addresses,
    /// Recipients of a copy.
    #[serde(default)]
    #[schemars(schema_with = "more_addresses")]
    pub cc: Addresses,
    /// Recipients whom the message does not name.
    #[serde(default)]
    #[schemars(schema_with = "more_addresses")]
    pub bcc: Addresses,
    /// Sender; without it, the host's configured one.
    #[serde(default)]
    #[schemars(schema_with = "optional_address")]
    pub from: Option<String>,
    /// Where answers are to go: an address, or a list of them.
    #[serde(default)]
    #[schemars(schema_with = "answer_addresses")]
    pub reply_to: Option<Addresses>,
    /// One line.
    #[schemars(length(max = 998), regex(pattern = ONE_LINE))]
    pub subject: String,
    /// Plain text body. At least one of `text` and `html`; with both, mail programs choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "body")]
    pub text: Option<String>,
    /// HTML body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "body")]
    pub html: Option<String>,
    /// Further headers, such as `List-Unsubscribe` and `List-Unsubscribe-Post`. Those that the
    /// other fields become, and those that the host writes, are refused.
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// Files that go with it.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub attachments: Vec<Attachment>,
}

/// A file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// What it is called.
    #[schemars(length(min = 1, max = 255), regex(pattern = ONE_LINE))]
    pub name: String,
    /// Media type.
    #[serde(default = "Attachment::default_content_type")]
    #[schemars(regex(
        pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(;[ -~]*)?$"
    ))]
    pub content_type: String,
    /// Its bytes in base64 (RFC 4648, 4); line breaks are allowed.
    #[schemars(extend("contentEncoding" = "base64"), regex(pattern = r"^[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*$"))]
    pub content: String,
    /// Set: the HTML body shows the file, as `cid:` and this.
    #[serde(default)]
    #[schemars(schema_with = "content_id")]
    pub content_id: Option<String>,
}

impl Attachment {
    fn default_content_type() -> String {
        "application/octet-stream".to_owned()
    }

    fn decoded(self) -> Result<mail::Attachment, Failure> {
        let text: String = self.content.split_ascii_whitespace().collect();
        let content = STANDARD.decode(text).map_err(|error| {
            Failure::permanent(format!("attachments: {:?} is not base64: {error}", self.name))
        })?;
        Ok(mail::Attachment {
            name: self.name,
            content_type: self.content_type,
            content,
            content_id: self.content_id,
        })
    }
}

/// One address or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl From<Addresses> for Vec<String> {
    fn from(addresses: Addresses) -> Self {
        match addresses {
            Addresses::One(address) => vec![address],
            Addresses::Many(addresses) => addresses,
        }
    }
}

/// Proof that the mailer took the message, which is not yet that it arrived.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Output {
    /// The `Message-ID` header.
    pub message_id: String,
    /// The addresses that the mailer accepted the message for; at least one.
    pub accepted: Vec<String>,
    /// The recipients whom the mail server refused while it took others.
    pub refused: Vec<Refused>,
}

/// A recipient whom the mail server did not take.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Refused {
    /// The address.
    pub address: String,
    /// The server's reply code: 4yz for now, 5yz for good.
    pub code: u16,
    /// What it said.
    pub message: String,
}

/// The handler.
///
/// # Errors
/// See the crate's documentation.
pub fn email(input: Input) -> Result<Output, Failure> {
    let receipt = mail::send(&message(input)?)?;
    Ok(Output {
        message_id: receipt.message_id,
        accepted: receipt.accepted,
        refused: receipt
            .refused
            .into_iter()
            .map(|refusal| Refused {
                address: refusal.address,
                code: refusal.code,
                message: refusal.message,
            })
            .collect(),
    })
}

/// The schema says all this already; a handler may be run without it.
fn message(input: Input) -> Result<mail::Message, Failure> {
    let message = mail::Message {
        from: input.from,
        to: input.to.into(),
        cc: input.cc.into(),
        bcc: input.bcc.into(),
        reply_to: input.reply_to.map(Vec::from).unwrap_or_default(),
        subject: input.subject,
        headers: input.headers.into_iter().collect(),
        text: input.text,
        html: input.html,
        attachments: input
            .attachments
            .into_iter()
            .map(Attachment::decoded)
            .collect::<Result<_, _>>()?,
    };
    if message.to.is_empty() {
        return Err(Failure::permanent("to: there is no recipient"));
    }
    if message.text.is_none() && message.html.is_none() {
        return Err(Failure::permanent("text or html: there is no body"));
    }
    let lists = [
        ("to", &message.to),
        ("cc", &message.cc),
        ("bcc", &message.bcc),
        ("reply_to", &message.reply_to),
    ];
    let listed = lists.iter().flat_map(|(name, list)| list.iter().map(move |text| (*name, text)));
    let from = message.from.iter().map(|text| ("from", text));
    let headers = message.headers.iter().map(|(_, value)| ("headers", value));
    for (field, text) in listed.chain(from).chain(headers).chain([("subject", &message.subject)]) {
        if text.chars().any(char::is_control) {
            return Err(Failure::permanent(format!(
                "{field}: line breaks and other control characters are refused"
            )));
        }
    }
    Ok(message)
}

/// JSON Schemas that `derive` cannot make.
mod schema {
    use schemars::{Schema, SchemaGenerator, json_schema};

    use super::ONE_LINE;

    /// `user@example.com` or `Name <user@example.com>`. JSON Schema's own format `email` knows no
    /// names, and is no more than a remark to most validators; a pattern is checked by all.
    pub(super) fn pattern() -> String {
        let quoted = r#""(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*""#;
        let atom = r#"[^\x00-\x20"(),.:;<>@\[\\\]\x7f]+"#;
        let dotted = format!(r"{atom}(?:\.{atom})*");
        let literal = r"\[[0-9A-Fa-fIPVipv:.]+\]";
        let address = format!("(?:{dotted}|{quoted})@(?:{dotted}|{literal})");
        let name = format!(r#"(?:{quoted}|[^"<>@,;\x00-\x1f\x7f]*)"#);
        format!("^ *(?:{name} *<{address}>|{address}) *$")
    }

    fn address() -> Schema {
        json_schema!({
            "type": "string", "minLength": 3, "maxLength": 998, "pattern": pattern(),
            "examples": ["user@example.com", "Name <user@example.com>"],
        })
    }

    pub(super) fn answer_addresses(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                address(),
                { "type": "array", "items": address(), "maxItems": 20 },
                { "type": "null" },
            ]
        })
    }

    pub(super) fn headers(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 50,
            "propertyNames": { "pattern": "^[!-9;-~]{1,76}$" },
            "additionalProperties": { "type": "string", "maxLength": 8192, "pattern": ONE_LINE },
        })
    }

    pub(super) fn content_id(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "null"], "pattern": "^[A-Za-z0-9._@+-]{1,200}$" })
    }

    fn addresses(least: u32) -> Schema {
        json_schema!({
            "anyOf": [
                address(),
                { "type": "array", "items": address(), "minItems": least, "maxItems": 100 },
            ]
        })
    }

    pub(super) fn required_addresses(_: &mut SchemaGenerator) -> Schema {
        addresses(1)
    }

    pub(super) fn more_addresses(_: &mut SchemaGenerator) -> Schema {
        addresses(0)
    }

    pub(super) fn optional_address(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [address(), { "type": "null" }] })
    }

    /// A string, and not null: the input must have one of the two bodies, and a null is none.
    pub(super) fn body(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
use schema::{
    answer_addresses, body, content_id, headers, more_addresses, optional_address,
    required_addresses,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<mail::Message, String> {
        let input: Input = serde_json::from_str(json).map_err(|error| error.to_string())?;
        message(input).map_err(|failure| {
            assert!(!failure.is_retryable(), "{failure}");
            failure.message().to_owned()
        })
    }

    #[test]
    fn a_recipient_is_an_address_or_a_list() {
        let one = read(r#"{"to":"a@example.com","subject":"s","text":"t"}"#).unwrap();
        assert_eq!(one.to, ["a@example.com"]);
        let many = read(
            r#"{"to":["a@example.com","B <b@example.com>"],"cc":"c@example.com","subject":"","html":"<p>"}"#,
        );
        let many = many.unwrap();
        assert_eq!((many.to.len(), many.cc.len(), many.bcc.len()), (2, 1, 0));
    }

    #[test]
    fn a_message_without_a_recipient_or_a_body_is_refused_by_name() {
        assert!(read(r#"{"to":[],"subject":"s","text":"t"}"#).unwrap_err().starts_with("to: "));
        assert!(read(r#"{"to":"a@example.com","subject":"s"}"#).unwrap_err().contains("no body"));
        assert!(read(r#"{"subject":"s","text":"t"}"#).unwrap_err().contains("`to`"));
        assert!(
            read(r#"{"to":"a@example.com","subject":"s","text":"t","priority":1}"#)
                .unwrap_err()
                .contains("priority")
        );
    }

    #[test]
    fn a_line_break_in_a_header_is_refused_by_name() {
        for (field, json) in [
            ("to", r#"{"to":"a@example.com\r\nBcc: x@example.com","subject":"s","text":"t"}"#),
            ("bcc", r#"{"to":"a@example.com","bcc":["b@example.com\n"],"subject":"s","text":"t"}"#),
            ("subject", r#"{"to":"a@example.com","subject":"s\r\nX: y","text":"t"}"#),
            (
                "reply_to",
                r#"{"to":"a@example.com","reply_to":"r@example.com\r","subject":"s","text":"t"}"#,
            ),
        ] {
            assert!(read(json).unwrap_err().starts_with(&format!("{field}: ")), "{json}");
        }
        // In a body they are what they are.
        assert!(read(r#"{"to":"a@example.com","subject":"s","text":"two\r\nlines"}"#).is_ok());
    }

    #[test]
    fn headers_attachments_and_several_addresses_to_answer_to_are_taken() {
        let full = read(
            r#"{"to":"a@example.com","subject":"s","html":"<img src='cid:i@x'>",
                "reply_to":["r@example.com","s@example.com"],
                "headers":{"List-Unsubscribe":"<mailto:u@example.com>"},
                "attachments":[{"name":"a.txt","content":"aGVs\nbG8="},
                               {"name":"i.png","content_type":"image/png","content":"","content_id":"i@x"}]}"#,
        );
        let full = full.unwrap();
        assert_eq!(full.reply_to.len(), 2);
        assert_eq!(full.headers[0].0, "List-Unsubscribe");
        assert_eq!(full.attachments[0].content, b"hello");
        assert_eq!(full.attachments[0].content_type, "application/octet-stream");
        let one = r#"{"to":"a@example.com","subject":"s","text":"t","reply_to":"r@example.com"}"#;
        assert_eq!(read(one).unwrap().reply_to, ["r@example.com"]);
        let bad = r#"{"to":"a@example.com","subject":"s","text":"t","attachments":[{"name":"x","content":"?"}]}"#;
        assert!(read(bad).unwrap_err().starts_with("attachments: \"x\""));
    }

    #[test]
    fn the_schema_refuses_line_breaks_and_asks_for_a_body() {
        let schema = schemars::schema_for!(Input);
        let schema = schema.as_value();
        assert_eq!(schema["properties"]["subject"]["pattern"], ONE_LINE);
        assert_eq!(schema["properties"]["to"]["anyOf"][0]["pattern"], schema::pattern());
        assert_eq!(schema["anyOf"][0]["required"][0], "text");
        assert_eq!(schema["required"], serde_json::json!(["to", "subject"]));
        assert_eq!(schema["additionalProperties"], false);
    }

    /// Whether the host takes an input when it is enqueued.
    fn takes(input: &serde_json::Value) -> bool {
        let schema = schemars::schema_for!(Input).as_value().to_string();
        let mut errors = Vec::new();
        let schema = taskforge_schema::Schema::compile(&schema).unwrap();
        schema.check(input, 1000, "", &mut errors);
        errors.is_empty()
    }

    #[test]
    fn what_is_no_address_is_refused_when_it_is_enqueued() {
        let to = |address: &str| {
            let input = serde_json::json!({"to": [address], "subject": "s", "text": "t", "reply_to": address});
            takes(&input)
        };
        for good in [
            "ann@example.com",
            "Ann Lee <ann@example.com>",
            "\"Lee, Ann\" <ann@example.com>",
            "<ann@example.com>",
            "jörg@bücher.example",
            "\"john doe\"@example.com",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "demo@localhost",
        ] {
            assert!(to(good), "{good}");
        }
        for bad in [
            "ann",
            "ann@",
            "@example.com",
            "a@example.com, b@example.com",
            "a b@example.com",
            "a@example.com\r\nBcc: b@example.com",
            "Lee, Ann <a@example.com>",
            "<a@example.com> x",
            "a..b@example.com",
            "a@example..com",
        ] {
            assert!(!to(bad), "{bad}");
        }
    }

    #[test]
    fn headers_and_attachments_are_checked_when_they_are_enqueued() {
        let with = |field: &str, value: serde_json::Value| {
            let mut input = serde_json::json!({"to": "a@example.com", "subject": "s", "text": "t"});
            input[field] = value;
            takes(&input)
        };
        assert!(with("headers", serde_json::json!({"List-Unsubscribe": "<mailto:u@example.com>"})));
        assert!(!with("headers", serde_json::json!({"X": "a\r\nBcc: b"})));
        assert!(!with("headers", serde_json::json!({"a:b": "x"})));
        let file = |content: &str, kind: &str| serde_json::json!([{"name": "a", "content": content, "content_type": kind}]);
        assert!(with("attachments", file("aGVsbG8=", "text/plain; charset=utf-8")));
        assert!(!with("attachments", file("not base64!", "text/plain")));
        assert!(!with("attachments", file("", "plain")));
    }
}
