//! The HTTP client and its errors.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode, Url, multipart::Form};
use serde_json::Value;
use taskforge_domain::{Json, one_line};

use crate::{
    address,
    answer::Answer,
    args::ServerArgs,
    authorities, data_folder,
    exit::{Failure, Kind},
    output,
};

/// Talks to a TaskForge server.
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<String>,
    key_from: KeyFrom,
    /// The user's name, for the events of plugins.
    operator: Option<String>,
}

/// Where the key comes from, for the message when the server refuses it.
enum KeyFrom {
    /// A flag, a variable or the caller.
    Given,
    /// This file, in the data folder of a `taskforge dev`.
    File(PathBuf),
    /// There is a key in this file, but the `dev` of its data folder, if one runs, is not this
    /// server.
    Elsewhere(PathBuf),
    /// There is no key and no file.
    Nowhere,
    /// There is a file that cannot be used, for this reason.
    Unreadable(String),
}

/// How long the server may take to answer, beyond the time that a long poll asks for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a component: sent, and compiled.
const PUSH_TIMEOUT: Duration = Duration::from_secs(450);

impl Client {
    /// A client of the server that the arguments name.
    pub(crate) fn connect(args: &ServerArgs) -> anyhow::Result<Self> {
        let home = data_folder::address(&args.data_dir);
        let (server, is_home) =
            target(args.server.as_ref(), home.as_ref().ok().copied().flatten())?;
        if let Some(key) = &args.api_key {
            return Self::new(server, Some(key.clone()), KeyFrom::Given);
        }
        if !is_loopback(&server) {
            return Self::new(server, None, KeyFrom::Nowhere);
        }
        let file = data_folder::key_file(&args.data_dir);
        // Another listener on this machine must not get the key.
        let found = match home {
            Ok(_) if is_home => data_folder::key(&args.data_dir),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        let (key, from) = match found {
            Ok(Some(key)) => (Some(key), KeyFrom::File(file)),
            Ok(None) if !is_home && file.exists() => (None, KeyFrom::Elsewhere(file)),
            Ok(None) => (None, KeyFrom::Nowhere),
            Err(error) => {
                // The server may need no key.
                let reason = format!("{error:#}");
                output::aside(&format!("warning: {reason}; going on without a key"));
                (None, KeyFrom::Unreadable(reason))
            }
        };
        Self::new(server, key, from)
    }

    /// A client with this key.
    pub(crate) fn with_key(server: Url, key: Option<String>) -> anyhow::Result<Self> {
        Self::new(server, key, KeyFrom::Given)
    }

    fn new(server: Url, key: Option<String>, key_from: KeyFrom) -> anyhow::Result<Self> {
        if server.cannot_be_a_base() {
            bail!("{server} is not an http:// address");
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("taskforge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .tls_backend_preconfigured(authorities::client(&server)?);
        if is_loopback(&server) {
            // A proxy in the environment leads elsewhere: its loopback is not this machine's.
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build()?,
            server,
            key,
            key_from,
            operator: std::env::var("USER").ok().filter(|name| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
            }),
        })
    }

    /// Sends a request and reads the answer as JSON. `path` is below the server's address; segments
    /// that may need it must be [`escaped`].
    ///
    /// A problem document becomes an error with its texts.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Json>,
        wait: Duration,
    ) -> anyhow::Result<Answer> {
        let mut request = self.begin(method, path, query, ANSWER_TIMEOUT + wait);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.finish(request).await
    }

    /// Pushes a component and what comes with it, which may take a while to compile.
    pub(crate) async fn push(
        &self,
        query: &[(&str, String)],
        form: Form,
    ) -> anyhow::Result<Answer> {
        let request = self.begin(Method::POST, "plugins", query, PUSH_TIMEOUT);
        self.finish(request.multipart(form)).await
    }

    fn begin(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        timeout: Duration,
    ) -> reqwest::RequestBuilder {
        let mut url = self.server.clone();
        url.set_path(&format!("{}/{path}", self.server.path().trim_end_matches('/')));
        let mut request = self.http.request(method, url).query(query).timeout(timeout);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(operator) = &self.operator {
            request = request.header("x-operator", operator);
        }
        request
    }

    async fn finish(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let unreachable = |error: reqwest::Error, what: String| {
            anyhow::Error::from(error).context(Failure::new(Kind::Unreachable, what))
        };
        let response = request.send().await.map_err(|error| {
            let what = format!(
                "no answer from {}; is `taskforge dev` or `taskforge serve` running there? (--server, TASKFORGE_SERVER)",
                self.server
            );
            unreachable(error, what)
        })?;
        let status = response.status();
        let text = response.text().await;
        let text = text.map_err(|error| unreachable(error, "the answer broke off".to_owned()))?;
        if status.is_success() {
            return Answer::parse(text)
                .with_context(|| format!("{} did not answer as a TaskForge server", self.server));
        }
        let mut message = problem(status, &text);
        if status == StatusCode::UNAUTHORIZED {
            message.push_str(&self.about_the_key());
        }
        let said = Json::parse(text).ok();
        Err(Failure::new(kind(status), message).with_problem(said).into())
    }

    /// Names the key that the server refused, and where another one would come from.
    fn about_the_key(&self) -> String {
        const NAMED: &str = "--api-key, TASKFORGE_API_KEY";
        const FOLDER: &str = "--data-dir, TASKFORGE_DATA_DIR";
        match &self.key_from {
            KeyFrom::Given => format!("\n  the key was the one of {NAMED}"),
            KeyFrom::File(file) => format!(
                "\n  the key was the one in {}, and the server at {} has another: {NAMED}, or the data folder \
                 of its `taskforge dev` ({FOLDER})",
                file.display(),
                self.server
            ),
            KeyFrom::Elsewhere(file) => format!(
                "\n  the key in {} was not sent: no `taskforge dev` that runs on its folder says that it listens at {}; {NAMED}",
                file.display(),
                self.server
            ),
            KeyFrom::Nowhere => {
                format!(
                    "\n  no key was found: {NAMED}, or for a `taskforge dev` its data folder ({FOLDER})"
                )
            }
            KeyFrom::Unreadable(reason) => format!("\n  no key was sent: {reason}; {NAMED}"),
        }
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.request(Method::GET, path, query, None, Duration::ZERO).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Json) -> anyhow::Result<Answer> {
        self.request(Method::PUT, path, &[], Some(body), Duration::ZERO).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.request(Method::DELETE, path, &[], None, Duration::ZERO).await
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Json>) -> anyhow::Result<Answer> {
        self.request(Method::POST, path, &[], body, Duration::ZERO).await
    }

    /// The whole id of a task, of which the first digits are enough where no other task has them.
    pub(crate) async fn task_id(&self, text: &str) -> anyhow::Result<String> {
        if let Ok(id) = text.parse::<uuid::Uuid>() {
            return Ok(id.to_string());
        }
        let query = [("id_prefix", text.to_owned()), ("limit", "2".to_owned())];
        let found = self.get("tasks", &query).await?;
        let ids: Vec<_> = found["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|task| output::cell(&task["id"]))
            .collect();
        match ids.as_slice() {
            [id] => Ok(id.clone()),
            [] => Err(Failure::new(
                Kind::NotFound,
                format!("no task has an id that begins with {text}"),
            )
            .into()),
            [one, other, ..] => Err(Failure::usage(format!(
                "more than one task has an id that begins with {text}, such as {one} and {other}: give more of it"
            ))),
        }
    }
}

/// The kind of failure that a status means.
fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Kind::Unreachable,
        status if status.is_client_error() => Kind::Refused,
        _ => Kind::Failed,
    }
}

/// The server to speak to, and whether it is the `dev` that listens at `home`, whose key it may be
/// sent. A name for this machine becomes the address: it may lead to another listener on the same
/// port.
fn target(named: Option<&Url>, home: Option<SocketAddr>) -> anyhow::Result<(Url, bool)> {
    let default = Url::parse(&format!("http://{}", home.unwrap_or(address::API)))?;
    let home = home.filter(|home| home.ip().to_canonical().is_loopback());
    let Some(named) = named else {
        return Ok((default, home.is_some()));
    };
    let host = named.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_home = named.scheme() == "http"
        && home.is_some_and(|home| {
            named.port_or_known_default() == Some(home.port())
                && ip
                    .map_or(host == "localhost", |ip| ip.to_canonical() == home.ip().to_canonical())
        });
    let mut server = named.clone();
    if is_home {
        server.set_host(default.host_str())?;
    }
    Ok((server, is_home))
}

fn is_loopback(server: &Url) -> bool {
    let host = server.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.to_canonical().is_loopback())
}

/// A segment of a path, whatever is in it.
pub(crate) fn escaped(segment: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'+' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    segment.bytes().map(escape).collect()
}

/// What a problem document says, in one line a fault.
fn problem(status: StatusCode, text: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Value>(text) else {
        return format!("the server answered {status}");
    };
    // Each on its line: a detail may quote what somebody else has written.
    let said = |key: &str| problem.get(key).and_then(Value::as_str).map(one_line);
    let mut message = match (said("title"), said("detail")) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(one), None) | (None, Some(one)) => one.into_owned(),
        (None, None) => format!("the server answered {status}"),
    };
    for fault in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let part = |key: &str| one_line(fault.get(key).and_then(Value::as_str).unwrap_or_default());
        let (pointer, parameter) = (part("pointer"), part("parameter"));
        let place = if pointer.is_empty() { parameter } else { pointer };
        message.push_str(&format!("\n  {place}: {}", part("detail")));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_sent_a_key_that_was_not_named() {
        let is = |url: &str| is_loopback(&url.parse().unwrap());
        for here in
            ["http://localhost:1", "http://127.0.0.1:8000/", "http://127.9.9.9", "http://[::1]:1"]
        {
            assert!(is(here), "{here}");
        }
        for there in
            ["http://localhost.example", "http://10.0.0.1", "https://a.example", "http://[::2]"]
        {
            assert!(!is(there), "{there}");
        }
    }

    #[test]
    fn a_key_in_a_folder_is_for_the_server_that_runs_on_it() {
        let home: Option<SocketAddr> = "127.0.0.1:8001".parse().ok();
        let of = |named: Option<&str>, home: Option<SocketAddr>| {
            let named: Option<Url> = named.map(|named| named.parse().unwrap());
            let (server, is_home) = target(named.as_ref(), home).unwrap();
            (server.to_string(), is_home)
        };
        let at = |server: &str, is_home| (server.to_owned(), is_home);
        assert_eq!(of(None, None), at("http://127.0.0.1:8000/", false));
        assert_eq!(of(None, home), at("http://127.0.0.1:8001/", true));
        let elsewhere = "10.1.2.3:8001".parse().ok();
        assert_eq!(of(None, elsewhere), at("http://10.1.2.3:8001/", false));
        for named in
            ["http://127.0.0.1:8001/", "http://localhost:8001/", "http://[::ffff:127.0.0.1]:8001/"]
        {
            assert_eq!(of(Some(named), home), at("http://127.0.0.1:8001/", true), "{named}");
            assert!(!of(Some(named), None).1, "{named}");
        }
        for named in [
            "http://127.0.0.1:8000/",
            "http://127.0.0.2:8001/",
            "http://[::1]:8001/",
            "https://127.0.0.1:8001/",
            "http://localhost.example:8001/",
        ] {
            assert_eq!(of(Some(named), home), at(named, false));
        }
    }

    #[test]
    fn what_may_succeed_later_is_told_apart_from_a_refusal() {
        for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT] {
            assert_eq!(kind(status), Kind::Unreachable, "{status}");
        }
        assert_eq!(kind(StatusCode::CONFLICT), Kind::Refused);
    }

    #[test]
    fn a_problem_names_each_fault() {
        let text = r#"{"title":"Invalid","detail":"1 field","errors":[{"pointer":"/input/n","detail":"too small"}]}"#;
        assert_eq!(
            problem(StatusCode::UNPROCESSABLE_ENTITY, text),
            "Invalid: 1 field\n  /input/n: too small"
        );
        assert_eq!(
            problem(StatusCode::BAD_GATEWAY, "<html>"),
            "the server answered 502 Bad Gateway"
        );
    }
}
