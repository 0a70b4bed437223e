//! The request and its redirects, within one time limit.

use std::time::{Duration, Instant};

use taskforge_sdk::{
    Failure, OrFail,
    http::{self, Body, Response, Url},
};

use crate::{Input, Redirect};

/// The final answer.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its status.
    pub status: u16,
    /// Where it came from.
    pub url: Url,
    /// The answers before it.
    pub redirects: Vec<Redirect>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// The body, as it came over the wire; none when it is not HTML.
    pub body: Option<Body>,
}

/// Asks for the page and follows redirects.
///
/// # Errors
/// Permanent for a bad address, a denied destination and redirects that lead nowhere; retryable for what may pass.
pub async fn fetch(input: &Input, time_limit: Duration) -> Result<Fetched, Failure> {
    let start = Instant::now();
    let mut url = input.url.trim().to_owned();
    let mut redirects: Vec<Redirect> = Vec::new();
    loop {
        let response = http::get(&url)
            .header("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.5")
            .header("accept-encoding", "gzip, br, deflate")
            .header("user-agent", &input.user_agent)
            .timeout(time_limit.saturating_sub(start.elapsed()))
            .send()
            .await
            .map_err(|error| no_answer(error, &url))?;
        match next_hop(
            response.url(),
            response.status(),
            response.header("location"),
            &redirects,
        )? {
            None => return read(response, redirects, input.max_bytes as usize).await,
            Some(_) if redirects.len() >= usize::from(input.max_redirects) => {
                return Err(Failure::permanent(format!(
                    "more than {} redirects",
                    input.max_redirects
                )));
            }
            Some(next) => {
                redirects.push(Redirect {
                    status_code: response.status(),
                    url: response.url().to_string(),
                });
                url = next.into();
            }
        }
    }
}

/// Says which address it was, where the error does not say so itself.
fn no_answer(error: http::Error, url: &str) -> Failure {
    let names_it = error.kind() == http::ErrorKind::BadUrl;
    let failure = Failure::from(error);
    if names_it { failure } else { failure.context(url) }
}

/// Where an answer sends us; `None` when it is final. A redirect without a `Location` is final.
fn next_hop(
    url: &Url,
    status: u16,
    location: Option<&str>,
    before: &[Redirect],
) -> Result<Option<Url>, Failure> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, location) else {
        return Ok(None);
    };
    let dead_end = |why: &str| Failure::permanent(format!("{url} redirects to {location:?}, {why}"));
    let next = url
        .join(location.trim())
        .map_err(|error| dead_end(&format!("which is no address: {error}")))?;
    if !matches!(next.scheme(), "http" | "https") {
        return Err(dead_end("which is neither http nor https"));
    }
    // No cookie is kept, so the same address answers in the same way.
    let seen = |other: &str| without_fragment(other) == without_fragment(next.as_str());
    if seen(url.as_str()) || before.iter().any(|redirect| seen(&redirect.url)) {
        return Err(dead_end("where it came from: a loop"));
    }
    Ok(Some(next))
}

fn without_fragment(url: &str) -> &str {
    url.split_once('#').map_or(url, |(page, _)| page)
}

async fn read(response: Response, redirects: Vec<Redirect>, cap: usize) -> Result<Fetched, Failure> {
    let header = |name| {
        response
            .header(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    let content_type = header("content-type");
    let mut fetched = Fetched {
        status: response.status(),
        url: response.url().clone(),
        redirects,
        content_encoding: header("content-encoding"),
        content_language: header("content-language"),
        body: None,
        content_type,
    };
    if fetched.content_type.as_deref().is_none_or(is_html) {
        let from = fetched.url.to_string();
        fetched.body = Some(response.read(cap).await.context(from)?);
    }
    Ok(fetched)
}

fn is_html(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|html| essence.eq_ignore_ascii_case(html))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(status: u16, location: Option<&str>) -> Result<Option<String>, Failure> {
        let url = Url::parse("https://example.com/a/b?c#d").unwrap();
        let before = [Redirect {
            status_code: 301,
            url: "http://example.com/".to_owned(),
        }];
        Ok(next_hop(&url, status, location, &before)?.map(String::from))
    }

    #[test]
    fn a_location_is_resolved_against_the_address_that_was_asked() {
        for (location, expected) in [
            ("/x", "https://example.com/x"),
            ("x", "https://example.com/a/x"),
            ("?q", "https://example.com/a/b?q"),
            ("//other.example/x", "https://other.example/x"),
            ("http://other.example", "http://other.example/"),
        ] {
            for status in [301, 302, 303, 307, 308] {
                assert_eq!(hop(status, Some(location)).unwrap().as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn only_a_redirect_with_a_location_redirects() {
        for status in [200, 201, 300, 304, 404, 500] {
            assert_eq!(hop(status, Some("/x")).unwrap(), None, "{status}");
        }
        assert_eq!(hop(302, None).unwrap(), None);
    }

    #[test]
    fn a_redirect_that_leads_nowhere_is_permanent() {
        for location in [
            "#e",
            "/a/b?c",
            "http://example.com/",
            "ftp://example.com/",
            "javascript:alert(1)",
            "http://",
        ] {
            let failure = hop(301, Some(location)).unwrap_err();
            assert!(!failure.is_retryable(), "{location}");
            assert!(failure.message().contains(location), "{failure}");
        }
    }

    #[test]
    fn html_is_known_by_its_type() {
        assert!(
            is_html("text/html") && is_html("Text/HTML; charset=utf-8") && is_html("application/xhtml+xml")
        );
        assert!(!is_html("text/plain") && !is_html("application/json"));
    }
}
