//! Whose web page a request comes from, where no key says who may ask.
//!
//! A browser sends requests for any page that a person opens. Without a key two things tell them
//! from the person's own: a page on another site says so (`Origin`, `Sec-Fetch-Site`), and a page
//! whose name was made to point here (DNS rebinding) has that name in `Host`.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use http::{HeaderMap, Method, header};

use crate::{
    Problem, ProblemKind,
    http::target::{host, split_port},
};

/// Pages, which show nothing of what is stored: a link on another site may lead to them.
const PAGES: [&str; 4] = ["/", "/docs", "/docs/", "/docs/{*file}"];

/// Which requests are let through without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// A key decides.
    Off,
    /// None of another site's page. `Host` may be anything: the listener is reached by names that
    /// only its operator knows.
    Origin,
    /// And `Host` must be a loopback address, or `localhost`.
    Loopback,
}

impl Guard {
    /// For a listener that asks for no key.
    pub(crate) fn of(listener: SocketAddr) -> Self {
        match listener.ip().to_canonical().is_loopback() {
            true => Self::Loopback,
            false => Self::Origin,
        }
    }

    /// Lets a request through or says why not.
    pub(crate) fn check(self, route: &str, request: &Request) -> Result<(), Problem> {
        if self == Self::Off {
            return Ok(());
        }
        let headers = request.headers();
        let named = request.uri().authority().map(http::uri::Authority::as_str);
        let host = named.or(host(headers, request.version())?);
        if self == Self::Loopback && !host.is_some_and(is_loopback) {
            return Err(refused(
                "This server asks for no key, so it answers only to localhost and loopback \
                 addresses in the Host header.",
            ));
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_read && PAGES.contains(&route) {
            return Ok(());
        }
        match is_own(headers, host) {
            true => Ok(()),
            false => Err(refused(
                "This server asks for no key, so it takes no requests from pages of other sites \
                 (Origin, Sec-Fetch-Site).",
            )),
        }
    }
}

fn refused(detail: &'static str) -> Problem {
    Problem::new(ProblemKind::ForeignOrigin, detail)
}

fn is_loopback(authority: &str) -> bool {
    let Some((host, _)) = split_port(authority) else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        // The name that systems and browsers never ask the network for.
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether a request comes from no page, or from one that this server itself has served.
fn is_own(headers: &HeaderMap, host: Option<&str>) -> bool {
    let sites = headers.get_all("sec-fetch-site").iter();
    let mut sites = sites.map(http::HeaderValue::as_bytes);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    sites.all(|site| matches!(site, b"same-origin" | b"none"))
        && origins.all(|origin| {
            let origin = origin.to_str().unwrap_or_default();
            let authority = ["http://", "https://"].iter().find_map(|scheme| {
                let start = origin.get(..scheme.len())?;
                start.eq_ignore_ascii_case(scheme).then(|| &origin[scheme.len()..])
            });
            authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
        })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let builder = http::Request::builder().method(method).uri("/tasks");
        let builder =
            headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(Body::empty()).unwrap()
    }

    fn passes(guard: Guard, route: &str, method: &str, headers: &[(&str, &str)]) -> bool {
        guard.check(route, &request(method, headers)).is_ok()
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]:8000",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(passes(Guard::Loopback, "/tasks", "GET", &[("host", good)]), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "127.1",
        ] {
            assert!(!passes(Guard::Loopback, "/", "GET", &[("host", bad)]), "{bad}");
            assert!(passes(Guard::Origin, "/tasks", "GET", &[("host", bad)]), "{bad}");
            assert!(passes(Guard::Off, "/tasks", "GET", &[("host", bad)]), "{bad}");
        }
    }

    #[test]
    fn other_sites_are_refused_but_for_pages() {
        let host = ("host", "localhost:8000");
        for own in [
            &[host][..],
            &[host, ("origin", "http://localhost:8000")],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, ("sec-fetch-site", "none")],
        ] {
            assert!(passes(Guard::Loopback, "/tasks", "POST", own), "{own:?}");
        }
        for foreign in [
            ("origin", "http://evil.example"),
            ("origin", "http://localhost:3000"),
            ("origin", "http://127.0.0.1:8000"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "new-thing"),
        ] {
            for guard in [Guard::Loopback, Guard::Origin] {
                for method in ["GET", "POST", "DELETE"] {
                    assert!(
                        !passes(guard, "/tasks", method, &[host, foreign]),
                        "{method} {foreign:?}"
                    );
                }
                assert!(passes(guard, "/docs/", "GET", &[host, foreign]), "{foreign:?}");
                assert!(!passes(guard, "/docs/", "POST", &[host, foreign]), "{foreign:?}");
            }
        }
    }
}
