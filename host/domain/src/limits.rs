//! What one attempt may use.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The ceilings of one attempt. They hold for the whole instance: memory is the sum over all its
/// memories and tables, not a bound on each.
///
/// In a settings file sizes and times may be written for people: `"64 MiB"`, `"30s"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
pub struct Limits {
    /// Fuel, roughly one unit an instruction.
    pub fuel: u64,
    /// Linear memory plus table storage of all instances in the component, and all that the host
    /// holds for the attempt: requests, headers, bodies, streams, the log, the output. In bytes.
    /// The host's part may go beyond by a little more than 1 MiB, so that a handler that uses all
    /// its memory can still log and return.
    #[serde(with = "size")]
    pub memory: u64,
    /// Wall time from instantiation to output, waiting host calls included.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// Bytes of the output JSON.
    #[serde(with = "size")]
    pub output: u64,
    /// Bytes of log kept as it is stored, 72 for each line beside its text; what comes after is
    /// dropped, and a marker says so.
    #[serde(with = "size")]
    pub log: u64,
    /// Calls from the guest to the host.
    pub host_calls: u64,
    /// Handles that the component has open at once: streams, pollables, requests, and resources of
    /// its own. Each of the host's takes 512 bytes of [`Limits::memory`].
    pub handles: u32,
    /// The call stack that the handler needs, in bytes. The engine has one size for all, the host's
    /// ceiling, so a version is refused where there is less, and stopped where it needs more than
    /// there is.
    #[serde(with = "size")]
    pub stack: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Core instances in the component.
    pub instances: u32,
    /// Linear memories in the component.
    pub memories: u32,
    /// Tables in the component.
    pub tables: u32,
    /// Outgoing HTTP requests.
    pub http_requests: u32,
    /// Bytes of all HTTP response bodies together, as they come over the wire, and as many again of
    /// all request bodies.
    #[serde(with = "size")]
    pub http_bytes: u64,
    /// E-mails that one attempt may send. One to several recipients counts as so many.
    pub mails: u32,
    /// Bytes of addresses, headers, bodies and attachments of all e-mails of one attempt, as the
    /// handler wrote them.
    #[serde(with = "size")]
    pub mail_bytes: u64,
    /// As [`Limits::mails`], for all attempts of the version in one hour of the clock, in the whole
    /// fleet.
    pub mails_per_hour: u32,
    /// As [`Limits::mail_bytes`], for all attempts of the version in one hour of the clock, in the
    /// whole fleet.
    #[serde(with = "size")]
    pub mail_bytes_per_hour: u64,
    /// Attempts that may run at once in the whole fleet, like a cap of the queue: the lower of the
    /// two counts. `None`: no such limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 10_000_000_000,
            memory: 64 << 20,
            deadline: Duration::from_secs(30),
            output: 1 << 20,
            log: 64 << 10,
            host_calls: 100_000,
            handles: 20_000,
            stack: 1 << 20,
            table_elements: 100_000,
            instances: 250,
            memories: 16,
            tables: 64,
            http_requests: 100,
            http_bytes: 32 << 20,
            mails: 100,
            mail_bytes: 4 << 20,
            mails_per_hour: 1_000,
            mail_bytes_per_hour: 64 << 20,
            concurrency: None,
        }
    }
}

pub(crate) mod size {
    use super::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }

    // The signature is serde's.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(crate) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Ok(match Size::deserialize(deserializer)? {
            Size::Bytes(bytes) => bytes,
            Size::Text(text) => {
                text.parse::<bytesize::ByteSize>().map_err(serde::de::Error::custom)?.as_u64()
            }
        })
    }
}

mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_may_be_written_for_people() {
        let limits: Limits = serde_json::from_value(
            serde_json::json!({"memory": "8 MiB", "log": 100, "deadline": "1m 30s"}),
        )
        .unwrap();
        assert_eq!(
            (limits.memory, limits.log, limits.deadline),
            (8 << 20, 100, Duration::from_secs(90))
        );
        assert_eq!(limits.output, Limits::default().output);
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
    }

    #[test]
    fn an_unknown_limit_is_an_error() {
        let error = serde_json::from_value::<Limits>(serde_json::json!({"feul": 1})).unwrap_err();
        assert!(error.to_string().contains("feul"), "{error}");
    }
}
