//! Task type `scraper`: what a web page says about itself.
//!
//! `{"url": "https://example.com/"}` → title, description, canonical address and what else
//! [`Output`] lists. Any answer of a server is a completed task, a 404 too; a failure is what kept
//! the answer away. A refused connection, a name that does not resolve, a timeout and a broken
//! connection are retryable, and so are 429 and 503 while attempts are left, at the time that
//! `Retry-After` names; a bad URL, a destination that the host denies and a redirect that leads
//! nowhere are permanent. Where servers are sloppy, the page is read as browsers read it.
//!
//! | file | the concept |
//! |---|---|
//! | [`fetch`] | the requests of one fetch: redirects, credentials, within one time limit |
//! | [`cookies`] | what servers set on the way and get back |
//! | [`address`] | addresses, resolved as browsers resolve them |
//! | [`headers`] | lines, lists and quotes of headers |
//! | [`links`] | the canonical address in a `Link` header |
//! | [`refresh`] | redirects that stand in a page |
//! | [`media`] | what kind of document it is: `Content-Type`, or the first bytes |
//! | [`coding`] | gzip, brotli and deflate, cut at the cap |
//! | [`charset`] | from bytes to text: BOM, header, declaration, or what the letters look like |
//! | [`prescan`] | what the bytes themselves declare |
//! | [`xhtml`] | XHTML as HTML |
//! | [`page`] | from text to what the page says |
//! | [`text`] | the text of an element as a reader sees it |
//! | `nesting` | where a page is nested too deeply to be read on |

pub mod address;
pub mod charset;
pub mod coding;
pub mod cookies;
pub mod fetch;
pub mod headers;
pub mod links;
pub mod media;
mod nesting;
pub mod page;
pub mod prescan;
pub mod refresh;
pub mod text;
pub mod xhtml;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taskforge_sdk::{Failure, Task, http::Url};

use crate::{
    charset::Hints,
    fetch::{Fetched, Session},
    media::{Kind, Media},
    page::{Page, Source},
};

taskforge_sdk::handler!(scrape, name = "scraper", capabilities = &["http"]);

/// Which page, and how far to go for it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Address of the page: http or https. User and password in it are sent as Basic
    /// authentication, and are in no result and no message.
    #[schemars(length(min = 1, max = 8192))]
    pub url: String,
    /// Bytes of the body that are looked at, before and after decompression; the rest is cut off,
    /// and `truncated` says so.
    #[serde(default = "Input::default_max_bytes")]
    #[schemars(range(min = 1_024, max = 8_388_608))]
    pub max_bytes: u32,
    /// Time for the whole fetch, redirects included, in milliseconds.
    #[serde(default = "Input::default_timeout_ms")]
    #[schemars(range(min = 100, max = 120_000))]
    pub timeout_ms: u32,
    /// Redirects that are followed; one more is a permanent failure.
    #[serde(default = "Input::default_max_redirects")]
    #[schemars(range(min = 0, max = 20))]
    pub max_redirects: u8,
    /// Whether a `Refresh` header or meta element that leads elsewhere within ten seconds is
    /// followed like a redirect.
    #[serde(default = "Input::default_follow_meta_refresh")]
    pub follow_meta_refresh: bool,
    /// The `User-Agent` header.
    #[serde(default = "Input::default_user_agent")]
    #[schemars(regex(pattern = "^[ -~]{1,256}$"))]
    pub user_agent: String,
    /// The `Accept-Language` header, such as `de, en;q=0.5`. Without it none is sent, but a server
    /// that answers 406 is asked again for any language.
    #[serde(default)]
    #[schemars(schema_with = "schema::accept_language")]
    pub accept_language: Option<String>,
    /// Further headers of the requests, in place of the handler's own of the same name.
    /// `Authorization` and `Cookie` go to no other site that the page redirects to.
    #[serde(default)]
    #[schemars(schema_with = "schema::headers")]
    pub headers: BTreeMap<String, String>,
    /// Basic authentication for the site of `url`, in place of what stands in the address.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
}

/// User and password.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The user; a colon would end the name.
    #[schemars(regex(pattern = "^[^:]*$"), length(max = 256))]
    pub username: String,
    /// The password.
    #[schemars(length(max = 1024))]
    pub password: String,
}

impl std::fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BasicAuth(…)")
    }
}

/// JSON Schemas that `derive` cannot make.
mod schema {
    use schemars::{Schema, SchemaGenerator, json_schema};

    pub(super) fn accept_language(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "null"], "pattern": "^[ -~]{1,256}$" })
    }

    pub(super) fn headers(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 50,
            "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$" },
            "additionalProperties": {
                "type": "string", "maxLength": 8192, "pattern": r"^[^\x00-\x08\x0a-\x1f\x7f]*$",
            },
        })
    }
}

impl Input {
    const fn default_max_bytes() -> u32 {
        2 * 1024 * 1024
    }

    const fn default_timeout_ms() -> u32 {
        20_000
    }

    const fn default_max_redirects() -> u8 {
        10
    }

    const fn default_follow_meta_refresh() -> bool {
        true
    }

    fn default_user_agent() -> String {
        concat!("TaskForge-scraper/", env!("CARGO_PKG_VERSION")).to_owned()
    }
}

/// What came back. Texts have their white space collapsed, are cut at 4,096 characters and are null
/// where the page has none.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Output {
    /// Status of the final answer.
    pub status_code: u16,
    /// Address of the final answer, after redirects.
    pub url: String,
    /// The answers that redirected, in order; a page that refreshed itself to another is one.
    pub redirects: Vec<Redirect>,
    /// The `Content-Type` header, all lines of it.
    pub content_type: Option<String>,
    /// The encoding that the page was read in, by its WHATWG name in lower case; null when the body
    /// is not HTML.
    pub charset: Option<String>,
    /// Bytes of the body that were looked at, after decompression. 0 when the body is not HTML,
    /// which is not read.
    pub bytes: usize,
    /// The page is larger than `max_bytes`, or nested too deeply, and what comes after was not
    /// looked at.
    pub truncated: bool,
    /// What was wrong with the body: it broke off, or could not be decompressed. What came before
    /// was looked at.
    pub body_error: Option<String>,
    /// What the page says about itself.
    #[serde(flatten)]
    pub page: Page,
}

/// An answer that redirected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Redirect {
    /// Its status.
    pub status_code: u16,
    /// The address that was asked.
    pub url: String,
}

/// The handler.
///
/// # Errors
/// See the crate's documentation.
pub async fn scrape(input: Input, task: Task) -> Result<Output, Failure> {
    let (mut session, mut url) = Session::new(&input, task.is_last_attempt())?;
    loop {
        let fetched = session.fetch(url).await?;
        let (status, from) = (fetched.status, fetched.url.clone());
        let (mut output, refresh) = describe(fetched, input.max_bytes as usize);
        match refresh.and_then(|next| session.refresh(status, &from, next)) {
            Some(next) => url = next,
            None => {
                output.redirects = session.redirects().to_vec();
                return Ok(output);
            }
        }
    }
}

/// From an answer to the output, and where the page sends its readers: everything that needs no
/// host.
#[must_use]
pub fn describe(fetched: Fetched, max_bytes: usize) -> (Output, Option<Url>) {
    let Fetched { status, url, headers, body, broken } = fetched;
    let mut output = Output {
        status_code: status,
        redirects: Vec::new(),
        content_type: headers.list("content-type"),
        charset: None,
        bytes: 0,
        truncated: false,
        body_error: broken,
        page: Page::default(),
        url: url.to_string(),
    };
    let mut refresh = headers.list("refresh").and_then(|value| {
        let next = refresh::target(&value).and_then(|target| url.join(target).ok());
        next.filter(address::is_web)
    });
    if let Some(body) = body {
        let coding = headers.list("content-encoding");
        let decoded = coding::decode(body.bytes, coding.as_deref(), max_bytes);
        output.bytes = decoded.bytes.len();
        output.truncated = body.truncated || decoded.truncated;
        // A compressed body that was cut ends in the middle; that is no fault of its own.
        let whole = !body.truncated && output.body_error.is_none();
        output.body_error = output.body_error.or(decoded.error.filter(|_| whole));
        if let Some(next) = read(&decoded.bytes, &headers, &url, &mut output) {
            refresh = refresh.or(Some(next));
        }
    }
    let canonical = || links::canonical(&headers, &url).map(String::from);
    output.page.canonical_url = output.page.canonical_url.or_else(canonical);
    (output, refresh)
}

/// Reads the page, if it is one, and says where it sends its readers.
fn read(bytes: &[u8], headers: &headers::Headers, url: &Url, output: &mut Output) -> Option<Url> {
    let declared = Media::declared(headers);
    let kind = media::kind(declared.as_ref(), headers, bytes);
    if kind == Kind::Other {
        return None;
    }
    let hints = Hints {
        charset: declared.as_ref().and_then(|media| media.charset.as_deref()),
        kind,
        cut: output.truncated || output.body_error.is_some(),
        host: url.domain(),
        malformed_type: declared.is_none() && output.content_type.is_some(),
    };
    let (text, encoding) = charset::decode(bytes, &hints);
    output.charset = Some(encoding.name().to_ascii_lowercase());
    let content_language = headers.list("content-language");
    let source = Source { url, encoding, kind, content_language: content_language.as_deref() };
    let parsed = page::read(&text, &source);
    output.truncated |= parsed.too_deep;
    output.page = parsed.page;
    parsed.refresh
}

#[cfg(test)]
mod tests {
    use taskforge_sdk::http::Body;

    use super::*;

    fn answer(headers: &[(&str, &str)], body: &[u8]) -> Fetched {
        Fetched {
            status: 200,
            url: Url::parse("https://example.com/dir/page").unwrap(),
            headers: headers.iter().copied().collect(),
            body: Some(Body { bytes: body.to_vec(), truncated: false }),
            broken: None,
        }
    }

    fn fetched(content_type: Option<&str>, body: &[u8]) -> Fetched {
        let header = content_type.map(|value| ("content-type", value));
        answer(header.as_slice(), body)
    }

    fn describe(fetched: Fetched, max_bytes: usize) -> Output {
        super::describe(fetched, max_bytes).0
    }

    #[test]
    fn input_needs_only_a_url_and_takes_nothing_unknown() {
        let input: Input = serde_json::from_str(r#"{"url":"https://example.com"}"#).unwrap();
        assert_eq!((input.max_bytes, input.max_redirects), (2 << 20, 10));
        assert!(serde_json::from_str::<Input>("{}").is_err());
        assert!(serde_json::from_str::<Input>(r#"{"url":"x","ulr":"y"}"#).is_err());
    }

    #[test]
    fn the_host_checks_headers_and_credentials_when_they_are_enqueued() {
        let schema = schemars::schema_for!(Input).as_value().to_string();
        let schema = taskforge_schema::Schema::compile(&schema).unwrap();
        let takes = |field: &str, value: serde_json::Value| {
            let input = serde_json::json!({"url": "https://example.com/", field: value});
            let mut errors = Vec::new();
            schema.check(&input, 1000, "", &mut errors);
            errors.is_empty()
        };
        assert!(takes("headers", serde_json::json!({"X-Key": "a\tb"})));
        assert!(!takes("headers", serde_json::json!({"X-Key": "a\r\nb"})));
        assert!(!takes("headers", serde_json::json!({"X Key": "a"})));
        assert!(takes("accept_language", "de, en;q=0.5".into()));
        assert!(!takes("accept_language", "d\ne".into()));
        assert!(takes("basic_auth", serde_json::json!({"username": "a", "password": "b:c"})));
        assert!(!takes("basic_auth", serde_json::json!({"username": "a:b", "password": ""})));
    }

    #[test]
    fn a_page_without_a_title_gives_null() {
        let output = describe(fetched(Some("text/html"), b"<p>Hello"), 1024);
        let json = serde_json::to_value(&output).unwrap();
        assert!(
            json["title"].is_null() && json["description"].is_null() && json["h1"].is_null(),
            "{json}"
        );
        assert_eq!(json["outgoing_link_count"], 0);
    }

    #[test]
    fn an_answer_that_is_not_html_completes_with_nulls() {
        let mut answer = fetched(Some("application/pdf"), b"");
        answer.body = None;
        let output = describe(answer, 1024);
        assert_eq!((output.status_code, output.charset, output.page.title), (200, None, None));

        let output = describe(fetched(None, b"\x89PNG\r\n<title>No</title>"), 1024);
        assert_eq!(output.page, Page::default());
        let output =
            describe(fetched(None, b"\xef\xbb\xbf \n<!doctype html><title>Yes</title>"), 1024);
        assert_eq!(output.page.title.as_deref(), Some("Yes"));
    }

    #[test]
    fn a_body_over_the_cap_is_cut_and_says_so() {
        let mut answer = fetched(Some("text/html"), b"<title>Start</title><h1>He");
        if let Some(body) = &mut answer.body {
            body.truncated = true;
        }
        let output = describe(answer, 26);
        assert!(output.truncated);
        assert_eq!(output.page.title.as_deref(), Some("Start"));
        assert_eq!(output.page.h1.as_deref(), Some("He"));
    }

    #[test]
    fn the_header_names_the_language_of_a_page_that_does_not() {
        let language = |header: &str, body: &str| {
            let headers = [("content-type", "text/html"), ("content-language", header)];
            describe(answer(&headers, body.as_bytes()), 100).page.language
        };
        assert_eq!(language("de", "<html><title>x").as_deref(), Some("de"));
        assert_eq!(language("de", "<html lang=fr>").as_deref(), Some("fr"));
        assert_eq!(language("de, en", "<html><title>x"), None);
    }

    #[test]
    fn headers_say_what_the_markup_does_not() {
        let headers = [
            ("content-type", "application/pdf"),
            ("link", "</real>; rel=canonical"),
            ("refresh", "0; url=/next"),
        ];
        let mut pdf = answer(&headers, b"");
        pdf.body = None;
        let (output, refresh) = super::describe(pdf, 100);
        assert_eq!(output.page.canonical_url.as_deref(), Some("https://example.com/real"));
        assert_eq!(refresh.unwrap().as_str(), "https://example.com/next");
    }

    #[test]
    fn a_body_that_broke_off_is_read_as_far_as_it_came() {
        let mut broken = fetched(Some("text/html"), b"<title>Start</title><h1>He");
        broken.broken = Some("the response is incomplete".to_owned());
        let output = describe(broken, 1000);
        assert_eq!(output.page.title.as_deref(), Some("Start"));
        assert_eq!(output.body_error.as_deref(), Some("the response is incomplete"));
    }
}
