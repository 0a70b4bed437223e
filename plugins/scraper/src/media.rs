//! What kind of document an answer is: by its `Content-Type` as the Fetch standard reads it, and by
//! its first bytes where that says nothing (WHATWG MIME Sniffing, 7.1).

use crate::headers::{Headers, split, unquote};

/// A media type, without the parameters that nobody here looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Type and subtype in lower case.
    pub essence: String,
    /// The `charset` parameter.
    pub charset: Option<String>,
}

/// How a document is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With the HTML parser.
    Html,
    /// As XHTML.
    Xhtml,
    /// Not at all.
    Other,
}

impl Media {
    /// What the lines of `Content-Type` say together: the last value that is a type counts, and
    /// takes the charset of one before it that has the same essence ("extract a MIME type").
    /// `None` when none is a type.
    #[must_use]
    pub fn declared(headers: &Headers) -> Option<Self> {
        let mut found: Option<Self> = None;
        let list = headers.list("content-type")?;
        for mut media in split(&list, ',').into_iter().filter_map(Self::parse) {
            if let Some(before) = found.filter(|before| before.essence == media.essence) {
                media.charset = media.charset.or(before.charset);
            }
            found = Some(media);
        }
        found
    }

    fn parse(value: &str) -> Option<Self> {
        let mut parts = split(value, ';').into_iter();
        let essence = parts.next()?.to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) || essence == "*/*" {
            return None;
        }
        let charset = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            // Single quotes quote nothing, but servers use them and browsers see through it.
            name.trim()
                .eq_ignore_ascii_case("charset")
                .then(|| unquote(value.trim()).trim_matches('\'').to_owned())
        });
        Some(Self { essence, charset })
    }

    fn is_unknown(&self) -> bool {
        ["unknown/unknown", "application/unknown"].contains(&self.essence.as_str())
    }

    fn is_xml(&self) -> bool {
        self.essence.ends_with("+xml")
            || ["text/xml", "application/xml"].contains(&self.essence.as_str())
    }
}

/// Whether an answer with this type may be a page, so that its body is worth reading.
#[must_use]
pub fn may_be_a_page(declared: Option<&Media>) -> bool {
    declared
        .is_none_or(|media| media.essence == "text/html" || media.is_xml() || media.is_unknown())
}

/// How a document is to be read.
#[must_use]
pub fn kind(declared: Option<&Media>, headers: &Headers, bytes: &[u8]) -> Kind {
    match declared {
        Some(media) if media.essence == "text/html" => Kind::Html,
        Some(media) if media.essence == "application/xhtml+xml" => Kind::Xhtml,
        Some(media) if media.is_xml() => xml(bytes),
        Some(media) if !media.is_unknown() => Kind::Other,
        // The server forbids guessing.
        _ if nosniff(headers) => Kind::Other,
        _ => sniff(bytes),
    }
}

fn nosniff(headers: &Headers) -> bool {
    let list = headers.list("x-content-type-options").unwrap_or_default();
    split(&list, ',').first().is_some_and(|first| first.eq_ignore_ascii_case("nosniff"))
}

/// The tags that a document of no declared type is known as HTML by.
const TAGS: [&[u8]; 17] = [
    b"!doctype html",
    b"html",
    b"head",
    b"script",
    b"iframe",
    b"h1",
    b"div",
    b"font",
    b"table",
    b"a",
    b"style",
    b"title",
    b"b",
    b"body",
    b"br",
    b"p",
    b"!--",
];

fn sniff(bytes: &[u8]) -> Kind {
    // The standard takes what begins with a byte order mark for plain text; pages begin with one.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = bytes.iter().position(|byte| !b"\t\n\x0c\r ".contains(byte));
    let Some(tag) = bytes[start.unwrap_or(bytes.len())..].strip_prefix(b"<") else {
        return Kind::Other;
    };
    let begins_with = |name: &&[u8]| {
        tag.split_at_checked(name.len()).is_some_and(|(start, after)| {
            start.eq_ignore_ascii_case(name) && matches!(after, [b' ' | b'>', ..])
                // What follows a comment's beginning is the comment.
                || start.eq_ignore_ascii_case(name) && **name == *b"!--"
        })
    };
    if TAGS.iter().any(begins_with) {
        Kind::Html
    } else if tag.starts_with(b"?xml") {
        xml(bytes)
    } else {
        Kind::Other
    }
}

/// XML is a page when its root is XHTML's.
fn xml(bytes: &[u8]) -> Kind {
    // Both are ASCII in every encoding but UTF-16, where zeros stand between.
    let start: Vec<u8> = bytes.iter().copied().take(8192).filter(|&b| b != 0).collect();
    let start = String::from_utf8_lossy(&start);
    if crate::xhtml::has_xhtml_root(&start) { Kind::Xhtml } else { Kind::Other }
}

fn is_token(text: &str) -> bool {
    let extra = b"!#$%&'*+-.^_`|~";
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str], body: &str) -> (Option<String>, Kind) {
        let headers: Headers = lines.iter().map(|line| ("content-type", *line)).collect();
        let media = Media::declared(&headers);
        let kind = kind(media.as_ref(), &headers, body.as_bytes());
        (media.and_then(|media| media.charset), kind)
    }

    #[test]
    fn the_last_type_counts_and_what_is_no_type_does_not() {
        for (lines, charset, expected) in [
            (&["text/html"][..], None, Kind::Html),
            (&["TEXT/HTML; Charset=\"koi8-r\""], Some("koi8-r"), Kind::Html),
            (&["text/html;charset='utf-8'"], Some("utf-8"), Kind::Html),
            (&["*/*, text/html"], None, Kind::Html),
            (&["text/plain, text/html"], None, Kind::Html),
            (&["text/html", "text/plain"], None, Kind::Other),
            (&["text/html;charset=gbk", "text/html"], Some("gbk"), Kind::Html),
            (&["text/html;charset=gbk, text/html;x=y"], Some("gbk"), Kind::Html),
            (&["text/html;charset=gbk, text/plain, text/html"], None, Kind::Html),
            (&["text/html;charset=gbk;"], Some("gbk"), Kind::Html),
            (&["text/html, nonsense"], None, Kind::Html),
            (&["application/xhtml+xml"], None, Kind::Xhtml),
            (&["application/json"], None, Kind::Other),
        ] {
            let (found, kind) = of(lines, "<title>x</title>");
            assert_eq!((found.as_deref(), kind), (charset, expected), "{lines:?}");
        }
    }

    #[test]
    fn without_a_type_the_first_tag_tells() {
        for lines in
            [&[][..], &["text/html charset=utf-8"], &["html"], &["*/*"], &["unknown/unknown"]]
        {
            for (body, expected) in [
                ("<title>x</title>", Kind::Html),
                (" \r\n<!DocType HTML>", Kind::Html),
                ("\u{feff}<html>", Kind::Html),
                ("<!--comment--><x>", Kind::Html),
                ("<p class=x>", Kind::Html),
                ("<pre>", Kind::Other),
                ("<rss>", Kind::Other),
                ("text <html>", Kind::Other),
                ("\u{89}PNG<title>", Kind::Other),
                ("", Kind::Other),
                ("<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", Kind::Xhtml),
                ("<?xml version='1.0'?><rss>", Kind::Other),
            ] {
                assert_eq!(of(lines, body).1, expected, "{lines:?} {body}");
            }
        }
    }

    #[test]
    fn a_server_can_forbid_guessing() {
        let headers = Headers::from_iter([("x-content-type-options", "NoSniff")]);
        assert_eq!(kind(None, &headers, b"<html>"), Kind::Other);
    }
}
