//! Pages nested without end. An HTML parser looks through all open elements at many tags, so its
//! work grows with the square of the depth: 10,000 open `div`s cost 50 million steps, and a 2 MiB
//! page can hold 400,000. Browsers stop nesting at 512; we stop reading far beyond that. A page
//! that hides its depth from this count spends its fuel and fails.

use crate::xhtml::tag_end;

/// Open elements, by our count.
const MAX_DEPTH: usize = 4_000;

/// Elements that have no end tag, or may leave it out: many of them in a row are no nesting.
const NOT_NESTED: [&str; 34] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr", "param", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup",
    "option", "optgroup", "rp", "rt", "html", "head", "body", "keygen", "frame",
];

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: [&str; 7] = ["script", "style", "textarea", "title", "xmp", "noframes", "iframe"];

/// Elements that begin foreign content: drawings and formulas (HTML, 13.2.6.5).
const FOREIGN: [&str; 2] = ["svg", "math"];

/// Elements of foreign content whose own content is HTML again.
const HTML_AGAIN: [&str; 9] =
    ["foreignobject", "desc", "title", "annotation-xml", "mi", "mo", "mn", "ms", "mtext"];

/// Elements that end foreign content wherever they begin in it.
const BREAKOUT: [&str; 44] = [
    "b",
    "big",
    "blockquote",
    "body",
    "br",
    "center",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "em",
    "embed",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "hr",
    "i",
    "img",
    "li",
    "listing",
    "menu",
    "meta",
    "nobr",
    "ol",
    "p",
    "pre",
    "ruby",
    "s",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "table",
    "tt",
    "u",
    "ul",
    "var",
];

/// Elements that an end tag within them closes nothing beyond of (HTML, 13.2.4.2).
const SCOPES: [&str; 7] = ["table", "template", "svg", "math", "object", "marquee", "applet"];

/// How far back an end tag looks for its element. One that closes more than that is taken for one
/// that closes nothing.
const LOOKED_BACK: usize = 256;

/// The part of a page before its elements are nested too deeply, and whether that is not all of it.
pub(crate) fn cut(html: &str) -> (&str, bool) {
    let mut open = Open::default();
    let mut at = 0;
    while let Some(found) = html[at..].find('<') {
        let tag = at + found;
        at = tag + 1;
        let rest = &html[at..];
        if let Some(comment) = rest.strip_prefix("!--") {
            at = comment.find("-->").map_or(html.len(), |end| at + 3 + end);
            continue;
        }
        let (end_tag, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let name_ends = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>');
        let name = &rest[..rest.find(name_ends).unwrap_or(rest.len())];
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        at = html.len() - rest.len();
        at += tag_end(&html[at..]);
        if end_tag {
            open.end(name);
        } else if is_one_of(name, &RAW_TEXT) && !open.in_foreign() {
            at += end_of_raw_text(&html[at..], name);
        } else {
            open.start(name, html[..at].ends_with("/>"));
            if open.0.len() > MAX_DEPTH {
                return (&html[..tag], true);
            }
        }
    }
    (html, false)
}

/// What is open, and for each element whether its content is foreign.
#[derive(Default)]
struct Open<'a>(Vec<(&'a str, bool)>);

impl<'a> Open<'a> {
    /// There, a tag that ends with `/>` is a whole element.
    fn in_foreign(&self) -> bool {
        self.0.last().is_some_and(|(_, foreign)| *foreign)
    }

    fn start(&mut self, name: &'a str, closed: bool) {
        if self.in_foreign() && is_one_of(name, &BREAKOUT) {
            let html = self.0.iter().rposition(|(_, foreign)| !foreign);
            self.0.truncate(html.map_or(0, |at| at + 1));
        }
        let within_foreign = self.in_foreign();
        let begins_foreign = is_one_of(name, &FOREIGN);
        if closed && (within_foreign || begins_foreign) {
            return;
        }
        if within_foreign || !is_one_of(name, &NOT_NESTED) {
            let foreign = begins_foreign || (within_foreign && !is_one_of(name, &HTML_AGAIN));
            self.0.push((name, foreign));
        }
    }

    /// Closes the element and what is open within it. What is open beyond a table or a drawing
    /// stays so.
    fn end(&mut self, name: &str) {
        for (at, (open, _)) in self.0.iter().enumerate().rev().take(LOOKED_BACK) {
            if open.eq_ignore_ascii_case(name) {
                self.0.truncate(at);
                return;
            }
            if is_one_of(open, &SCOPES) {
                return;
            }
        }
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
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
            // Behind the tag, so that it is not counted as the end of an element that was never
            // counted.
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
            "<svg><path d='>'/><use href=#i /><title/></svg>",
            "<svg><g><path/></g><title>a<b>c</b></title></svg>",
            "<svg><foreignObject><p>x<br/></foreignObject></svg>",
            "<svg/><math/><math><mspace/><mi>x</mi></math>",
            "<a title='<b><i>'>x</a>",
            "<svg><path><g></svg>",
            "<div><span><em>x</div>",
            "<svg><path><p>x",
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
    fn a_slash_closes_only_foreign_elements() {
        for piece in ["<div/>", "<svg><g>", "<svg><desc><div/>", "<div><table><td></div>"] {
            assert!(cut(&piece.repeat(5_000)).1, "{piece}");
        }
    }

    #[test]
    fn odd_endings_are_taken_as_they_are() {
        for html in ["<", "</", "<!--", "<script", "<script>", "<a", "<é>", "<script></scr", "</>"]
        {
            assert_eq!(cut(html), (html, false));
        }
    }
}
