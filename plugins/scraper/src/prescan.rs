//! What a page's own bytes say of their encoding, before anybody has decoded them: meta elements
//! (HTML, 13.2.3.2) and the XML declaration.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// How far the standard looks for a meta element before it parses the page.
const PRESCAN: usize = 1024;

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: [&[u8]; 9] = [
    b"script",
    b"style",
    b"title",
    b"textarea",
    b"noscript",
    b"noframes",
    b"iframe",
    b"noembed",
    b"xmp",
];

/// What an HTML page declares: UTF-16 that begins with an XML declaration, a meta element in the
/// first 1,024 bytes, the XML declaration, or else the meta element that the parser would meet
/// later and change its mind for (HTML, 13.2.6.4.4 and "change the encoding").
#[must_use]
pub fn html(bytes: &[u8]) -> Option<&'static Encoding> {
    utf16_declaration(bytes)
        .or_else(|| meta(&bytes[..bytes.len().min(PRESCAN)], Content::AsMarkup))
        .or_else(|| xml_declaration(bytes))
        .or_else(|| meta(bytes, Content::AsText))
}

/// What an XML document declares.
#[must_use]
pub fn xml(bytes: &[u8]) -> Option<&'static Encoding> {
    utf16_markup(bytes).or_else(|| xml_declaration(bytes))
}

/// Markup in UTF-16 without a byte order mark (XML, appendix F.1): an ASCII letter has a zero
/// beside it.
#[must_use]
pub fn utf16_markup(bytes: &[u8]) -> Option<&'static Encoding> {
    match bytes {
        [b'<', 0, b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', 0, ..] => Some(UTF_16LE),
        [0, b'<', 0, b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..] => Some(UTF_16BE),
        _ => None,
    }
}

fn utf16_declaration(bytes: &[u8]) -> Option<&'static Encoding> {
    match bytes {
        [b'<', 0, b'?', 0, b'x', 0, ..] => Some(UTF_16LE),
        [0, b'<', 0, b'?', 0, b'x', ..] => Some(UTF_16BE),
        _ => None,
    }
}

/// `<?xml version="1.0" encoding="…"?>` ("get an XML encoding").
fn xml_declaration(bytes: &[u8]) -> Option<&'static Encoding> {
    let declaration = bytes.strip_prefix(b"<?xml")?;
    let end = declaration.iter().position(|&b| b == b'>')?;
    let declaration = &declaration[..end];
    let rest = &declaration[find(declaration, b"encoding")? + "encoding".len()..];
    let rest = skip(rest, |b| b <= b' ').strip_prefix(b"=")?;
    let rest = skip(rest, |b| b <= b' ');
    let (&quote, rest) = rest.split_first().filter(|(quote, _)| b"\"'".contains(quote))?;
    let label = &rest[..rest.iter().position(|&b| b == quote)?];
    readable_as_ascii(Encoding::for_label(label)?)
}

/// We are reading ASCII, so it cannot be UTF-16 whatever it says.
fn readable_as_ascii(encoding: &'static Encoding) -> Option<&'static Encoding> {
    Some(match encoding {
        e if e == UTF_16BE || e == UTF_16LE => UTF_8,
        e if e == X_USER_DEFINED => WINDOWS_1252,
        e => e,
    })
}

/// What the content of scripts, titles and their like is taken for. The standard's prescan knows
/// no such elements; its parser does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    AsMarkup,
    AsText,
}

/// The first meta element that names an encoding, outside comments. One that does not end within
/// the bytes is none.
fn meta(bytes: &[u8], content: Content) -> Option<&'static Encoding> {
    let mut rest = bytes;
    loop {
        rest = &rest[rest.iter().position(|&b| b == b'<')? + 1..];
        match rest {
            [b'!', b'-', b'-', comment @ ..] => rest = after_comment(comment)?,
            [b'a'..=b'z' | b'A'..=b'Z', ..] => {
                let length = rest.iter().take_while(|&&b| !ends_name(b)).count();
                let name = rest[..length].to_ascii_lowercase();
                // Attributes may hold a `<meta` in quotes, so they have to be read as well.
                let (attributes, after) = attributes(&rest[length..])?;
                if name == b"meta"
                    && let Some(encoding) = meta_encoding(&attributes)
                {
                    return Some(encoding);
                }
                rest = match content {
                    Content::AsText if RAW_TEXT.contains(&name.as_slice()) => {
                        after_raw_text(after, &name)?
                    }
                    _ => after,
                };
            }
            [b'/', b'a'..=b'z' | b'A'..=b'Z', ..] => {
                let length = rest[1..].iter().take_while(|&&b| !ends_name(b)).count();
                rest = attributes(&rest[1 + length..])?.1;
            }
            [b'!' | b'/' | b'?', ..] => {
                rest = &rest[rest.iter().position(|&b| b == b'>')? + 1..];
            }
            _ => {}
        }
    }
}

fn ends_name(byte: u8) -> bool {
    is_space(byte) || byte == b'/' || byte == b'>'
}

/// `<!-->` is a whole comment.
fn after_comment(comment: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = comment.strip_prefix(b">").or_else(|| comment.strip_prefix(b"->")) {
        return Some(rest);
    }
    Some(&comment[find(comment, b"-->")? + 3..])
}

fn after_raw_text<'a>(mut rest: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    loop {
        rest = &rest[find(rest, b"</")? + 2..];
        let (start, after) = rest.split_at_checked(name.len())?;
        if start.eq_ignore_ascii_case(name) && after.first().is_none_or(|&b| ends_name(b)) {
            return Some(after);
        }
    }
}

fn meta_encoding(attributes: &[(String, String)]) -> Option<&'static Encoding> {
    let value =
        |name: &str| attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let named = |label: &str| Encoding::for_label(label.as_bytes());
    let pragma = || {
        value("http-equiv")?
            .eq_ignore_ascii_case("content-type")
            .then(|| named(charset_in_content(value("content")?)?))?
    };
    readable_as_ascii(value("charset").and_then(named).or_else(pragma)?)
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

type Attributes = Vec<(String, String)>;

/// Reads the attributes of a tag up to its `>`, names in lower case. The second part is what
/// follows the tag; `None` when the bytes end before it.
fn attributes(mut rest: &[u8]) -> Option<(Attributes, &[u8])> {
    let mut found = Attributes::new();
    loop {
        rest = skip(rest, |b| is_space(b) || b == b'/');
        if *rest.first()? == b'>' {
            return Some((found, &rest[1..]));
        }
        // An equals sign in front belongs to the name.
        let end =
            1 + rest[1..].iter().take_while(|&&b| !is_space(b) && !b"/>=".contains(&b)).count();
        let name = text(&rest[..end]).to_ascii_lowercase();
        rest = skip(&rest[end..], is_space);
        let mut value = &rest[..0];
        if let Some(after) = rest.strip_prefix(b"=") {
            rest = skip(after, is_space);
            (value, rest) = match rest.first()? {
                &quote @ (b'"' | b'\'') => {
                    let end = rest[1..].iter().position(|&b| b == quote)?;
                    (&rest[1..=end], &rest[end + 2..])
                }
                _ => rest.split_at(rest.iter().take_while(|&&b| !is_space(b) && b != b'>').count()),
            };
        }
        if !found.iter().any(|(n, _)| *n == name) {
            found.push((name, text(value)));
        }
    }
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

    fn name(bytes: &[u8]) -> Option<&'static str> {
        html(bytes).map(Encoding::name)
    }

    #[test]
    fn a_meta_element_counts_only_where_it_is_one() {
        for (page, expected) in [
            (
                &b"<!-- <meta charset=koi8-r> --><meta charset=windows-1251>"[..],
                Some("windows-1251"),
            ),
            (b"<!--><meta charset=windows-1251>", Some("windows-1251")),
            (b"<a title='<meta charset=koi8-r>'>", None),
            (b"<metadata charset=koi8-r>", None),
            (b"<meta name=charset content=koi8-r>", None),
            (b"<meta content='text/html; charset=koi8-r'>", None),
            (
                b"<meta http-equiv=Content-Type content='text/html; charset = \"koi8-r\"'>",
                Some("KOI8-R"),
            ),
            (b"<meta name=x charset = 'koi8-r' >", Some("KOI8-R")),
            (b"<meta charset=nonsense><meta charset=koi8-r>", Some("KOI8-R")),
            (b"<meta charset=utf-16le>", Some("UTF-8")),
            (b"<!doctype html><?x <y> ?><meta/charset=koi8-r >", Some("KOI8-R")),
            (b"<meta charset", None),
            (b"<meta charset='koi8-r", None),
            (b"<meta charset=koi8-r", None),
            (b"<", None),
        ] {
            assert_eq!(name(page), expected, "{}", text(page));
        }
    }

    #[test]
    fn beyond_the_prescan_the_parser_would_still_meet_it() {
        let far = |page: &str| [&[b' '; PRESCAN][..], page.as_bytes()].concat();
        assert_eq!(name(&far("<meta charset=koi8-r>")), Some("KOI8-R"));
        // There, a script is text.
        let script = "<script>'<meta charset=koi8-r>'</script>";
        assert_eq!(name(&far(script)), None);
        assert_eq!(name(&far(&format!("{script}<meta charset=gbk>"))), Some("GBK"));
        assert_eq!(name(script.as_bytes()), Some("KOI8-R"));
    }

    #[test]
    fn a_meta_element_that_the_prescan_cuts_is_read_whole() {
        let cut = b"<meta charset=iso-8859-15>";
        let page = [&vec![b' '; PRESCAN - cut.len() + 2][..], cut].concat();
        assert_eq!(name(&page), Some("ISO-8859-15"));
    }

    #[test]
    fn an_xml_declaration_counts_after_a_meta_element_and_in_utf_16() {
        let declared = b"<?xml version='1.0' encoding = 'koi8-r'?>";
        assert_eq!(name(declared), Some("KOI8-R"));
        assert_eq!(xml(declared).map(Encoding::name), Some("KOI8-R"));
        let both = [&declared[..], b"<meta charset=gbk>"].concat();
        assert_eq!(name(&both), Some("GBK"));
        assert_eq!(name(b"<\0?\0x\0m\0l\0"), Some("UTF-16LE"));
        assert_eq!(name(b"\0<\0?\0x\0m\0l"), Some("UTF-16BE"));
        assert_eq!(name(b" <?xml encoding='koi8-r'?>"), None);
    }
}
