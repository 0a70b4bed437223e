//! Failures, and how errors become one.

use std::{error::Error, fmt, time::Duration};

/// Whether and when a failed task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: the same input will fail the same way. The task becomes a dead letter.
    Never,
    /// After the task's own backoff, while attempts are left.
    Backoff,
    /// After this time, while attempts are left.
    After(Duration),
}

/// Why a handler gives up on this attempt, and whether another one may succeed.
///
/// `?` turns any error into a failure. An error of this crate knows its own answer, wherever it
/// stands in the chain of sources: a refused connection is worth another attempt, a denied host is
/// not. Every other error is taken as retryable, because attempts are limited and backed off, and a
/// transient error that was declared permanent would lose the task. Where you know better, say so:
///
/// ```
/// use taskforge_sdk::{Failure, OrFail};
///
/// fn port(text: &str) -> Result<u16, Failure> {
///     let port = text.parse().or_permanent()?;
///     if port == 0 {
///         return Err(Failure::permanent("port 0 is not a port"));
///     }
///     Ok(port)
/// }
/// assert!(!port("http").unwrap_err().is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    retry: Retry,
}

// `std::error::Error` is left out on purpose, as in `anyhow`: with it, `From` for every error would
// contradict `From<T> for T`.
impl Failure {
    /// Trying again is no use.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: Retry::Never }
    }

    /// Try again after the task's own backoff.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: Retry::Backoff }
    }

    /// Try again after this time: what a `Retry-After` header says, for example.
    pub fn retry_after(delay: Duration, message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: Retry::After(delay) }
    }

    /// Puts what was being done before what went wrong: `reading the feed: connection refused`.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self { message: format!("{doing}: {}", self.message), retry: self.retry }
    }

    /// For the client who reads the task and the operator who reads the dead letters.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether and when to try again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.retry
    }

    /// Whether another attempt should be made at all.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retry != Retry::Never
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_chain(&error)
    }
}

impl Failure {
    fn from_chain(error: &(dyn Error + 'static)) -> Self {
        let mut message = String::new();
        let mut retry = None;
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors print their source themselves; saying it twice helps nobody.
            if !message.ends_with(&text) {
                if !message.is_empty() {
                    message.push_str(": ");
                }
                message.push_str(&text);
            }
            retry = retry.or_else(|| known_retry(error));
            next = error.source();
        }
        Self { message, retry: retry.unwrap_or(Retry::Backoff) }
    }
}

fn known_retry(error: &(dyn Error + 'static)) -> Option<Retry> {
    let retryable = if let Some(error) = error.downcast_ref::<crate::http::Error>() {
        if let (true, Some(delay)) = (error.is_retryable(), error.retry_after()) {
            return Some(Retry::After(delay));
        }
        error.is_retryable()
    } else if let Some(error) = error.downcast_ref::<crate::keyvalue::Error>() {
        error.is_retryable()
    } else {
        error.downcast_ref::<crate::mail::Error>()?.is_retryable()
    };
    Some(if retryable { Retry::Backoff } else { Retry::Never })
}

/// Says of a result's error whether it is worth another attempt.
pub trait OrFail<T> {
    /// The error is final.
    ///
    /// # Errors
    /// The result's own, as a permanent failure.
    fn or_permanent(self) -> Result<T, Failure>;

    /// The error may pass; the task's backoff decides when to look again.
    ///
    /// # Errors
    /// The result's own, as a retryable failure.
    fn or_retryable(self) -> Result<T, Failure>;

    /// The error will have passed after this time.
    ///
    /// # Errors
    /// The result's own, as a failure with that delay.
    fn or_retry_after(self, delay: Duration) -> Result<T, Failure>;

    /// Says what was being done; whether to retry stays as it is.
    ///
    /// # Errors
    /// The result's own, with the words before its message.
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> OrFail<T> for Result<T, E> {
    fn or_permanent(self) -> Result<T, Failure> {
        self.map_err(|error| Failure { retry: Retry::Never, ..error.into() })
    }

    fn or_retryable(self) -> Result<T, Failure> {
        self.map_err(|error| Failure { retry: Retry::Backoff, ..error.into() })
    }

    fn or_retry_after(self, delay: Duration) -> Result<T, Failure> {
        self.map_err(|error| Failure { retry: Retry::After(delay), ..error.into() })
    }

    fn context(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| error.into().context(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[derive(Debug)]
    struct Outer(http::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot read the feed")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    fn question_mark<T, E: Error + 'static>(result: Result<T, E>) -> Result<T, Failure> {
        Ok(result?)
    }

    #[test]
    fn an_unknown_error_is_retried() {
        let failure = question_mark("x".parse::<u8>()).unwrap_err();
        assert_eq!(failure.retry(), Retry::Backoff);
        assert_eq!(failure.message(), "invalid digit found in string");
    }

    #[test]
    fn an_error_of_the_sdk_decides_from_any_depth_of_the_chain() {
        for (kind, retry) in [
            (http::ErrorKind::Denied, Retry::Never),
            (http::ErrorKind::BadUrl, Retry::Never),
            (http::ErrorKind::Refused, Retry::Backoff),
        ] {
            let failure =
                question_mark::<(), _>(Err(Outer(http::Error::new(kind, "no")))).unwrap_err();
            assert_eq!(failure.retry(), retry, "{kind:?}");
            assert_eq!(failure.message(), "cannot read the feed: no");
        }
    }

    #[test]
    fn the_handlers_own_word_overrides_the_default() {
        let denied = || Err::<(), _>(http::Error::new(http::ErrorKind::Denied, "no"));
        assert_eq!(denied().or_retryable().unwrap_err().retry(), Retry::Backoff);
        let minute = Duration::from_secs(60);
        assert_eq!(denied().or_retry_after(minute).unwrap_err().retry(), Retry::After(minute));
        let failure = denied().context("asking").unwrap_err();
        assert_eq!((failure.message(), failure.retry()), ("asking: no", Retry::Never));
    }
}
