//! The requests of one fetch: redirects, cookies and credentials, within one time limit.

use std::{
    collections::HashSet,
    time::{Duration, Instant, SystemTime},
};

use taskforge_sdk::{
    Failure, OrFail,
    http::{self, Body, ErrorKind, Response, Url},
};

use crate::{
    Input, Redirect,
    address::{location, redirect, same_site, without_fragment},
    cookies::Jar,
    headers::Headers,
    media::{Media, may_be_a_page},
};

/// What a server is told that answers 406 to a request without a language: any will do, and the
/// ones that most pages are written in by name, for servers that know no `*`.
const ANY_LANGUAGE: &str = "*, en;q=0.9, de;q=0.8, es;q=0.8, fr;q=0.8, it;q=0.8, ja;q=0.8, \
                            nl;q=0.8, pl;q=0.8, pt;q=0.8, ru;q=0.8, tr;q=0.8, zh;q=0.8";

/// The longest wait that a busy server may ask for; after one that asks for more, its answer is the
/// result.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Headers of the input that are for the site that it names, and for no other.
const PRIVATE: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// An answer that does not redirect.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its status.
    pub status: u16,
    /// Where it came from.
    pub url: Url,
    /// All of its headers.
    pub headers: Headers,
    /// The body, as it came over the wire; none when its type says that it is no page.
    pub body: Option<Body>,
    /// Why not all of the body came.
    pub broken: Option<String>,
}

/// An address, and the cookies that go there.
type State = (String, Option<Vec<u8>>);

/// What the requests of one fetch share.
#[derive(Debug)]
pub struct Session<'a> {
    input: &'a Input,
    started: Instant,
    /// Nobody will try again after this attempt, so that what can be told is told now.
    last_attempt: bool,
    /// Where the input's own headers may go.
    home: Url,
    /// An `Authorization` header, and where it may go.
    credentials: Option<(Url, String)>,
    accept_language: Option<&'a str>,
    jar: Jar,
    seen: HashSet<State>,
    redirects: Vec<Redirect>,
}

impl<'a> Session<'a> {
    /// The first request is to be the one for the address that is returned.
    ///
    /// # Errors
    /// Permanent for a bad address.
    pub fn new(input: &'a Input, last_attempt: bool) -> Result<(Self, Url), Failure> {
        let mut url = http::parse_url(input.url.trim())?;
        let named = http::take_credentials(&mut url);
        let given = input
            .basic_auth
            .as_ref()
            .map(|auth| http::basic_credentials(&auth.username, &auth.password));
        let session = Self {
            input,
            started: Instant::now(),
            last_attempt,
            home: url.clone(),
            credentials: given.or(named).map(|header| (url.clone(), header)),
            accept_language: input.accept_language.as_deref(),
            jar: Jar::default(),
            seen: HashSet::new(),
            redirects: Vec::new(),
        };
        Ok((session, url))
    }

    /// The answers that redirected so far.
    #[must_use]
    pub fn redirects(&self) -> &[Redirect] {
        &self.redirects
    }

    /// Asks for a page and follows redirects.
    ///
    /// # Errors
    /// Permanent for a denied destination and redirects that lead nowhere; retryable for what may
    /// pass, and for a server that asks to come back later.
    pub async fn fetch(&mut self, mut url: Url) -> Result<Fetched, Failure> {
        loop {
            let response = self.ask(&url).await?;
            for line in response.header_lines("set-cookie") {
                self.jar.set(&url, line, SystemTime::now());
            }
            let status = response.status();
            if status == 406 && self.accept_language.is_none() && !self.says("accept-language") {
                self.accept_language = Some(ANY_LANGUAGE);
                continue;
            }
            let to = response.header_lines("location").next().map(location);
            let Some(mut next) = self.next_hop(&url, status, to.as_deref())? else {
                self.come_back_later(&response, &url)?;
                return self.read(response, url).await;
            };
            if self.redirects.len() >= usize::from(self.input.max_redirects) {
                let most = self.input.max_redirects;
                return Err(Failure::permanent(format!("more than {most} redirects")));
            }
            self.redirected(status, &url);
            if let Some(header) = http::take_credentials(&mut next) {
                self.credentials = Some((next.clone(), header));
            }
            url = next;
        }
    }

    /// Where a page sends its readers: followed like a redirect, but a page that leads nowhere, or
    /// too far, is a page all the same.
    pub fn refresh(&mut self, status: u16, url: &Url, mut next: Url) -> Option<Url> {
        let most = usize::from(self.input.max_redirects);
        if !self.input.follow_meta_refresh || self.redirects.len() >= most || self.was_seen(&next) {
            return None;
        }
        self.redirected(status, url);
        if let Some(header) = http::take_credentials(&mut next) {
            self.credentials = Some((next.clone(), header));
        }
        Some(next)
    }

    fn redirected(&mut self, status_code: u16, url: &Url) {
        self.redirects.push(Redirect { status_code, url: url.to_string() });
    }

    /// Whether the input has this header.
    fn says(&self, name: &str) -> bool {
        let mut names = self.input.headers.keys();
        names.any(|other| other.eq_ignore_ascii_case(name))
    }

    async fn ask(&mut self, url: &Url) -> Result<Response, Failure> {
        self.seen.insert(self.state(url));
        let time_limit = Duration::from_millis(self.input.timeout_ms.into());
        let left = time_limit.saturating_sub(self.started.elapsed());
        let mut request = http::get(url).timeout(left);
        for (name, value) in self.request_headers(url) {
            request = request.header(name, value);
        }
        request.send().await.context(url)
    }

    fn request_headers(&self, url: &Url) -> Vec<(&str, Vec<u8>)> {
        let ours = [
            ("accept", Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.5")),
            ("accept-encoding", Some("gzip, br, deflate")),
            ("accept-language", self.accept_language),
            ("user-agent", Some(self.input.user_agent.as_str())),
        ];
        let mut headers: Vec<(&str, Vec<u8>)> = ours
            .into_iter()
            .filter(|(name, _)| !self.says(name))
            .filter_map(|(name, value)| Some((name, value?.into())))
            .collect();
        let at_home = same_site(&self.home, url);
        let mut cookies = self.jar.header(url);
        for (name, value) in &self.input.headers {
            let is_private = PRIVATE.iter().any(|other| name.eq_ignore_ascii_case(other));
            if is_private && !at_home {
                continue;
            }
            let value = value.clone().into_bytes();
            if name.eq_ignore_ascii_case("cookie") {
                cookies = Some(match cookies {
                    Some(kept) => [value, kept].join(&b"; "[..]),
                    None => value,
                });
            } else {
                headers.push((name, value));
            }
        }
        headers.extend(cookies.map(|cookies| ("cookie", cookies)));
        if let Some((site, header)) = &self.credentials
            && same_site(site, url)
            && !(at_home && self.says("authorization"))
        {
            headers.push(("authorization", header.clone().into_bytes()));
        }
        headers
    }

    /// What an answer depends on: asked again for the same, a server answers the same.
    fn state(&self, url: &Url) -> State {
        (without_fragment(url).to_owned(), self.jar.header(url))
    }

    fn was_seen(&self, url: &Url) -> bool {
        let mut url = url.clone();
        http::take_credentials(&mut url);
        self.seen.contains(&self.state(&url))
    }

    /// Where an answer sends us; `None` when it is final. A redirect without a `Location`, or with
    /// an empty one, is final.
    fn next_hop(&self, url: &Url, status: u16, to: Option<&str>) -> Result<Option<Url>, Failure> {
        let (301 | 302 | 303 | 307 | 308, Some(to)) = (status, to.filter(|to| !to.is_empty()))
        else {
            return Ok(None);
        };
        let dead_end = |why: &str| {
            let to = http::without_credentials(to);
            Failure::permanent(format!("{url} redirects to {to:?}, {why}"))
        };
        let next =
            redirect(url, to).map_err(|why| dead_end(&format!("which is no address: {why}")))?;
        if !matches!(next.scheme(), "http" | "https") {
            return Err(dead_end("which is neither http nor https"));
        }
        if self.was_seen(&next) {
            return Err(dead_end("where it came from: a loop"));
        }
        Ok(Some(next))
    }

    /// A busy server is asked again by a later attempt, if there is one.
    fn come_back_later(&self, response: &Response, url: &Url) -> Result<(), Failure> {
        let status = response.status();
        if self.last_attempt || !matches!(status, 429 | 503) {
            return Ok(());
        }
        let message = format!("{url} answered {status}");
        match response.retry_after() {
            Some(delay) if delay > LONGEST_WAIT => Ok(()),
            Some(delay) => Err(Failure::retry_after(delay, message)),
            None => Err(Failure::retryable(message)),
        }
    }

    /// A body that breaks off is tried again; the last attempt reads what came.
    async fn read(&self, response: Response, url: Url) -> Result<Fetched, Failure> {
        let status = response.status();
        let headers: Headers = response.headers().collect();
        let declared = Media::declared(&headers);
        let (mut body, mut broken) = (None, None);
        if may_be_a_page(declared.as_ref()) {
            let (read, error) = response.read_what_comes(self.input.max_bytes as usize).await;
            if let Some(error) = error {
                let passes = matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout);
                if !(passes && self.last_attempt && !read.bytes.is_empty()) {
                    return Err(Failure::from(error).context(&url));
                }
                broken = Some(error.to_string());
            }
            body = Some(read);
        }
        Ok(Fetched { status, url, headers, body, broken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(json: &str) -> Input {
        serde_json::from_str(json).unwrap()
    }

    fn hop(status: u16, location: Option<&str>) -> Result<Option<String>, Failure> {
        let input = input(r#"{"url":"http://example.com/"}"#);
        let (mut session, first) = Session::new(&input, true).unwrap();
        let url = Url::parse("https://example.com/a/b?c#d").unwrap();
        for asked in [&first, &url] {
            session.seen.insert(session.state(asked));
        }
        Ok(session.next_hop(&url, status, location)?.map(String::from))
    }

    #[test]
    fn a_location_is_resolved_against_the_address_that_was_asked() {
        for (location, expected) in [
            ("/x", "https://example.com/x#d"),
            ("x", "https://example.com/a/x#d"),
            ("?q", "https://example.com/a/b?q#d"),
            ("//other.example/x", "https://other.example/x#d"),
            ("http://other.example#e", "http://other.example/#e"),
        ] {
            for status in [301, 302, 303, 307, 308] {
                assert_eq!(hop(status, Some(location)).unwrap().as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn only_a_redirect_with_a_location_redirects() {
        for status in [200, 201, 300, 304, 404, 500] {
            assert_eq!(hop(status, Some("/x")).unwrap(), None, "{status}");
        }
        assert_eq!(hop(302, None).unwrap(), None);
        assert_eq!(hop(302, Some("")).unwrap(), None);
    }

    #[test]
    fn a_redirect_that_leads_nowhere_is_permanent() {
        for location in [
            "#e",
            "/a/b?c",
            "http://example.com/",
            "ftp://example.com/",
            "javascript:alert(1)",
            "http://",
        ] {
            let failure = hop(301, Some(location)).unwrap_err();
            assert!(!failure.is_retryable(), "{location}");
            assert!(failure.message().contains(location), "{failure}");
        }
        let failure = hop(301, Some("ftp://ann:s3cret@example.com/")).unwrap_err();
        assert!(!failure.message().contains("s3cret"), "{failure}");
    }

    #[test]
    fn the_same_address_with_another_cookie_is_no_loop() {
        let input = input(r#"{"url":"http://example.com/"}"#);
        let (mut session, url) = Session::new(&input, true).unwrap();
        session.seen.insert(session.state(&url));
        assert!(session.next_hop(&url, 302, Some("/")).is_err());
        session.jar.set(&url, b"seen=1", SystemTime::now());
        assert!(session.next_hop(&url, 302, Some("/")).unwrap().is_some());
    }

    #[test]
    fn headers_of_the_input_replace_ours_and_private_ones_stay_at_home() {
        let input = input(
            r#"{"url":"http://ann:pw@example.com/","accept_language":"de",
                "headers":{"Accept":"x/y","Cookie":"a=1","X-Own":"z"}}"#,
        );
        let (mut session, url) = Session::new(&input, true).unwrap();
        assert_eq!(url.as_str(), "http://example.com/");
        session.jar.set(&url, b"b=2", SystemTime::now());
        let sent = |to: &str| {
            let to = Url::parse(to).unwrap();
            let headers = session.request_headers(&to).into_iter();
            headers
                .map(|(name, value)| format!("{name}: {}", value.escape_ascii()))
                .collect::<Vec<_>>()
        };
        let home = sent("http://example.com/x");
        for header in ["Accept: x/y", "cookie: a=1; b=2", "X-Own: z", "accept-language: de"] {
            assert!(home.iter().any(|one| one == header), "{header}: {home:?}");
        }
        assert!(home.iter().any(|one| one == "authorization: Basic YW5uOnB3"), "{home:?}");
        assert!(!home.iter().any(|one| one.starts_with("accept: ")), "{home:?}");
        let away = sent("http://other.example/");
        assert!(away.iter().all(|one| !one.contains("a=1") && !one.contains("Basic")), "{away:?}");
        assert!(away.iter().any(|one| one == "X-Own: z"), "{away:?}");
    }
}
