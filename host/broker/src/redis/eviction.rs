//! What the server does with keys when its memory is full.

use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

/// How often the server is asked: its configuration may change while it runs.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The `maxmemory-policy` of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// `noeviction`: a command for which there is no room fails, so the loss is noticed.
    Never,
    /// A policy that deletes keys, by its name. Hints, counts and policies vanish then without a
    /// failure.
    Policy(String),
    /// The server does not say.
    Unknown(String),
}

impl Eviction {
    /// The policy's name; `unknown` if the server does not say.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Never => "noeviction",
            Self::Policy(name) => name,
            Self::Unknown(_) => "unknown",
        }
    }

    /// What an operator should know, if anything, in words that any client may read.
    #[must_use]
    pub fn concern(&self) -> Option<String> {
        match self {
            Self::Never => None,
            Self::Policy(name) => Some(format!(
                "Redis deletes keys when its memory is full (maxmemory-policy {name}): tasks can wait until \
                 an audit finds them; set noeviction"
            )),
            Self::Unknown(_) => Some(
                "Redis does not say what it does when its memory is full; its maxmemory-policy must be noeviction"
                    .to_owned(),
            ),
        }
    }

    /// Logs a change.
    pub(super) fn report(&self, known: Option<&Self>) {
        if known.map(Self::name) == Some(self.name()) {
            return;
        }
        match (self, self.concern()) {
            (Self::Unknown(error), Some(concern)) => tracing::warn!(error, "{concern}"),
            (_, Some(concern)) => tracing::warn!(policy = self.name(), "{concern}"),
            (_, None) => tracing::debug!("Redis keeps what it is given"),
        }
    }

    /// The policy named in an answer, if any; of several servers the worst one.
    fn find(texts: &[String]) -> Option<Self> {
        let mut found = None;
        for name in texts {
            // The name becomes part of a metric and of a log line.
            let is_name = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            match name.as_str() {
                "noeviction" => found = found.or(Some(Self::Never)),
                _ if is_name => return Some(Self::Policy(name.clone())),
                _ => {}
            }
        }
        found
    }
}

/// The commands to ask with: `INFO`, which most servers allow, and then `CONFIG`, which managed
/// ones do not.
pub(super) fn questions() -> [Cmd; 2] {
    let mut info = redis::cmd("INFO");
    info.arg("memory");
    let mut config = redis::cmd("CONFIG");
    config.arg("GET").arg("maxmemory-policy");
    [info, config]
}

/// Reads the answer to either question.
///
/// # Errors
/// Why it names no policy.
pub(super) fn read(answer: RedisResult<Value>) -> Result<Eviction, String> {
    let mut texts = Vec::new();
    collect(&answer.map_err(|error| error.to_string())?, &mut texts);
    let names = [of_info(&texts), of_config(&texts)].concat();
    Eviction::find(&names).ok_or_else(|| "it names no policy".to_owned())
}

fn of_info(texts: &[String]) -> Vec<String> {
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("maxmemory_policy:"))
        .map(str::to_owned)
        .collect()
}

fn of_config(texts: &[String]) -> Vec<String> {
    let values = texts.iter().zip(texts.iter().skip(1));
    values.filter(|(name, _)| *name == "maxmemory-policy").map(|(_, value)| value.clone()).collect()
}

/// All texts of an answer, in order: a cluster answers for each of its servers.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::BulkString(bytes) => texts.push(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => texts.push(text.clone()),
        Value::VerbatimString { text, .. } => texts.push(text.clone()),
        Value::Array(values) | Value::Set(values) => {
            values.iter().for_each(|value| collect(value, texts));
        }
        Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            collect(key, texts);
            collect(value, texts);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn lru() -> Eviction {
        Eviction::Policy("allkeys-lru".to_owned())
    }

    #[test]
    fn either_answer_is_read_and_of_several_servers_the_worst_counts() {
        let info = |policy: &str| {
            text(&format!("# Memory\r\nused:1\r\nmaxmemory_policy:{policy}\r\nx:y\r\n"))
        };
        let config = |policy: &str| Value::Map(vec![(text("maxmemory-policy"), text(policy))]);
        let array = |policy: &str| Value::Array(vec![text("maxmemory-policy"), text(policy)]);
        let two = Value::Map(vec![
            (text("one:1"), info("noeviction")),
            (text("two:2"), info("allkeys-lru")),
        ]);
        for (answer, found) in [
            (info("noeviction"), Eviction::Never),
            (info("allkeys-lru"), lru()),
            (config("noeviction"), Eviction::Never),
            (config("allkeys-lru"), lru()),
            (array("allkeys-lru"), lru()),
            (two, lru()),
        ] {
            assert_eq!(read(Ok(answer)), Ok(found));
        }
    }

    #[test]
    fn a_server_that_does_not_say_is_not_taken_for_a_good_one() {
        for answer in [text(""), text("maxmemory_policy:\"x\""), Value::Nil, Value::Array(vec![])] {
            assert!(read(Ok(answer)).is_err());
        }
        let forbidden = Err((redis::ErrorKind::Client, "forbidden").into());
        assert!(read(forbidden).is_err_and(|why| why.contains("forbidden")));
        assert!(Eviction::Unknown(String::new()).concern().is_some());
    }
}
