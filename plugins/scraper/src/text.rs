//! The text of an element as a reader sees it, near to what `innerText` gives (HTML, 3.2.7): what
//! is not rendered is no text, and between blocks there is a break.

use ego_tree::iter::Edge;
use scraper::{ElementRef, Node, node::Element};

/// The longest text that is taken from a page, in characters.
pub const MAX_TEXT: usize = 4096;

/// Elements that browsers do not render (HTML, 15.3.1), or whose content is a fallback or a value.
const NOT_RENDERED: [&str; 24] = [
    "area", "audio", "base", "basefont", "canvas", "datalist", "head", "iframe", "link", "meta",
    "noembed", "noframes", "noscript", "object", "param", "rp", "script", "source", "style",
    "template", "textarea", "title", "track", "video",
];

/// Elements that begin and end a line (HTML, 15.3.3 to 15.3.10), cells of tables among them.
const BLOCKS: [&str; 62] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "caption",
    "center",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "listing",
    "main",
    "menu",
    "nav",
    "ol",
    "optgroup",
    "option",
    "p",
    "plaintext",
    "pre",
    "search",
    "section",
    "select",
    "slot",
    "summary",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "ul",
    "xmp",
    "col",
    "colgroup",
    "frameset",
    "frame",
    "marquee",
    "button",
];

/// Of a drawing, what is drawn only when something refers to it, or not at all.
const NOT_DRAWN: [&str; 14] = [
    "clipPath",
    "defs",
    "desc",
    "filter",
    "linearGradient",
    "marker",
    "mask",
    "metadata",
    "pattern",
    "radialGradient",
    "script",
    "style",
    "symbol",
    "title",
];

/// The text that is seen, white space collapsed; `None` when there is none.
#[must_use]
pub fn seen(element: ElementRef<'_>) -> Option<String> {
    let mut text = String::new();
    // Text within a drawing is drawn only by its text elements.
    let mut drawn = vec![true];
    let mut hidden = None;
    for edge in element.traverse() {
        let node = match edge {
            Edge::Open(node) | Edge::Close(node) => node,
        };
        let opens = matches!(edge, Edge::Open(_));
        match node.value() {
            Node::Text(piece)
                if opens
                    && hidden.is_none()
                    && drawn.last() == Some(&true)
                    && !node.parent().and_then(ElementRef::wrap).is_some_and(is_closed) =>
            {
                text.push_str(piece);
            }
            Node::Element(value) => {
                if opens && hidden.is_none() && ElementRef::wrap(node).is_some_and(is_hidden) {
                    hidden = Some(node.id());
                }
                if hidden.is_none() {
                    follow(value, opens, &mut drawn, &mut text);
                } else if !opens && hidden == Some(node.id()) {
                    hidden = None;
                }
            }
            _ => {}
        }
        // Collapsed it may be shorter; what is far beyond the limit needs no collecting.
        if text.len() > 16 * MAX_TEXT {
            break;
        }
    }
    clean(&text)
}

fn follow(element: &Element, opens: bool, drawn: &mut Vec<bool>, text: &mut String) {
    let name = element.name();
    let shows = match namespace(element) {
        Namespace::Svg if name == "svg" => Some(false),
        Namespace::Svg if ["text", "foreignObject"].contains(&name) => Some(true),
        Namespace::Html if is_block(element) => {
            text.push(' ');
            None
        }
        _ => None,
    };
    match shows {
        Some(shows) if opens => drawn.push(shows),
        Some(_) => _ = drawn.pop(),
        None => {}
    }
}

/// Whether an element and all in it is not rendered.
#[must_use]
pub fn is_hidden(element: ElementRef<'_>) -> bool {
    let value = element.value();
    let name = value.name();
    match namespace(value) {
        // Scripts show these when they have run.
        Namespace::Html if ["html", "body"].contains(&name) => false,
        Namespace::Html => {
            NOT_RENDERED.contains(&name)
                || value.attr("hidden").is_some()
                || value.attr("popover").is_some()
                || is_styled_away(value)
                || (name == "dialog" && value.attr("open").is_none())
                || is_folded(element)
        }
        Namespace::Svg => NOT_DRAWN.contains(&name) || is_styled_away(value),
        Namespace::Math => ["annotation", "annotation-xml"].contains(&name),
    }
}

/// In `details` that are not open, only the summary is seen.
fn is_folded(element: ElementRef<'_>) -> bool {
    let parent = element.parent().and_then(ElementRef::wrap);
    parent.is_some_and(is_closed) && element.value().name() != "summary"
}

fn is_closed(element: ElementRef<'_>) -> bool {
    element.value().name() == "details" && element.value().attr("open").is_none()
}

/// Whether an element begins and ends a line: as its own style says, or else as browsers have it.
fn is_block(element: &Element) -> bool {
    let name = element.name();
    match styled(element, "display").as_deref() {
        Some("block" | "list-item" | "flow-root" | "flex" | "grid" | "table") => true,
        Some("inline" | "inline-block" | "inline-flex" | "inline-grid" | "contents") => {
            name == "br"
        }
        _ => BLOCKS.contains(&name),
    }
}

fn is_styled_away(element: &Element) -> bool {
    let visibility = styled(element, "visibility");
    styled(element, "display").as_deref() == Some("none")
        || matches!(visibility.as_deref(), Some("hidden" | "collapse"))
}

/// What an element's own style says of a property: the last word, or the last important one.
fn styled(element: &Element, property: &str) -> Option<String> {
    let style = element.attr("style")?.to_ascii_lowercase();
    let style: String = style.split_ascii_whitespace().collect();
    let mut said: Option<(bool, &str)> = None;
    for declaration in style.split(';') {
        let (name, value) = declaration.split_once(':').unwrap_or_default();
        let important = value.ends_with("!important");
        if name == property && said.is_none_or(|(earlier, _)| important || !earlier) {
            said = Some((important, value.trim_end_matches("!important")));
        }
    }
    said.map(|(_, value)| value.to_owned())
}

enum Namespace {
    Html,
    Svg,
    Math,
}

fn namespace(element: &Element) -> Namespace {
    match &*element.name.ns {
        "http://www.w3.org/2000/svg" => Namespace::Svg,
        "http://www.w3.org/1998/Math/MathML" => Namespace::Math,
        _ => Namespace::Html,
    }
}

/// Whether it is an element of HTML, and not of a drawing or a formula.
#[must_use]
pub fn is_html(element: &Element) -> bool {
    matches!(namespace(element), Namespace::Html)
}

/// Collapses white space; nothing left is none.
#[must_use]
pub fn clean(text: &str) -> Option<String> {
    let mut clean = String::new();
    for word in text.split_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    if let Some((end, _)) = clean.char_indices().nth(MAX_TEXT) {
        clean.truncate(end);
    }
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use scraper::{Html, Selector};

    use super::*;

    #[test]
    fn a_heading_reads_as_it_is_seen() {
        for (html, expected) in [
            ("One <em>head</em>line", "One headline"),
            ("Two<br>lines", "Two lines"),
            ("<div>Spring</div><div>Sale</div>", "Spring Sale"),
            ("<p>A</p>B<ul><li>C<li>D</ul>", "A B C D"),
            ("<span>In</span><span>line</span>", "Inline"),
            ("a<wbr>b<!-- x -->c", "abc"),
            ("<style>x</style>Seen<script>y</script><noscript>z</noscript>", "Seen"),
            ("<template>x</template>Seen<span hidden>y</span>", "Seen"),
            ("<b style='DISPLAY : none !important'>x</b>Seen<i style='color:red'>!</i>", "Seen!"),
            ("<b style='visibility:hidden'>x</b>Seen", "Seen"),
            ("<b aria-hidden=true>Seen</b>", "Seen"),
            ("<svg><title>Icon</title><desc>d</desc><path/></svg> Shop", "Shop"),
            ("<svg><defs><text>no</text></defs><text>Drawn</text>junk</svg> it", "Drawn it"),
            ("<svg><foreignObject><p>Deep</p></foreignObject></svg>er", "Deep er"),
            ("<math><mi>x</mi><annotation>tex</annotation></math>", "x"),
            ("<textarea>no</textarea>Seen<iframe>no</iframe>", "Seen"),
            ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢kan"),
            ("<details><summary>Sum</summary><b>no</b></details>", "Sum"),
            ("<details>no<summary>Sum <b>up</b></summary>no</details>!", "Sum up !"),
            ("<details open>A<summary>Sum</summary>B</details>", "A Sum B"),
            (
                "<span style='display:block'>Spring</span><span style='Display: BLOCK'>Sale</span>",
                "Spring Sale",
            ),
            ("<b style='display:flex'>A</b><i style='display:grid'>B</i>C", "A B C"),
            ("<i style='display:list-item'>A</i>B<i style='display:table'>C</i>", "A B C"),
            (
                "<div style='display:inline'>In</div><div style='display:inline-block'>line</div>",
                "Inline",
            ),
            ("Two<br style='display:inline'>lines", "Two lines"),
            ("<b style='display:none; display:inline'>Seen</b>", "Seen"),
            ("<b style='display:none!important; display:block'>x</b>Seen", "Seen"),
            ("A&nbsp;&nbsp; B", "A B"),
        ] {
            let document = Html::parse_document(&format!("<main>{html}</main>"));
            let main = Selector::parse("main").unwrap();
            let element = document.select(&main).next().unwrap();
            assert_eq!(seen(element).as_deref(), Some(expected), "{html}");
        }
    }
}
