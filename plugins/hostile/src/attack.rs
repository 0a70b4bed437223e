//! Which attack, with which numbers.

use schemars::JsonSchema;
use serde::Deserialize;

/// What a host can be made to hold.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Requests with a long authority.
    Authorities,
    /// Requests with a long method.
    Methods,
    /// Requests with a long path.
    Paths,
    /// Requests with a long scheme.
    Schemes,
    /// Requests with a body that nobody reads.
    Bodies,
    /// Requests whose bodies were given up.
    AbortedBodies,
    /// Requests whose bodies end with trailers.
    Trailers,
    /// Header maps with one large value.
    Fields,
    /// Header maps with many small values.
    SmallFields,
    /// Handles to the headers of requests.
    Headers,
    /// Timers.
    Timers,
    /// Standard outputs.
    Streams,
    /// Options of requests.
    Options,
}

/// The input of the handler.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "attack", rename_all = "snake_case")]
pub enum Attack {
    /// None: returns at once.
    Ok {
        /// Comes back in the output.
        #[serde(default)]
        value: Option<serde_json::Value>,
    },
    /// Never returns.
    EndlessLoop,
    /// Calls itself until the stack is gone.
    EndlessRecursion,
    /// Allocates and touches memory without end.
    GrowMemory,
    /// Allocates this much, touches it and returns.
    Allocate {
        /// How much.
        bytes: usize,
    },
    /// Computes for a while: some 10 instructions a round.
    Busy {
        /// How long.
        rounds: u64,
    },
    /// Returns a JSON string of this length.
    HugeOutput {
        /// How long.
        #[serde(default = "huge")]
        bytes: usize,
    },
    /// Returns this text instead of JSON.
    InvalidJson {
        /// What to return.
        #[serde(default = "not_json")]
        text: String,
    },
    /// Writes many lines.
    LogFlood {
        /// Lines to each stream.
        #[serde(default = "thousand")]
        lines: u64,
        /// Length of a line.
        #[serde(default = "kilobyte")]
        bytes: usize,
        /// Which stream.
        #[serde(default)]
        to: Stream,
    },
    /// Asks the host for the time again and again.
    HostCallFlood {
        /// How often; without it, for ever.
        #[serde(default)]
        calls: Option<u64>,
    },
    /// Waits.
    Sleep {
        /// How long; an hour by default.
        #[serde(default = "hour")]
        ms: u64,
        /// What it logs before.
        #[serde(default)]
        saying: Option<String>,
    },
    /// Panics.
    Panic {
        /// With these words.
        #[serde(default = "on_purpose")]
        message: String,
    },
    /// Ends the process, as far as a component can.
    Exit {
        /// With this code.
        code: i32,
    },
    /// Reads beyond its memory.
    ReadNowhere,
    /// Calls a function that there is not.
    CallNothing,
    /// Increments a static and returns its value, which is 1 in a fresh instance.
    MutateGlobal,
    /// Fails as a handler may.
    Fail {
        /// For good.
        #[serde(default)]
        permanent: bool,
        /// Retryable, after this time.
        #[serde(default)]
        retry_after_ms: Option<u64>,
        /// So many times, and completes after that. Without it, always.
        #[serde(default)]
        times: Option<u32>,
        /// With these words.
        #[serde(default = "on_purpose")]
        message: String,
    },
    /// Makes the host hold things, and keeps them for a while.
    Hold {
        /// Of what kind.
        what: Hold,
        /// How many.
        count: usize,
        /// How large each is, where it has a size.
        #[serde(default = "kilobyte")]
        bytes: usize,
        /// How long all are kept.
        #[serde(default)]
        ms: u64,
    },
    /// Does these one after the other, and copes with the failure of all but the last.
    Cope {
        /// What to do.
        steps: Vec<Attack>,
    },
    /// Waits for nothing at all, which the interface forbids.
    EmptyPoll,
    /// Makes a header of so many bytes.
    LongHeader {
        /// How long.
        bytes: usize,
    },
    /// Sends a request exactly as it is spelled, and reads the answer to its end.
    HttpGet(HttpGet),
    /// Tells a counter that this attempt ran: a request with the headers `x-task-id` and
    /// `x-attempt`.
    CountRuns {
        /// The counter.
        url: String,
        /// Waits after that.
        #[serde(default)]
        ms: u64,
        /// Fails then, so many times.
        #[serde(default)]
        fail_times: u32,
        /// Fails for good.
        #[serde(default)]
        permanent: bool,
    },
    /// Sends an e-mail.
    Mail {
        /// The sender.
        #[serde(default)]
        from: Option<String>,
        /// The recipients.
        to: Vec<String>,
        /// Recipients of a copy.
        #[serde(default)]
        cc: Vec<String>,
        /// Recipients whom the message does not name.
        #[serde(default)]
        bcc: Vec<String>,
        /// The subject.
        subject: String,
        /// The body.
        text: String,
    },
    /// Returns what the handler was told about its task.
    TaskInfo,
    /// Writes a line at every level and to every stream, and reports progress.
    Chatty,
    /// Returns the environment variables, arguments and standard input that it sees.
    Environment,
    /// Opens a file.
    ReadFile {
        /// Which.
        path: String,
    },
    /// Opens a raw TCP connection.
    Connect {
        /// To `address:port`.
        address: String,
    },
    /// Sends requests and waits for none of the answers before all are sent.
    SlowRequests {
        /// To this server.
        url: String,
        /// How many.
        count: u32,
    },
    /// Returns the value of a name of the configuration; without a name, all of them.
    Config {
        /// The name.
        #[serde(default)]
        key: Option<String>,
    },
    /// Reads and writes values, and returns what each step brought.
    KeyValue {
        /// The bucket.
        #[serde(default)]
        bucket: String,
        /// One after the other.
        steps: Vec<Step>,
    },
    /// Fills the stack that is not in use and so much new memory with a pattern, and leaves it
    /// there.
    FillMemory {
        /// Decides the pattern.
        marker: u32,
        /// How much new memory.
        bytes: usize,
    },
    /// Looks for the pattern in all memory that there is, and in so much new memory, before
    /// anything is written to it.
    ScanMemory {
        /// Decides the pattern.
        marker: u32,
        /// How much new memory.
        bytes: usize,
        /// Fills first, to show that the pattern would be found.
        #[serde(default)]
        after_filling: bool,
    },
}

/// One use of a bucket.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// Returns a value as text.
    Get {
        /// Its key.
        key: String,
    },
    /// Writes a value.
    Set {
        /// Its key.
        key: String,
        /// The value.
        value: String,
    },
    /// Writes a value of so many bytes under a key of so many bytes.
    SetHuge {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
    /// Deletes a value.
    Delete {
        /// Its key.
        key: String,
    },
    /// Whether there is a value.
    Exists {
        /// Its key.
        key: String,
    },
    /// Every key.
    Keys,
    /// One page of keys.
    Page {
        /// Where it begins.
        cursor: Option<u64>,
    },
    /// Adds to a number.
    Increment {
        /// Its key.
        key: String,
        /// How much.
        delta: u64,
    },
    /// Writes so many values at once, of so many bytes each, under `0000`, `0001`, …
    SetMany {
        /// How many.
        count: usize,
        /// Bytes of each.
        bytes: usize,
    },
    /// Returns how many of so many values there are.
    GetMany {
        /// How many.
        count: usize,
    },
    /// Deletes so many values at once.
    DeleteMany {
        /// How many.
        count: usize,
    },
}

/// A request that is not made well-formed on its way.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct HttpGet {
    /// Split at `://`, the next `/` and nowhere else: no spelling of a host is normalised.
    pub url: String,
    /// Replaces the authority of the URL.
    #[serde(default)]
    pub authority: Option<String>,
    /// Replaces path and query, so that an absolute form can be sent.
    #[serde(default)]
    pub path: Option<String>,
    /// More headers.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Follows `Location`, up to ten times.
    #[serde(default)]
    pub follow: bool,
    /// Sends the request so many times.
    #[serde(default = "once")]
    pub times: u32,
}

/// Where to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// `wasi:logging`.
    Logging,
    /// All three.
    #[default]
    All,
}

const fn huge() -> usize {
    100_000_000
}

fn not_json() -> String {
    "{this is not json".to_owned()
}

const fn thousand() -> u64 {
    1_000
}

const fn kilobyte() -> usize {
    1_000
}

const fn hour() -> u64 {
    3_600_000
}

fn on_purpose() -> String {
    "on purpose".to_owned()
}

const fn once() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_named_in_snake_case_and_has_defaults() {
        let attack = |text| serde_json::from_str::<Attack>(text);
        assert!(matches!(
            attack(r#"{"attack":"huge_output"}"#),
            Ok(Attack::HugeOutput { bytes: 100_000_000 })
        ));
        assert!(matches!(
            attack(r#"{"attack":"http_get","url":"http://x/","follow":true}"#),
            Ok(Attack::HttpGet(HttpGet { follow: true, times: 1, .. }))
        ));
        assert!(attack(r#"{"attack":"be_nice"}"#).is_err());
    }
}
