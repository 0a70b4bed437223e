//! Pages nested without end. An HTML parser looks through all open elements at many tags, so its work grows with the square of the depth:
//! 10,000 open `div`s cost 50 million steps, and a 2 MiB page can hold 400,000. Browsers stop nesting at 512; we stop reading far
//! beyond that. A page that hides its depth from this count spends its fuel and fails.

/// Open elements, by our count.
const MAX_DEPTH: usize = 4_000;

/// Elements that have no end tag, or may leave it out: many of them in a row are no nesting.
const NOT_NESTED: [&str; 34] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr",
    "param", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "option",
    "optgroup", "rp", "rt", "html", "head", "body", "keygen", "frame",
];

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: [&str; 7] = [
    "script", "style", "textarea", "title", "xmp", "noframes", "iframe",
];

/// The part of a page before its elements are nested too deeply, and whether that is not all of it.
pub(crate) fn cut(html: &str) -> (&str, bool) {
    let bytes = html.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|&b| b == b'<') {
        let tag = at + found;
        at = tag + 1;
        let rest = &html[at..];
        if let Some(comment) = rest.strip_prefix("!--") {
            at = comment.find("-->").map_or(html.len(), |end| at + 3 + end);
            continue;
        }
        let (end_tag, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let name = &rest[..length];
        let is_one_of = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || is_one_of(&NOT_NESTED) {
            continue;
        }
        if end_tag {
            depth = depth.saturating_sub(1);
        } else if is_one_of(&RAW_TEXT) {
            at += end_of_raw_text(&html[at..], name);
        } else {
            depth += 1;
            if depth > MAX_DEPTH {
                return (&html[..tag], true);
            }
        }
    }
    (html, false)
}

/// Where the end tag of a raw text element begins; after all of it when there is none.
fn end_of_raw_text(html: &str, name: &str) -> usize {
    let mut at = 0;
    while let Some(found) = html[at..].find("</") {
        at += found + 2;
        if html.as_bytes()[at..]
            .get(..name.len())
            .is_some_and(|tag| tag.eq_ignore_ascii_case(name.as_bytes()))
        {
            // Behind the tag, so that it is not counted as the end of an element that was never counted.
            return at;
        }
    }
    html.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_page_is_not_a_deep_one() {
        for piece in [
            "<div>x</div>",
            "<li>x",
            "<p>x<br>",
            "<script>'<b>'</script>",
            "<!-- <b> -->",
            "<tr><td>x",
            "a < b",
            "<Title><b></TITLE>",
        ] {
            let html = piece.repeat(20_000);
            assert_eq!(cut(&html), (html.as_str(), false), "{piece}");
        }
    }

    #[test]
    fn a_deep_page_is_cut_before_the_tag_that_is_too_much() {
        let html = format!("é{}", "<div>".repeat(MAX_DEPTH + 10));
        let (kept, too_deep) = cut(&html);
        assert_eq!((kept.len(), too_deep), (2 + 5 * MAX_DEPTH, true));
    }

    #[test]
    fn odd_endings_are_taken_as_they_are() {
        for html in [
            "<",
            "</",
            "<!--",
            "<script",
            "<script>",
            "<a",
            "<é>",
            "<script></scr",
            "</>",
        ] {
            assert_eq!(cut(html), (html, false));
        }
    }
}
