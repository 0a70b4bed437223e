//! Task type `scraper`: what a web page says about itself.
//!
//! `{"url": "https://example.com/"}` → title, description, canonical address and what else [`Output`] lists. Any answer of a server is a
//! completed task, a 404 too; a failure is what kept the answer away. A refused connection, a name that does not resolve, a timeout
//! and a broken connection are retryable; a bad URL, a destination that the host denies and a redirect that leads nowhere are permanent.
//!
//! | file | the concept |
//! |---|---|
//! | [`fetch`] | the request and its redirects, within one time limit |
//! | [`coding`] | gzip, brotli and deflate, cut at the cap |
//! | [`charset`] | from bytes to text: BOM, header, meta |
//! | [`page`] | from text to what the page says |
//! | `nesting` | where a page is nested too deeply to be read on |

pub mod charset;
pub mod coding;
pub mod fetch;
mod nesting;
pub mod page;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taskforge_sdk::Failure;

use crate::{fetch::Fetched, page::Page};

taskforge_sdk::handler!(scrape, name = "scraper", capabilities = &["http"]);

/// Which page, and how far to go for it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Address of the page: http or https.
    #[schemars(length(min = 1, max = 8192))]
    pub url: String,
    /// Bytes of the body that are looked at, before and after decompression; the rest is cut off, and `truncated` says so.
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
    /// The `User-Agent` header.
    #[serde(default = "Input::default_user_agent")]
    #[schemars(regex(pattern = "^[ -~]{1,256}$"))]
    pub user_agent: String,
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

    fn default_user_agent() -> String {
        concat!("TaskForge-scraper/", env!("CARGO_PKG_VERSION")).to_owned()
    }
}

/// What came back. Texts have their white space collapsed, are cut at 4,096 characters and are null where the page has none.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Output {
    /// Status of the final answer.
    pub status_code: u16,
    /// Address of the final answer, after redirects.
    pub url: String,
    /// The answers that redirected, in order.
    pub redirects: Vec<Redirect>,
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// The encoding that the page was read in, by its WHATWG name in lower case; null when the body is not HTML.
    pub charset: Option<String>,
    /// Bytes of the body that were looked at, after decompression. 0 when the body is not HTML, which is not read.
    pub bytes: usize,
    /// The page is larger than `max_bytes`, or nested too deeply, and what comes after was not looked at.
    pub truncated: bool,
    /// What was wrong with the compressed body. What was decompressed before that was looked at.
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
pub async fn scrape(input: Input) -> Result<Output, Failure> {
    let time_limit = Duration::from_millis(input.timeout_ms.into());
    let fetched = fetch::fetch(&input, time_limit).await?;
    Ok(describe(fetched, input.max_bytes as usize))
}

/// From an answer to the output: everything that needs no host.
#[must_use]
pub fn describe(fetched: Fetched, max_bytes: usize) -> Output {
    let mut output = Output {
        status_code: fetched.status,
        redirects: fetched.redirects,
        content_type: fetched.content_type,
        charset: None,
        bytes: 0,
        truncated: false,
        body_error: None,
        page: Page::default(),
        url: fetched.url.to_string(),
    };
    let Some(body) = fetched.body else { return output };

    let decoded = coding::decode(body.bytes, fetched.content_encoding.as_deref(), max_bytes);
    output.bytes = decoded.bytes.len();
    output.truncated = body.truncated || decoded.truncated;
    // A compressed body that we cut ourselves ends in the middle; that is no fault of it.
    output.body_error = decoded.error.filter(|_| !body.truncated);
    if output.content_type.is_none() && !looks_like_html(&decoded.bytes) {
        return output;
    }
    let (text, charset) = charset::decode(&decoded.bytes, output.content_type.as_deref(), output.truncated);
    output.charset = Some(charset.to_ascii_lowercase());
    let parsed = page::read(&text, &fetched.url);
    output.truncated |= parsed.too_deep;
    output.page = parsed.page;
    output.page.language = output.page.language.or(fetched.content_language);
    output
}

/// For answers without a `Content-Type`: the first thing in them, after a byte order mark and white space, is a tag.
fn looks_like_html(bytes: &[u8]) -> bool {
    let text = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start();
    matches!(text, [b'<', b'!' | b'a'..=b'z' | b'A'..=b'Z', ..])
}

#[cfg(test)]
mod tests {
    use taskforge_sdk::http::{Body, Url};

    use super::*;

    fn fetched(content_type: Option<&str>, body: &[u8]) -> Fetched {
        Fetched {
            status: 200,
            url: Url::parse("https://example.com/dir/page").unwrap(),
            redirects: Vec::new(),
            content_type: content_type.map(str::to_owned),
            content_encoding: None,
            content_language: None,
            body: Some(Body {
                bytes: body.to_vec(),
                truncated: false,
            }),
        }
    }

    #[test]
    fn input_needs_only_a_url_and_takes_nothing_unknown() {
        let input: Input = serde_json::from_str(r#"{"url":"https://example.com"}"#).unwrap();
        assert_eq!((input.max_bytes, input.max_redirects), (2 << 20, 10));
        assert!(serde_json::from_str::<Input>("{}").is_err());
        assert!(serde_json::from_str::<Input>(r#"{"url":"x","ulr":"y"}"#).is_err());
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
        assert_eq!(
            (output.status_code, output.charset, output.page.title),
            (200, None, None)
        );

        let output = describe(fetched(None, b"\x89PNG\r\n<title>No</title>"), 1024);
        assert_eq!(output.page, Page::default());
        let output = describe(
            fetched(None, b"\xef\xbb\xbf \n<!doctype html><title>Yes</title>"),
            1024,
        );
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
        let mut answer = fetched(Some("text/html"), b"<html><title>x");
        answer.content_language = Some("de".to_owned());
        assert_eq!(describe(answer.clone(), 100).page.language.as_deref(), Some("de"));
        answer.body = Some(Body {
            bytes: b"<html lang=fr>".to_vec(),
            truncated: false,
        });
        assert_eq!(describe(answer, 100).page.language.as_deref(), Some("fr"));
    }
}
