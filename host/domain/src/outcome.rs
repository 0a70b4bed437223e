//! How an attempt ended, and what it used.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Json;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The handler returned a result.
    Completed(Json),
    /// Anything else.
    Failed(Failure),
}

impl Outcome {
    /// The result of an attempt that completed.
    #[must_use]
    pub const fn result(&self) -> Option<&Json> {
        match self {
            Self::Completed(result) => Some(result),
            Self::Failed(_) => None,
        }
    }

    /// Why an attempt failed.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Completed(_) => None,
            Self::Failed(failure) => Some(failure),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    /// The class, which decides whether another attempt is made.
    pub kind: FailureKind,
    /// One sentence for the client and the operator.
    pub message: String,
    /// The delay before the next attempt that the handler asks for; overrides the backoff.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that asks for no delay.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $retry:literal;)*) => {
        /// The classes of failure. The name is stable: it is stored, filtered by and counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum FailureKind {
            $($(#[$doc])* $variant,)*
        }

        impl FailureKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that the API, the store and the metrics use.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether another attempt may succeed. The rest would spend the same fuel to fail the
            /// same way.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }
        }
    };
}

failure_kinds! {
    /// The handler says: do not try again.
    Permanent = "permanent", false;
    /// The handler says: try again.
    Retryable = "retryable", true;
    /// The guest trapped: a panic, `unreachable`, a division by zero, an access out of bounds.
    Trap = "trap", true;
    /// The input does not fit the version that runs now, which became current after the task was
    /// accepted. The handler was not called.
    InvalidInput = "invalid_input", false;
    /// The guest called `exit`.
    Exited = "exited", true;
    /// The call stack limit.
    StackOverflow = "stack_overflow", false;
    /// The fuel limit.
    OutOfFuel = "out_of_fuel", false;
    /// The limit on memory, which the handler's own and what the host holds for it share, or on
    /// memories and tables in elements or number.
    OutOfMemory = "out_of_memory", false;
    /// The time limit.
    Deadline = "deadline", true;
    /// The output is larger than allowed.
    OutputTooLarge = "output_too_large", false;
    /// The output is not JSON, or nests too deep.
    InvalidOutput = "invalid_output", false;
    /// The limit on host calls, or on what one may carry.
    HostCallLimit = "host_call_limit", false;
    /// The guest asked for something that it was not granted, and gave up on it.
    CapabilityDenied = "capability_denied", false;
    /// The plugin could not be instantiated: it imports what this host does not have.
    Incompatible = "incompatible", false;
    /// The task was cancelled while it ran.
    Cancelled = "cancelled", false;
    /// The worker stopped answering while it held the task. That is not counted as an attempt: the
    /// kind of dead letters whose workers stopped too often.
    LeaseLapsed = "lease_lapsed", true;
    /// The host's fault.
    Internal = "internal", true;
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no failure kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a failure kind")]
pub struct UnknownFailureKind(String);

impl FromStr for FailureKind {
    type Err = UnknownFailureKind;
    fn from_str(text: &str) -> Result<Self, UnknownFailureKind> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found.copied().ok_or_else(|| UnknownFailureKind(text.to_owned()))
    }
}

/// What an attempt used of what [`crate::Limits`] allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Fuel, roughly one unit a WebAssembly instruction. After a trap it is a lower bound: the
    /// engine adds fuel up when a basic block ends.
    pub fuel: u64,
    /// The most memory that all memories and tables of the instance and what the host held for it
    /// took together, in bytes.
    pub peak_memory: u64,
    /// Wall time from instantiation to the end, in microseconds.
    pub wall_micros: u64,
    /// Calls that the guest made to the host.
    pub host_calls: u64,
    /// Outgoing HTTP requests.
    pub http_requests: u32,
    /// Bytes of HTTP response bodies that reached the guest.
    pub http_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_name_and_serialises_to_it() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("{:?}", kind.as_str()));
        }
    }
}
