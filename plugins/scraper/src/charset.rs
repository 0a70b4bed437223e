//! From bytes to text: which encoding, in the order of the HTML standard — byte order mark, `Content-Type` header, a meta element in the
//! first 1,024 bytes —, and without any of them UTF-8 if the bytes are, windows-1252 if not.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// How far the standard looks for a meta element.
const PRESCAN: usize = 1024;

/// Decodes a page and names its encoding. What cannot be decoded becomes U+FFFD. `cut`: the page goes on after these bytes.
#[must_use]
pub fn decode<'a>(bytes: &'a [u8], content_type: Option<&str>, cut: bool) -> (Cow<'a, str>, &'static str) {
    // `decode` lets a byte order mark override what it is told.
    let told = content_type.and_then(from_header).or_else(|| from_meta(bytes));
    let encoding = told.unwrap_or_else(|| if is_utf8(bytes, cut) { UTF_8 } else { WINDOWS_1252 });
    let (text, used, _) = encoding.decode(bytes);
    (text, used.name())
}

/// A page that was cut in the middle of a character is UTF-8 all the same.
fn is_utf8(bytes: &[u8], cut: bool) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| cut && error.error_len().is_none(), |_| true)
}

fn from_header(content_type: &str) -> Option<&'static Encoding> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let label = value.trim().trim_matches(['"', '\'']);
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| Encoding::for_label(label.as_bytes()))?
    })
}

/// The standard's prescan: the first meta element that names an encoding, outside comments.
fn from_meta(bytes: &[u8]) -> Option<&'static Encoding> {
    let mut rest = &bytes[..bytes.len().min(PRESCAN)];
    while let Some(start) = rest.iter().position(|&b| b == b'<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix(b"!--") {
            // `<!-->` is a whole comment.
            let end = find(comment, b"-->")
                .map(|at| at + 3)
                .or_else(|| comment.strip_prefix(b">").map(|_| 1));
            rest = &comment[end?..];
        } else if let Some(meta) = strip_tag_name(rest, b"meta") {
            let (attributes, after) = attributes(meta);
            if let Some(encoding) = meta_encoding(&attributes) {
                return Some(encoding);
            }
            rest = after;
        } else if matches!(rest, [b'/' | b'a'..=b'z' | b'A'..=b'Z', ..]) {
            // Attributes may hold a `<meta` in quotes, so they have to be read as well.
            let name = rest.iter().position(|&b| is_space(b) || b == b'>')?;
            rest = attributes(&rest[name..]).1;
        }
    }
    None
}

fn meta_encoding(attributes: &[(String, String)]) -> Option<&'static Encoding> {
    let value = |name: &str| {
        attributes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    };
    let label = match value("charset") {
        Some(label) => label,
        None if value("http-equiv")?.eq_ignore_ascii_case("content-type") => {
            charset_in_content(value("content")?)?
        }
        None => return None,
    };
    // We are reading ASCII, so it cannot be UTF-16 whatever it says.
    match Encoding::for_label(label.as_bytes())? {
        e if e == UTF_16BE || e == UTF_16LE => Some(UTF_8),
        e if e == X_USER_DEFINED => Some(WINDOWS_1252),
        e => Some(e),
    }
}

/// `text/html; charset=shift_jis`, as lenient as the standard asks.
fn charset_in_content(content: &str) -> Option<&str> {
    let lower = content.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower[from..].find("charset")? + "charset".len();
        let Some(value) = content[at..].trim_start().strip_prefix('=') else {
            from = at;
            continue;
        };
        let value = value.trim_start();
        return match value.chars().next()? {
            quote @ ('"' | '\'') => value[1..].split_once(quote).map(|(label, _)| label),
            _ => value.split(|c: char| c == ';' || c.is_ascii_whitespace()).next(),
        };
    }
}

/// Reads the attributes of a tag up to its `>`, names in lower case. The second part is what follows the tag.
fn attributes(mut rest: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let mut found = Vec::new();
    loop {
        rest = skip(rest, |b| is_space(b) || b == b'/');
        match rest.first() {
            None => return (found, rest),
            Some(b'>') => return (found, &rest[1..]),
            Some(_) => {}
        }
        // An equals sign in front belongs to the name.
        let end = 1 + rest[1..]
            .iter()
            .take_while(|&&b| !is_space(b) && !b"/>=".contains(&b))
            .count();
        let name = text(&rest[..end]).to_ascii_lowercase();
        rest = skip(&rest[end..], is_space);
        let mut value = &rest[..0];
        if let Some(after) = rest.strip_prefix(b"=") {
            rest = skip(after, is_space);
            (value, rest) = match rest.first() {
                Some(&quote @ (b'"' | b'\'')) => {
                    let end = rest[1..]
                        .iter()
                        .position(|&b| b == quote)
                        .unwrap_or(rest.len() - 1);
                    (&rest[1..=end], rest.get(end + 2..).unwrap_or_default())
                }
                _ => rest.split_at(rest.iter().take_while(|&&b| !is_space(b) && b != b'>').count()),
            };
        }
        if !found.iter().any(|(n, _)| *n == name) {
            found.push((name, text(value)));
        }
    }
}

fn strip_tag_name<'a>(rest: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, after) = rest.split_at_checked(name.len())?;
    (start.eq_ignore_ascii_case(name) && after.first().is_some_and(|&b| is_space(b) || b == b'/'))
        .then_some(after)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn skip(bytes: &[u8], test: impl Fn(u8) -> bool) -> &[u8] {
    &bytes[bytes.iter().take_while(|&&b| test(b)).count()..]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], content_type: Option<&str>, text: &str, name: &str) {
        let (decoded, used) = decode(bytes, content_type, false);
        assert!(decoded.contains(text), "{decoded}");
        assert_eq!(used, name);
    }

    #[test]
    fn a_byte_order_mark_beats_the_header_and_the_header_beats_the_meta_element() {
        check(
            b"\xef\xbb\xbf\xc3\xa9",
            Some("text/html; charset=windows-1252"),
            "é",
            "UTF-8",
        );
        check(b"\xfe\xff\x00h\x00i", None, "hi", "UTF-16BE");
        check(
            b"<meta charset=utf-8>\xe9",
            Some("text/html; charset=iso-8859-1"),
            "é",
            "windows-1252",
        );
        check(
            b"<meta charset=windows-1251>\xe9",
            Some("text/html"),
            "й",
            "windows-1251",
        );
        check(
            b"\xe9",
            Some("text/html;Charset=\"ISO-8859-2\""),
            "é",
            "ISO-8859-2",
        );
        check(
            b"<meta charset=koi8-r>\xc1",
            Some("text/html; charset=nonsense"),
            "а",
            "KOI8-R",
        );
    }

    #[test]
    fn shift_jis_and_windows_1252_are_known_by_their_meta_elements() {
        let jis = b"<html><head><META http-equiv='Content-Type' content=\"text/html; charset=Shift_JIS\"><title>\x93\xfa\x96\x7b\x8c\xea";
        check(jis, None, "日本語", "Shift_JIS");
        let western =
            b"<meta http-equiv=content-type content='text/html;charset=windows-1252'>\x93quoted\x94 \x80";
        check(western, None, "“quoted” €", "windows-1252");
    }

    #[test]
    fn a_meta_element_counts_only_where_it_is_one() {
        for (html, name) in [
            (
                &b"<!-- <meta charset=koi8-r> --><meta charset=windows-1251>\xe9"[..],
                "windows-1251",
            ),
            (b"<!--><meta charset=windows-1251>\xe9", "windows-1251"),
            (b"<a title='<meta charset=koi8-r>'>\xe9", "windows-1252"),
            (b"<metadata charset=koi8-r>\xe9", "windows-1252"),
            (b"<meta name=charset content=koi8-r>\xe9", "windows-1252"),
            (b"<meta name=x charset = 'koi8-r' >\xe9", "KOI8-R"),
            (b"<meta charset=utf-16le>\xe9", "UTF-8"),
            (b"<meta charset", "UTF-8"),
            (b"<meta charset='koi8-r", "KOI8-R"),
            (b"<", "UTF-8"),
        ] {
            assert_eq!(decode(html, None, false).1, name, "{}", text(html));
        }
        let far = [&[b' '; PRESCAN][..], b"<meta charset=koi8-r>\xe9"].concat();
        check(&far, None, "é", "windows-1252");
    }

    #[test]
    fn without_a_word_it_is_utf8_if_it_can_be() {
        check("<title>Zażółć".as_bytes(), None, "Zażółć", "UTF-8");
        check(b"caf\xe9 au lait", None, "café", "windows-1252");
        let cut = "é".as_bytes();
        assert_eq!(decode(&cut[..1], None, true).1, "UTF-8");
        assert_eq!(decode(&cut[..1], None, false).1, "windows-1252");
    }
}
