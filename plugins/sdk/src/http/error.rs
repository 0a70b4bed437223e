//! What can go wrong with a request.

use std::{fmt, time::Duration};

/// What class of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The address cannot be read, or is not http or https.
    BadUrl,
    /// The request cannot be sent as it is: a header, the method, a body that is too large.
    BadRequest,
    /// The host refuses: the operator has not granted this destination, or it is a private address.
    Denied,
    /// The name does not resolve, or not now.
    Dns,
    /// Nothing listens there, or no route leads there.
    Refused,
    /// No answer, or no more of it, in time.
    Timeout,
    /// The connection broke.
    Connection,
    /// The TLS handshake failed, or the certificate is not good.
    Tls,
    /// The response, or all responses together, are larger than allowed.
    TooLarge,
    /// The body is not what it should be.
    BadBody,
    /// The server answered with this status; see
    /// [`Response::error_for_status`](super::Response::error_for_status).
    Status(u16),
    /// What the host cannot put into another class.
    Other,
}

/// Why there is no response, or no more of it. Returned from a handler by `?`, it is retried if
/// [`Error::is_retryable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error, for unit tests of handlers.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// The same error, of a server that says when to come back.
    #[must_use]
    pub const fn after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }

    /// When the server wants to be asked again, if it said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What class of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        use ErrorKind::{
            BadBody, BadRequest, BadUrl, Connection, Denied, Dns, Other, Refused, Status, Timeout,
            Tls, TooLarge,
        };
        match self.kind {
            BadUrl | BadRequest | Denied | TooLarge => false,
            // A name may not be published yet, a certificate may be renewed, a proxy may have sent
            // its own error page.
            Dns | Refused | Timeout | Connection | Tls | BadBody | Other => true,
            Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(target_family = "wasm")]
impl From<wasip2::http::types::ErrorCode> for Error {
    fn from(code: wasip2::http::types::ErrorCode) -> Self {
        use ErrorKind::{
            BadRequest, BadUrl, Connection, Denied, Dns, Other, Refused, Timeout, Tls, TooLarge,
        };
        use wasip2::http::types::ErrorCode as Code;

        let (kind, message) = match code {
            Code::HttpRequestDenied => (Denied, "the host denies requests to this destination"),
            Code::DestinationIpProhibited => (Denied, "the host denies requests to this address"),
            Code::DnsError(payload) => {
                let reason = payload.rcode.unwrap_or_else(|| "no address".to_owned());
                return Self::new(Dns, format!("the name does not resolve: {reason}"));
            }
            Code::DestinationNotFound => (Dns, "the name does not resolve"),
            Code::DnsTimeout => (Dns, "the name was not resolved in time"),
            Code::ConnectionRefused => (Refused, "connection refused"),
            Code::DestinationUnavailable => (Refused, "the destination is unavailable"),
            Code::DestinationIpUnroutable => (Refused, "no route to the destination"),
            Code::ConnectionTimeout => (Timeout, "no connection in time"),
            Code::ConnectionReadTimeout | Code::HttpResponseTimeout => {
                (Timeout, "no answer in time")
            }
            Code::ConnectionWriteTimeout => (Timeout, "the request was not taken in time"),
            Code::ConnectionTerminated => (Connection, "the connection broke"),
            Code::HttpResponseIncomplete => (Connection, "the response is incomplete"),
            Code::HttpProtocolError => (Connection, "the answer is not HTTP"),
            Code::TlsProtocolError | Code::TlsAlertReceived(_) => (Tls, "the TLS handshake failed"),
            Code::TlsCertificateError => (Tls, "the certificate is not good"),
            Code::HttpRequestUriInvalid | Code::HttpRequestUriTooLong => {
                (BadUrl, "the host cannot use this address")
            }
            Code::HttpRequestMethodInvalid => (BadRequest, "the method is not valid"),
            Code::HttpRequestBodySize(_) => (BadRequest, "the request body is too large"),
            Code::HttpResponseBodySize(_) => {
                (TooLarge, "the response body is larger than the host allows")
            }
            Code::HttpResponseHeaderSectionSize(_) | Code::HttpResponseHeaderSize(_) => {
                (TooLarge, "the response headers are larger than the host allows")
            }
            Code::InternalError(Some(message)) => return Self::new(Other, message),
            other => return Self::new(Other, format!("the request failed: {other:?}")),
        };
        Self::new(kind, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_retried_and_what_cannot_is_not() {
        let retryable = |kind| Error::new(kind, "x").is_retryable();
        for kind in [
            ErrorKind::Dns,
            ErrorKind::Refused,
            ErrorKind::Timeout,
            ErrorKind::Status(503),
            ErrorKind::Status(429),
        ] {
            assert!(retryable(kind), "{kind:?}");
        }
        for kind in
            [ErrorKind::BadUrl, ErrorKind::Denied, ErrorKind::TooLarge, ErrorKind::Status(404)]
        {
            assert!(!retryable(kind), "{kind:?}");
        }
    }
}
