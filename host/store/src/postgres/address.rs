//! Where the database is, as a URL says it.
//!
//! The form is that of libpq
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>):
//! `postgres://user:password@host:port,host:port/database?parameter=value`. The driver takes one
//! host, without brackets, so the URL is read here and each of its servers given to the driver in
//! the one form in which nothing can be mistaken: every value a percent-encoded parameter.

use std::{net::IpAddr, str::FromStr as _};

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use crate::{StoreError, StoreResult};

/// The servers of a database URL, and what holds for all of them.
#[derive(Clone)]
pub(super) struct Address {
    /// At least one. Empty: what the environment says (`PGHOST`, `PGPORT`), or else the default.
    servers: Vec<Server>,
    /// Names and values, decoded.
    parameters: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Server {
    host: String,
    port: String,
}

/// Parameters that the driver knows. Others are libpq's business, or a mistake.
const KNOWN: &[&str] = &[
    "user",
    "password",
    "dbname",
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "application_name",
    "options",
];

impl Address {
    /// # Errors
    /// [`StoreError::Refused`] when the URL cannot be used. The message does not repeat it, since
    /// it may hold a password.
    pub(super) fn parse(url: &str) -> StoreResult<Self> {
        read(url)
            .map_err(|why| StoreError::Refused(format!("the database URL cannot be used: {why}")))
    }

    /// The same servers, another database.
    pub(super) fn with_database(mut self, name: &str) -> Self {
        self.parameters.retain(|(known, _)| known != "dbname");
        self.parameters.push(("dbname".to_owned(), name.to_owned()));
        self
    }

    /// Whether it says whose certificates are believed.
    pub(super) fn names_authorities(&self) -> bool {
        let names = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
        self.parameters.iter().any(|(name, _)| names.contains(&name.as_str()))
    }

    /// As a URL.
    pub(super) fn to_url(&self) -> String {
        let list =
            |of: fn(&Server) -> &str| self.servers.iter().map(of).collect::<Vec<_>>().join(",");
        let servers =
            [("host", list(|server| &server.host)), ("port", list(|server| &server.port))];
        self.url_with(&servers)
    }

    /// What the driver needs to connect to each server, in the order of the URL.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when a value cannot be used.
    pub(super) fn options(&self) -> StoreResult<Vec<PgConnectOptions>> {
        self.servers.iter().map(|server| self.options_of(server)).collect()
    }

    fn options_of(&self, server: &Server) -> StoreResult<PgConnectOptions> {
        let mut url =
            self.url_with(&[("host", server.host.clone()), ("port", server.port.clone())]);
        // TLS on the loopback protects nothing, and costs.
        let says_tls = |(name, _): &(String, String)| name == "sslmode" || name == "ssl-mode";
        if !self.parameters.iter().any(says_tls) && is_loopback(&server.host) {
            url.push_str("&sslmode=disable");
        }
        let options = PgConnectOptions::from_str(&url).map_err(|error| {
            StoreError::Refused(format!("the database URL cannot be used: {error}"))
        })?;
        Ok(options
            .disable_statement_logging()
            // A pooler refuses startup parameters that it does not know, and floats travel in
            // binary.
            .extra_float_digits(None))
    }

    fn url_with(&self, servers: &[(&str, String)]) -> String {
        let parameters =
            self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let servers = servers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .filter(|(_, value)| value.chars().any(|c| c != ','));
        let pairs: Vec<_> = servers
            .chain(parameters)
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        format!("postgres:///?{}", pairs.join("&"))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn read(url: &str) -> Result<Address, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !["postgres", "postgresql"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err("it must begin with postgres://".to_owned());
    }
    // As libpq does: whatever comes before the last @ that no slash precedes is user and password.
    let head = rest.find('/').unwrap_or(rest.len());
    let (credentials, rest) = match rest.get(..head).and_then(|head| head.rfind('@')) {
        Some(at) => (rest.get(..at), rest.get(at + 1..).unwrap_or_default()),
        None => (None, rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (servers, database) = rest.split_once('/').unwrap_or((rest, ""));
    let mut address = Address {
        servers: servers.split(',').map(server).collect::<Result<_, _>>()?,
        parameters: Vec::new(),
    };
    let (user, password) = credentials
        .unwrap_or_default()
        .split_once(':')
        .unwrap_or((credentials.unwrap_or_default(), ""));
    let database = database.trim_start_matches('/');
    for (name, value) in [("user", user), ("password", password), ("dbname", database)] {
        if !value.is_empty() {
            address.parameters.push((name.to_owned(), decode(value)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        address.take(&decode(name)?, decode(value)?)?;
    }
    Ok(address)
}

impl Address {
    /// Takes a parameter of the query.
    fn take(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "host" | "hostaddr" => self.set(&value, "hosts", |server, host| server.host = host)?,
            "port" => self.set(&value, "ports", |server, port| server.port = port)?,
            // TaskForge writes, so whatever is said it looks for the server that takes writes.
            "target_session_attrs" => match value.as_str() {
                "any" | "read-write" | "primary" => {}
                _ => {
                    return Err(
                        "target_session_attrs must be read-write, primary or any: TaskForge writes"
                            .to_owned(),
                    );
                }
            },
            _ if KNOWN.contains(&name) || name.starts_with("options[") => {
                self.parameters.push((name.to_owned(), value));
            }
            // Not its value, which may be a secret.
            _ => tracing::warn!(parameter = name, "this parameter of the database URL is ignored"),
        }
        Ok(())
    }

    /// Gives each server its part of a list; one part is for all of them.
    fn set(&mut self, list: &str, what: &str, put: fn(&mut Server, String)) -> Result<(), String> {
        let parts: Vec<_> = list.split(',').collect();
        if self.servers.len() == 1 {
            let only = self.servers.first().cloned().unwrap_or_default();
            self.servers.resize(parts.len(), only);
        }
        if parts.len() != self.servers.len() && parts.len() != 1 {
            return Err(format!(
                "it names {} {what} for {} servers",
                parts.len(),
                self.servers.len()
            ));
        }
        for (server, part) in self.servers.iter_mut().zip(parts.iter().cycle()) {
            put(server, (*part).to_owned());
        }
        for server in &self.servers {
            check_port(&server.port)?;
        }
        Ok(())
    }
}

/// One server of the list: `host`, `host:port`, `[::1]:port`.
fn server(text: &str) -> Result<Server, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, rest) = rest.split_once(']').ok_or("a [ is not closed")?;
            let port = match rest {
                "" => "",
                rest => rest.strip_prefix(':').ok_or("a colon is missing after ]")?,
            };
            (ip, port)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    check_port(port)?;
    Ok(Server { host: decode(host)?, port: port.to_owned() })
}

fn check_port(port: &str) -> Result<(), String> {
    if port.is_empty() || port.parse::<u16>().is_ok() {
        return Ok(());
    }
    Err("a port is no number (an IPv6 address is written in brackets; in a user or a password \
         / is written %2F, : is written %3A and @ is written %40)"
        .to_owned())
}

/// Takes %XX for a byte. A percent sign that begins no such code is one.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let mut byte = [0];
        match code.map(|code| hex::decode_to_slice(code, &mut byte)) {
            Some(Ok(())) => {
                bytes.extend(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    if bytes.contains(&0) {
        return Err("it holds a zero byte".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 once %XX is decoded".to_owned())
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    /// Host, port, user, and database of each server.
    fn read(url: &str) -> Vec<(String, u16, String, String)> {
        let servers = Address::parse(url).unwrap().options().unwrap();
        let read = |options: &PgConnectOptions| {
            (
                options.get_host().to_owned(),
                options.get_port(),
                options.get_username().to_owned(),
                options.get_database().unwrap_or_default().to_owned(),
            )
        };
        let once: Vec<_> = servers.iter().map(read).collect();
        let again = Address::parse(&Address::parse(url).unwrap().to_url()).unwrap();
        let again: Vec<_> = again.options().unwrap().iter().map(read).collect();
        assert_eq!(once, again, "{url}");
        once
    }

    fn server(host: &str, port: u16, user: &str, database: &str) -> (String, u16, String, String) {
        (host.to_owned(), port, user.to_owned(), database.to_owned())
    }

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        for (url, host, port, user, database) in [
            ("postgres://u@[::1]:5433/db", "::1", 5433, "u", "db"),
            ("postgresql://u:p@[fe80::1]/db", "fe80::1", 5432, "u", "db"),
            ("postgres://u@127.0.0.1/db?port=5434", "127.0.0.1", 5434, "u", "db"),
            ("postgres://u@h:1/my%20d%C3%B6%2F%3F%23%25", "h", 1, "u", "my dö/?#%"),
            ("postgres://u@h:1/my d#b", "h", 1, "u", "my d#b"),
            ("postgres://us%40er%3A:p@h:1/d", "h", 1, "us@er:", "d"),
            ("postgres://us@er:p#?@h:1/d", "h", 1, "us@er", "d"),
            ("postgres://u:50%off@h:1/d", "h", 1, "u", "d"),
            ("postgres://u@h:1/d?target_session_attrs=any", "h", 1, "u", "d"),
            ("postgres://x@h:1/d?user=u&dbname=e", "h", 1, "u", "e"),
            ("POSTGRES://u@h:1/d", "h", 1, "u", "d"),
        ] {
            assert_eq!(read(url), [server(host, port, user, database)], "{url}");
        }
    }

    #[test]
    fn passwords_arrive_as_they_are() {
        // The driver shows none, but its URL does, encoded.
        for (written, meant) in [
            ("p%40ss%2Fw%3Ard%25", "p%40ss%2Fw%3Ard%25"),
            ("p#a?s[s]&w=o+r d", "p%23a%3Fs%5Bs%5D%26w%3Do%2Br%20d"),
            ("ü%C3%BC", "%C3%BC%C3%BC"),
            ("50%off", "50%25off"),
        ] {
            let address = Address::parse(&format!("postgres://u:{written}@h/d")).unwrap();
            assert!(address.to_url().contains(&format!("password={meant}&")), "{written}");
        }
    }

    #[test]
    fn several_servers_share_everything_else() {
        let both = [server("one", 1, "u", "d"), server("::2", 2, "u", "d")];
        assert_eq!(read("postgres://u@one:1,[::2]:2/d?target_session_attrs=read-write"), both);
        assert_eq!(read("postgres://u@/d?host=one,::2&port=1,2"), both);
        let same_port = [server("one", 7, "u", "d"), server("two", 7, "u", "d")];
        assert_eq!(read("postgres://u@one,two/d?port=7"), same_port);
        let other = Address::parse("postgres://u@one:1,two:2/d").unwrap().with_database("e/");
        assert_eq!(
            read(&other.to_url()),
            [server("one", 1, "u", "e/"), server("two", 2, "u", "e/")]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_a_word_of_the_password() {
        for (url, why) in [
            ("mysql://u:secret@h/d", "postgres://"),
            ("u:secret@h/d", "postgres://"),
            ("postgres://u:sec/secret@h/d", "%2F"),
            ("postgres://u:secret@::1/d", "brackets"),
            ("postgres://u:secret@[::1/d", "not closed"),
            ("postgres://u:secret@h:99999/d", "port"),
            ("postgres://u:secret@a,b/d?port=1,2,3", "3 ports for 2"),
            ("postgres://u:secret%00@h/d", "zero byte"),
            ("postgres://u:secret%FF@h/d", "UTF-8"),
            ("postgres://u:secret@h/d?target_session_attrs=standby", "writes"),
            ("postgres://u:secret@h/d?sslmode=perhaps", "perhaps"),
        ] {
            let options = Address::parse(url).and_then(|address| address.options());
            let error = options.expect_err(url).to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn tls_is_what_the_url_says_and_off_on_the_loopback() {
        let mode = |url: &str| {
            let options = Address::parse(url).unwrap().options().unwrap();
            options.first().unwrap().get_ssl_mode()
        };
        for local in ["localhost", "127.0.0.1:5433", "[::1]"] {
            assert!(matches!(mode(&format!("postgres://{local}/db")), PgSslMode::Disable));
            let explicit = format!("postgres://{local}/db?sslmode=require");
            assert!(matches!(mode(&explicit), PgSslMode::Require));
        }
        assert!(matches!(mode("postgres://u:sslmode=@db.example/db"), PgSslMode::Prefer));
        assert!(matches!(
            mode("postgres://db.example/db?sslmode=verify-full"),
            PgSslMode::VerifyFull
        ));
    }
}
