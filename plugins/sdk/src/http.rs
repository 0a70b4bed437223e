//! Requests over `wasi:http`. Needs the grant `http`, which names the hosts that the plugin may
//! ask.
//!
//! ```no_run
//! use std::time::Duration;
//! use taskforge_sdk::{Failure, http};
//!
//! async fn price(symbol: &str) -> Result<f64, Failure> {
//!     let answer = http::get(format!("https://prices.example.com/{symbol}"))
//!         .header("accept", "application/json")
//!         .timeout(Duration::from_secs(5))
//!         .send()
//!         .await?
//!         .error_for_status()?;
//!     Ok(answer.json(64 * 1024).await?)
//! }
//! ```
//!
//! The host follows no redirect: a 301 comes back as it is, and the next hop is a request of your
//! own, checked like the first. It connects to no private, loopback or link-local address unless
//! the operator made an exception, and it limits the number of requests and the bytes of all bodies
//! together.

mod address;
mod date;
mod error;
#[cfg(not(target_family = "wasm"))]
#[path = "http/native.rs"]
mod transport;
#[cfg(target_family = "wasm")]
#[path = "http/wasi.rs"]
mod transport;

use std::time::{Duration, SystemTime};

use self::address::{normal_target, target};
use serde::{Serialize, de::DeserializeOwned};
pub use url::Url;

pub use self::{
    address::{basic_credentials, take_credentials, without_credentials},
    date::parse_date,
    error::{Error, ErrorKind},
};

/// A GET request.
pub fn get(url: impl AsRef<str>) -> Request {
    Request::new("GET", url)
}

/// A POST request.
pub fn post(url: impl AsRef<str>) -> Request {
    Request::new("POST", url)
}

/// A request that is being put together. What is wrong with it comes out of [`Request::send`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: String,
    url: Result<Url, Error>,
    /// Path and query as they are sent.
    path: String,
    /// What the address itself says about who asks: `https://user:password@host/`.
    credentials: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

impl Request {
    /// A request with any method.
    ///
    /// User and password in the address become Basic authentication (RFC 7617), unless the request
    /// has an `Authorization` header of its own. They are cut out of the address, so that no
    /// message and no [`Response::url`] repeats them.
    ///
    /// Path and query are sent as they are given (`/a/../b`, `%2E`, `'`), because signatures cover
    /// them. Only what no request may carry, such as a blank, is percent-encoded.
    pub fn new(method: impl Into<String>, url: impl AsRef<str>) -> Self {
        let path = target(url.as_ref());
        let mut url = parse_url(url.as_ref());
        let credentials = url.as_mut().ok().and_then(take_credentials);
        Self {
            method: method.into(),
            path: path.unwrap_or_else(|| url.as_ref().map(normal_target).unwrap_or_default()),
            url,
            credentials,
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// Adds a header. `Host` and `Content-Length` are the host's business.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Sets `Authorization` to Basic authentication (RFC 7617).
    pub fn basic_auth(self, user: &str, password: &str) -> Self {
        self.header("authorization", basic_credentials(user, password))
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to the JSON of a value, and `Content-Type` with it.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.body(body).header("content-type", "application/json"),
            Err(error) => {
                self.url = Err(Error::new(
                    ErrorKind::BadRequest,
                    format!("the body is not JSON: {error}"),
                ));
                self
            }
        }
    }

    /// Limits the whole exchange, from the look-up of the name to the last byte of the body that is
    /// read. Without it only the attempt's deadline does.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the request and waits for the head of the response.
    ///
    /// # Errors
    /// When there is no response: see [`ErrorKind`]. Any status, 404 and 500 too, is a response.
    pub async fn send(mut self) -> Result<Response, Error> {
        let url = self.url?;
        let named = |(name, _): &(String, Vec<u8>)| name.eq_ignore_ascii_case("authorization");
        if let Some(credentials) = self.credentials
            && !self.headers.iter().any(named)
        {
            self.headers.push(("authorization".to_owned(), credentials.into_bytes()));
        }
        let (head, body) = transport::send(
            &self.method,
            (&url, &self.path),
            self.headers,
            &self.body,
            self.timeout,
        )
        .await?;
        Ok(Response { url, head, body })
    }
}

/// Reads an http or https address.
///
/// # Errors
/// [`ErrorKind::BadUrl`] for any other text; the message has no user and password in it.
pub fn parse_url(text: &str) -> Result<Url, Error> {
    let bad = |why: &str| {
        let text = without_credentials(text);
        Error::new(ErrorKind::BadUrl, format!("{text:?} is not a web address: {why}"))
    };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(bad(&format!("the scheme is {other:?}, not http or https"))),
    }
}

/// Status and headers.
#[derive(Debug)]
struct Head {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    fn lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers
            .iter()
            .filter(move |(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.lines(name).find_map(|value| std::str::from_utf8(value).ok())
    }

    fn retry_after(&self) -> Option<Duration> {
        date::delay(self.text("retry-after")?, SystemTime::now())
    }

    fn error(&self, url: &Url) -> Option<Error> {
        let status = self.status;
        let message = format!("{url} answered {status}");
        (!(200..300).contains(&status))
            .then(|| Error::new(ErrorKind::Status(status), message).after(self.retry_after()))
    }
}

/// A response whose body has yet to be read.
#[derive(Debug)]
pub struct Response {
    url: Url,
    head: Head,
    body: transport::Body,
}

/// What was read of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// At most as many bytes as were asked for.
    pub bytes: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

impl Response {
    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.head.status
    }

    /// The address that was asked.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The first header of this name that is text. Case does not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.text(name)
    }

    /// The values of all lines of this name, in order, byte for byte: a list may be spread over
    /// several lines (RFC 9110, 5.3), and values need not be UTF-8. Case does not matter.
    pub fn header_lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.head.lines(name)
    }

    /// How long the server asks to wait, by its `Retry-After` header: seconds, or a date that is
    /// compared with this machine's clock. Zero for a date that is past.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.head.retry_after()
    }

    /// Every header, as it came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Makes an error of a status that is not 2xx: 408, 429 and 5xx are worth another attempt, at
    /// the time that `Retry-After` names.
    ///
    /// # Errors
    /// [`ErrorKind::Status`] for any other status.
    pub fn error_for_status(self) -> Result<Self, Error> {
        self.head.error(&self.url).map_or(Ok(self), Err)
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the rest of the body does not come: a broken connection, a timeout, the host's limit on
    /// bytes.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.body.chunk().await
    }

    /// Reads the body up to `cap` bytes and drops the rest unread.
    ///
    /// # Errors
    /// As [`Response::chunk`].
    pub async fn read(self, cap: usize) -> Result<Body, Error> {
        let (body, error) = self.read_what_comes(cap).await;
        error.map_or(Ok(body), Err)
    }

    /// Reads the body up to `cap` bytes and drops the rest unread. What came before an error is
    /// kept, and stands beside it.
    pub async fn read_what_comes(mut self, cap: usize) -> (Body, Option<Error>) {
        let mut body = Body { bytes: Vec::new(), truncated: false };
        loop {
            match self.chunk().await {
                Ok(Some(chunk)) => {
                    let room = cap - body.bytes.len();
                    body.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        body.truncated = true;
                        return (body, None);
                    }
                }
                Ok(None) => return (body, None),
                Err(error) => return (body, Some(error)),
            }
        }
    }

    /// Reads the whole body as UTF-8 text.
    ///
    /// # Errors
    /// As [`Response::chunk`]; [`ErrorKind::TooLarge`] over `cap` bytes; [`ErrorKind::BadBody`]
    /// when it is not UTF-8.
    pub async fn text(self, cap: usize) -> Result<String, Error> {
        String::from_utf8(self.whole(cap).await?).map_err(|error| {
            Error::new(ErrorKind::BadBody, format!("the body is not UTF-8: {error}"))
        })
    }

    /// Reads the whole body as JSON.
    ///
    /// # Errors
    /// As [`Response::chunk`]; [`ErrorKind::TooLarge`] over `cap` bytes; [`ErrorKind::BadBody`]
    /// when it is not JSON that fits `T`.
    pub async fn json<T: DeserializeOwned>(self, cap: usize) -> Result<T, Error> {
        let bytes = self.whole(cap).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::BadBody, format!("the body is not the JSON expected: {error}"))
        })
    }

    async fn whole(self, cap: usize) -> Result<Vec<u8>, Error> {
        let body = self.read(cap).await?;
        if body.truncated {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the body is larger than {cap} bytes"),
            ));
        }
        Ok(body.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::block_on;

    #[test]
    fn only_web_addresses_are_sent() {
        for url in [
            "",
            "example.com",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "https://exa mple.com/",
        ] {
            let error = block_on(get(url).send()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadUrl, "{url}: {error}");
            assert!(!error.is_retryable());
        }
    }

    #[test]
    fn credentials_of_an_address_are_sent_and_never_repeated() {
        let request = get("https://ann:p%40ss@example.com/x");
        assert_eq!(request.credentials.as_deref(), Some("Basic YW5uOnBAc3M="));
        assert_eq!(request.url.unwrap().as_str(), "https://example.com/x");
        for url in
            ["ftp://ann:s3cret@example.com/", "http://ann:s3cret@", "http://ann:s3/cret@x:y/"]
        {
            let error = block_on(get(url).send()).unwrap_err();
            assert!(!error.to_string().contains("cret"), "{error}");
        }
    }

    #[test]
    fn every_line_of_a_header_is_there_whatever_its_bytes() {
        let line = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let headers = vec![line("x-a", b"caf\xe9"), line("X-A", b"two"), line("retry-after", b"7")];
        let head = Head { status: 503, headers };
        let lines: Vec<_> = head.lines("X-a").collect();
        assert_eq!(lines, [&b"caf\xe9"[..], b"two"]);
        assert_eq!(head.text("x-a"), Some("two"));

        let url = Url::parse("https://example.com/").unwrap();
        let failure = crate::Failure::from(head.error(&url).unwrap());
        assert_eq!(failure.retry(), crate::Retry::After(Duration::from_secs(7)));
    }

    #[test]
    fn outside_a_host_a_request_fails_with_a_reason() {
        let error = block_on(get("http://example.com/").send()).unwrap_err();
        assert_eq!(error.to_string(), "there is no network outside a TaskForge host");
    }
}
