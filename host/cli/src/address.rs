//! Parses addresses as people type them: with or without a scheme, by name or by number.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use reqwest::Url;

/// The default address of `dev` and `serve`, which `health` asks too.
pub(crate) const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// The default admin address of `worker`.
pub(crate) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Ports after a default one that are tried when it is taken.
const NEXT: u16 = 100;

/// The URL of a server: `http://host:8000`, `localhost:8000`, `127.0.0.1`, `:8000`.
pub(crate) fn server_url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(&with_scheme(&with_host(text), "http")).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err("names no host".to_owned()),
        other => Err(format!("begins with {other}://, where http:// or https:// is needed")),
    }
}

/// Where to listen: `127.0.0.1:8000`, `localhost:8000`, `[::1]:8000`, `:8000` on loopback, or as a
/// URL.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim().trim_end_matches('/');
    let bare = with_host(bare.strip_prefix("http://").unwrap_or(bare));
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let has_port = bare.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port {
        return Err(
            "must be an address and a port, such as 127.0.0.1:8000 or localhost:8000".to_owned()
        );
    }
    let found: Vec<_> = bare.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    // A name for both kinds of loopback is taken for the one that every machine has.
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "leads to no address".to_owned())
}

/// The URL of a PostgreSQL database, whose scheme may be left out. Its user reports what is wrong
/// with it, without the password.
pub(crate) fn database_url(text: &str) -> Result<String, std::convert::Infallible> {
    let is_url = !text.split('?').next().unwrap_or_default().contains(['=', ' ']);
    Ok(match is_url {
        true => with_scheme(text, "postgres"),
        false => text.to_owned(),
    })
}

/// The URL of a Redis server, likewise.
pub(crate) fn redis_url(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(with_scheme(text, "redis"))
}

/// `log`, or the URL of a mail server, likewise.
pub(crate) fn mailer(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(match text.trim() {
        // A word is no address: `log` with a slip in it is refused where it is used.
        url if url.contains(['.', ':']) => with_scheme(url, "smtp"),
        word => word.to_owned(),
    })
}

fn with_scheme(text: &str, scheme: &str) -> String {
    let text = text.trim();
    match text.contains("://") || text.is_empty() {
        true => text.to_owned(),
        false => format!("{scheme}://{text}"),
    }
}

/// A port alone is one of this machine.
fn with_host(text: &str) -> String {
    let text = text.trim();
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.to_owned(),
    }
}

/// Listens at the chosen address, or else at the default address or the first free port after it.
///
/// # Errors
/// The address that could not be had, and why.
pub(crate) async fn bind<L, E>(
    chosen: Option<SocketAddr>,
    default: SocketAddr,
    mut bind: impl AsyncFnMut(SocketAddr) -> Result<L, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<L, (SocketAddr, E)> {
    let first = chosen.unwrap_or(default);
    let mut refused = match bind(first).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if chosen.is_none() {
        for next in 1..=NEXT {
            if !is_taken(&refused) {
                break;
            }
            let address = SocketAddr::new(default.ip(), default.port().saturating_add(next));
            match bind(address).await {
                Ok(listener) => {
                    tracing::warn!(
                        "{default}, the default address, is taken; listening on {address}"
                    );
                    return Ok(listener);
                }
                Err(error) => refused = error,
            }
        }
    }
    Err((first, refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_by_whatever_people_type() {
        for (text, url) in [
            ("localhost:8201", "http://localhost:8201/"),
            ("127.0.0.1:8200", "http://127.0.0.1:8200/"),
            ("127.0.0.1", "http://127.0.0.1/"),
            ("[::1]:8000", "http://[::1]:8000/"),
            (":8000", "http://127.0.0.1:8000/"),
            ("8000", "http://127.0.0.1:8000/"),
            ("tasks.example.com/api", "http://tasks.example.com/api"),
            (" https://tasks.example.com ", "https://tasks.example.com/"),
        ] {
            assert_eq!(server_url(text).map(String::from), Ok(url.to_owned()), "{text}");
        }
        for wrong in ["ftp://a.test", "postgres://localhost/db", "http://", "", "a b"] {
            assert!(server_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_to_listen_on_may_be_a_name_or_a_port() {
        for (text, address) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("localhost:8201", "127.0.0.1:8201"),
            ("http://localhost:8201/", "127.0.0.1:8201"),
            ("http://0.0.0.0:80", "0.0.0.0:80"),
            (":9000", "127.0.0.1:9000"),
            ("9000", "127.0.0.1:9000"),
            ("[::1]:8000", "[::1]:8000"),
        ] {
            assert_eq!(listen(text), Ok(address.parse().unwrap()), "{text}");
        }
        for wrong in ["localhost", "127.0.0.1", "", "localhost:port", "127.0.0.1:70000"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stores_and_mail_servers_are_understood_without_a_scheme() {
        let of =
            |read: fn(&str) -> Result<String, std::convert::Infallible>, text| read(text).unwrap();
        assert_eq!(of(redis_url, "localhost:6379"), "redis://localhost:6379");
        assert_eq!(of(redis_url, "rediss://a:1"), "rediss://a:1");
        assert_eq!(of(database_url, "me@localhost:5432/db"), "postgres://me@localhost:5432/db");
        assert_eq!(of(database_url, "a/db?sslmode=require"), "postgres://a/db?sslmode=require");
        assert_eq!(of(database_url, "host=a dbname=b"), "host=a dbname=b");
        assert_eq!(of(database_url, "mysql://a/b"), "mysql://a/b");
        assert_eq!((of(mailer, "log"), of(mailer, "a:25")), ("log".into(), "smtp://a:25".into()));
    }

    #[tokio::test]
    async fn only_a_default_port_that_is_taken_is_replaced() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let default = taken.local_addr().unwrap();
        let is_taken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
        let listen = async |chosen| {
            let bind = async |address| std::net::TcpListener::bind::<SocketAddr>(address);
            self::bind(chosen, default, bind, is_taken).await
        };
        let other = listen(None).await.unwrap().local_addr().unwrap();
        assert!(other.port() > default.port() || default.port() == u16::MAX, "{other}");
        let (address, error) = listen(Some(default)).await.unwrap_err();
        assert!(address == default && is_taken(&error), "{error}");
    }
}
