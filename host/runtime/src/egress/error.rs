//! Errors of requests in the terms of `wasi:http`, so that a guest can tell a refused connection
//! from a slow one.

use std::{error::Error as StdError, io};

use wasmtime_wasi_http::{Error, p2::bindings::http::types::ErrorCode};

use crate::fair::TooManyWaiting;

/// An error before the response's headers were there.
pub(super) fn of_exchange(error: &hyper_util::client::legacy::Error) -> Error {
    if let Some(guest) = find::<Error>(error) {
        return copy(guest);
    }
    if find::<TooManyWaiting>(error).is_some() {
        return Error::ConnectionLimitReached;
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return of_tls(tls);
    }
    if let Some(io) = find::<io::Error>(error) {
        return match io.kind() {
            // A guest that took it for a connection that was never made would send the request
            // again.
            io::ErrorKind::TimedOut if !error.is_connect() => Error::HttpResponseTimeout,
            _ => of_io(io),
        };
    }
    if error.is_connect() {
        return Error::DestinationUnavailable;
    }
    // The library limits the headers that it reads, and has no public type for this error; a test
    // checks its text.
    if says(error, "message head is too large") {
        return Error::HttpResponseHeaderSectionSize(None);
    }
    Error::HttpProtocolError
}

/// Whether an error or one of its sources has this text.
fn says(error: &(dyn StdError + 'static), text: &str) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string() == text {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error while the response's body was read.
pub(super) fn of_body(error: &hyper::Error) -> Error {
    if let Some(tls) = find::<rustls::Error>(error) {
        return of_tls(tls);
    }
    match find::<io::Error>(error) {
        Some(io) if io.kind() == io::ErrorKind::TimedOut => Error::ConnectionReadTimeout,
        Some(io) => of_io(io),
        None => Error::HttpResponseIncomplete,
    }
}

fn of_io(error: &io::Error) -> Error {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Error::ConnectionRefused,
        Kind::TimedOut => Error::ConnectionTimeout,
        Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::AddrNotAvailable => {
            Error::DestinationIpUnroutable
        }
        Kind::UnexpectedEof
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe => Error::ConnectionTerminated,
        _ => Error::DestinationUnavailable,
    }
}

fn of_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Error::TlsCertificateError
        }
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

/// The first error of a type in a chain; an `io::Error` hides what it wraps from `source`, so it is
/// opened.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The few errors that a guest's own body ends with.
fn copy(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
        Error::ConnectionWriteTimeout => Error::ConnectionWriteTimeout,
        _ => Error::HttpProtocolError,
    }
}

/// The error of a response's body, for `http-error-code`. Only errors that [`of_body`] and the
/// limits produce arrive here.
pub(crate) fn body_error_code(error: &Error) -> ErrorCode {
    match error {
        Error::HttpResponseBodySize(size) => ErrorCode::HttpResponseBodySize(*size),
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTimeout => ErrorCode::ConnectionTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::ConnectionRefused => ErrorCode::ConnectionRefused,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::DestinationUnavailable => ErrorCode::DestinationUnavailable,
        Error::DestinationIpUnroutable => ErrorCode::DestinationIpUnroutable,
        Error::TlsProtocolError => ErrorCode::TlsProtocolError,
        Error::TlsCertificateError => ErrorCode::TlsCertificateError,
        other => ErrorCode::InternalError(Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_an_io_error_is_found() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert!(matches!(
            find::<rustls::Error>(&wrapped),
            Some(rustls::Error::InvalidCertificate(_))
        ));
    }
}
