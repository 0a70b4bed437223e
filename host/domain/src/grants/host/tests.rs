use super::*;

fn pattern(text: &str) -> HostPattern {
    text.parse().unwrap()
}

#[test]
fn patterns_match_names_and_ports() {
    assert!(pattern("example.com").matches("example.com", 443));
    assert!(pattern("example.com").matches("example.com.", 80));
    assert!(!pattern("example.com").matches("example.com", 8080));
    assert!(!pattern("example.com").matches("evil-example.com", 443));
    assert!(pattern("*.example.com").matches("a.b.example.com", 443));
    assert!(!pattern("*.example.com").matches("example.com", 443));
    assert!(!pattern("*.example.com").matches("badexample.com", 443));
    assert!(pattern("*:*").matches("anything", 9999));
    assert!(pattern("[::1]:8080").matches("::1", 8080));
    assert!(!pattern("127.0.0.1:8080").matches("127.0.0.1", 8081));
}

#[test]
fn a_pattern_that_looks_otherwise_than_it_is_read_is_refused_with_what_to_write() {
    for (text, expected) in [
        ("", "it is empty"),
        ("*.", "empty"),
        ("a..b", "a label between its dots is empty"),
        (".example.com", "a label between its dots is empty"),
        ("http://a.test/x", r#"no scheme (http://): write "a.test""#),
        ("//a.test", "no path"),
        ("user@a.test", r#"no user name: write "a.test""#),
        ("a.test/x", r#"no path: write "a.test""#),
        ("a.test?x", r#"no path: write "a.test""#),
        ("a.test#x", r#"no path: write "a.test""#),
        ("a\\b", r#"no path: write "a""#),
        ("%61.test", "no percent signs"),
        (" a.test", "no spaces"),
        ("a.test\n", "no spaces or control characters"),
        ("a:0", "a number from 1 to 65535"),
        ("a:70000", "a number from 1 to 65535"),
        ("a:-1", "a number from 1 to 65535"),
        ("a:", "a number from 1 to 65535"),
        ("a:080", "write 80"),
        ("a:+80", "write 80"),
        ("a:80:90", "more than one colon"),
        (":80", "write * for all"),
        ("*a.com", "write *, *.example.com or a host"),
        ("a.*.com", "write *, *.example.com or a host"),
        ("*.*.com", "write *, *.example.com or a host"),
        ("a.*", "write *, *.example.com or a host"),
        ("**", "write *, *.example.com or a host"),
        ("*.10.0.0.1", "nothing is below the address 10.0.0.1"),
        ("*.com", "anybody can register a name below com"),
        ("*.co.uk:8080", "anybody can register a name below co.uk"),
        ("[*]80", "a port comes after a colon"),
        ("[*]:80", "brackets are for an IPv6 address"),
        ("[a.test]", "brackets are for an IPv6 address"),
        ("[127.0.0.1]", "write 127.0.0.1"),
        ("[::1", "a bracket is not closed"),
        ("[::1]x", "a port comes after a colon"),
        ("[fe80::1%25eth0]", "no percent signs"),
        ("::1", "write [::1]"),
        ("[0:0::1]", "write [::1]"),
        ("[2001:DB8::1]", "write [2001:db8::1]"),
        ("[::ffff:127.0.0.1]", "another spelling of 127.0.0.1: write 127.0.0.1"),
        ("[::ffff:7f00:1]:80", "another spelling of 127.0.0.1"),
        ("[::127.0.0.1]", "another spelling of 127.0.0.1"),
        ("127.1", "it is read as the address 127.0.0.1: write 127.0.0.1"),
        ("0x7f.1", "write 127.0.0.1"),
        ("0177.0.0.1", "write 127.0.0.1"),
        ("2130706433", "write 127.0.0.1"),
        ("127.0.0.1.", "write \"127.0.0.1\""),
        ("1.2.3.256", "no host has such a name"),
        ("a.123", "no host has such a name"),
        ("example.com.", r#"write "example.com""#),
        ("Example.com", r#"write "example.com""#),
        ("bücher.example", r#"write "xn--bcher-kva.example""#),
        ("ａ.test", r#"write "a.test""#),
        ("xn--a", "no host has such a name"),
        ("a,b", "letters, digits"),
        ("a\u{202e}b", "no host has such a name"),
        ("a|b", "no host has such a name"),
    ] {
        let error = text.parse::<HostPattern>().unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(error.starts_with(&format!("{text:?} is not a host pattern")), "{error}");
    }
    let long = format!("{}.test", "a".repeat(64));
    assert!(long.parse::<HostPattern>().unwrap_err().to_string().contains("at most 253"));
    let long = format!("{}test", "a.".repeat(150));
    assert!(long.parse::<HostPattern>().unwrap_err().to_string().contains("at most 253"));
}

#[test]
fn a_pattern_that_was_kept_and_would_be_refused_now_matches_nothing_and_is_kept() {
    let kept: HostPattern = serde_json::from_str("\"127.1\"").unwrap();
    assert!(!kept.matches("127.1", 80) && !kept.matches("127.0.0.1", 80));
    assert_eq!(serde_json::to_string(&kept).unwrap(), "\"127.1\"");
    assert!(kept.check().is_err());
    // One that is merely too wide goes on as it did.
    let wide: HostPattern = serde_json::from_str("\"*.com\"").unwrap();
    assert!(wide.matches("a.com", 80) && wide.check().is_err());
}

/// A host of the pattern's own making, as it stands in a URL.
fn covered(pattern: &str) -> String {
    let (host, port) = match pattern.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (pattern, None),
    };
    let host = match host.strip_prefix('*') {
        Some("") => "example.com".to_owned(),
        Some(rest) => format!("x{rest}"),
        None => host.to_owned(),
    };
    match port {
        None => format!("http://{host}/"),
        Some("*") => format!("http://{host}:9/"),
        Some(port) => format!("http://{host}:{port}/"),
    }
}

#[test]
fn every_accepted_pattern_admits_a_url_and_prints_as_it_was_written() {
    const PARTS: &[&str] = &[
        "*",
        "*.",
        ".",
        "..",
        "a",
        "A",
        "example",
        "com",
        "co",
        "uk",
        "test",
        "xn--",
        "xn--bcher-kva",
        "ü",
        "-",
        "_",
        "0x7f",
        "127",
        "1",
        "0",
        "256",
        "10.0.0.1",
        "[",
        "]",
        "::",
        "ffff",
        "2001",
        "db8",
        ":",
        ":80",
        ":0",
        ":*",
        ":65535",
        ":65536",
        "/",
        "@",
        "?",
        "#",
        "%41",
        " ",
        "\u{202e}",
        "[::1]",
        "[2001:db8::1]",
        "localhost",
        "\u{ad}",
        "ß",
        "İ",
        "．",
    ];
    let mut accepted = 0;
    for seed in 0..60_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut text = String::new();
        for _ in 0..random.usize(1..6) {
            text.push_str(PARTS[random.usize(0..PARTS.len())]);
            if random.u8(0..3) == 0 {
                text.push('.');
            }
        }
        let Ok(pattern) = text.parse::<HostPattern>() else {
            continue;
        };
        accepted += 1;
        assert_eq!(pattern.to_string(), text);
        let json = serde_json::to_string(&pattern).unwrap();
        assert_eq!(serde_json::from_str::<HostPattern>(&json).unwrap(), pattern);
        let url =
            url::Url::parse(&covered(&text)).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let host = match url.host().unwrap() {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(v4) => v4.to_string(),
            url::Host::Ipv6(v6) => v6.to_string(),
        };
        let port = url.port_or_known_default().unwrap();
        assert!(pattern.matches(&host, port), "{text:?} does not admit {url}");
    }
    assert!(accepted > 1_000, "only {accepted} patterns were accepted");
}
