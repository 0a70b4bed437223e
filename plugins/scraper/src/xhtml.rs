//! XHTML, written anew as the HTML that stands for the same tree: an XML parser would give up at
//! the first error, and pages have errors whatever they are served as.
//!
//! What differs: `<x/>` is an empty element whatever its name, CDATA sections are text, processing
//! instructions are none, entities may be declared, and names may have a prefix.

use std::{borrow::Cow, collections::HashMap};

const NAMESPACE: &str = "http://www.w3.org/1999/xhtml";

/// Elements that HTML knows without content and end tag.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
];

/// What declared entities may add to a page, in bytes: they stand for themselves alone, but may be
/// used many times.
const MAX_EXPANSION: usize = 256 << 10;

/// Whether the first element of an XML document is the `html` of XHTML.
#[must_use]
pub fn has_xhtml_root(xml: &str) -> bool {
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = match rest.as_bytes().first() {
            Some(b'?') => rest.find("?>"),
            Some(b'!') if rest.starts_with("!--") => rest.find("-->"),
            Some(b'!') => Some(doctype_end(rest)),
            _ => {
                let tag = &rest[..tag_end(rest)];
                return local(name_of(tag)) == "html" && tag.contains(NAMESPACE);
            }
        };
        rest = &rest[end.unwrap_or(rest.len()).min(rest.len())..];
    }
    false
}

/// The same document as HTML.
#[must_use]
pub fn to_html(xml: &str) -> String {
    let mut writer = Writer {
        html: String::with_capacity(xml.len() + 1024),
        prefix: prefix(xml),
        entities: HashMap::new(),
        expansion: MAX_EXPANSION,
    };
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        writer.text(&rest[..at]);
        let markup = &rest[at + 1..];
        let after = writer.markup(markup);
        rest = &markup[after.min(markup.len())..];
    }
    writer.text(rest);
    writer.html
}

struct Writer {
    html: String,
    prefix: Option<String>,
    entities: HashMap<String, String>,
    expansion: usize,
}

impl Writer {
    /// Writes what begins with a `<`, and returns where it ends.
    fn markup(&mut self, markup: &str) -> usize {
        let until = |end: &str| markup.find(end).map_or(markup.len(), |at| at + end.len());
        if markup.starts_with("!--") {
            return markup
                .get(3..)
                .and_then(|rest| rest.find("-->"))
                .map_or(markup.len(), |at| at + 6);
        }
        if let Some(section) = markup.strip_prefix("![CDATA[") {
            let text = section.find("]]>").map_or(section, |end| &section[..end]);
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
            self.html.push_str(&escaped);
            return until("]]>");
        }
        if markup.starts_with('?') {
            return until("?>");
        }
        if markup.starts_with('!') {
            let end = doctype_end(markup);
            self.entities = declared_entities(&markup[..end]);
            self.html.push_str("<!DOCTYPE html>");
            return end;
        }
        let end = tag_end(markup);
        self.tag(markup[..end].trim_end_matches('>'));
        end
    }

    fn tag(&mut self, tag: &str) {
        let (slash, tag) = tag.strip_prefix('/').map_or(("", tag), |tag| ("/", tag));
        let full = name_of(tag);
        let attributes = self.expanded(&tag[full.len()..]).into_owned();
        let name = match (&self.prefix, full.split_once(':')) {
            (Some(prefix), Some((own, local))) if own == prefix => local,
            _ => full,
        };
        if name.is_empty() {
            self.html.push_str("&lt;");
            self.html.push_str(tag);
            return;
        }
        let void = VOID.contains(&name);
        if slash == "/" {
            if !void {
                self.html.push_str(&format!("</{name}>"));
            }
            return;
        }
        let (attributes, empty) =
            attributes.strip_suffix('/').map_or((attributes.as_str(), false), |rest| (rest, true));
        self.html.push_str(&format!("<{name}{attributes}>"));
        if empty && !void {
            self.html.push_str(&format!("</{name}>"));
        }
    }

    fn text(&mut self, text: &str) {
        let text = self.expanded(text).into_owned();
        self.html.push_str(&text);
    }

    /// References to declared entities are replaced, once: what they stand for is not read again.
    fn expanded<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        if self.entities.is_empty() || !text.contains('&') {
            return Cow::Borrowed(text);
        }
        let mut result = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('&') {
            let (before, reference) = rest.split_at(at);
            result.push_str(before);
            let name = reference[1..].split_once(';').map_or("", |(name, _)| name);
            match self.entities.get(name) {
                Some(value) if value.len() <= self.expansion => {
                    self.expansion -= value.len();
                    result.push_str(value);
                    rest = &reference[name.len() + 2..];
                }
                _ => {
                    result.push('&');
                    rest = &reference[1..];
                }
            }
        }
        result.push_str(rest);
        Cow::Owned(result)
    }
}

/// The prefix that XHTML's own elements have, if they have one.
fn prefix(xml: &str) -> Option<String> {
    let declarations = xml.match_indices("xmlns:").filter_map(|(at, _)| {
        let (name, value) = xml[at + "xmlns:".len()..].split_once('=')?;
        let value = value.trim_start();
        let quoted = value.strip_prefix(['"', '\''])?;
        quoted.starts_with(NAMESPACE).then(|| name.trim().to_owned())
    });
    declarations.take(1).next()
}

fn declared_entities(doctype: &str) -> HashMap<String, String> {
    let declared = doctype.split("<!ENTITY").skip(1).filter_map(|declaration| {
        let declaration = declaration.trim_start();
        let (name, rest) = declaration.split_once(|c: char| c.is_ascii_whitespace())?;
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, _) = rest[1..].split_once(quote)?;
        Some((name.to_owned(), value.to_owned()))
    });
    declared.take(256).collect()
}

/// Where a document type declaration ends, its internal subset included.
fn doctype_end(markup: &str) -> usize {
    let close = markup.find('>').map_or(markup.len(), |at| at + 1);
    match markup.find('[') {
        Some(open) if open < close => {
            let subset = markup[open..].find("]>").map(|at| open + at + 2);
            subset.or_else(|| {
                let bracket = open + markup[open..].find(']')?;
                Some(bracket + markup[bracket..].find('>')? + 1)
            })
        }
        _ => Some(close),
    }
    .unwrap_or(markup.len())
}

/// Where a tag ends; a `>` within quotes does not end it.
pub(crate) fn tag_end(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'>' => return at + 1,
            b'=' => {
                at += 1;
                at += bytes[at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
                if let Some(&quote @ (b'"' | b'\'')) = bytes.get(at) {
                    let close = bytes[at + 1..].iter().position(|&b| b == quote);
                    at = close.map_or(bytes.len(), |length| at + length + 2);
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn name_of(tag: &str) -> &str {
    let end = tag.find(|c: char| c.is_whitespace() || matches!(c, '/' | '>'));
    &tag[..end.unwrap_or(tag.len())]
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_element_is_empty_whatever_its_name() {
        for (xml, html) in [
            (
                "<script src='a.js'/><title>x</title>",
                "<script src='a.js'></script><title>x</title>",
            ),
            ("<br/><br></br><p/>", "<br><br><p></p>"),
            ("<a title='a/>b'/>", "<a title='a/>b'></a>"),
            ("<?xml version='1.0'?><!-- <b> -->x", "x"),
            ("<title><![CDATA[A & <B>]]></title>", "<title>A &amp; &lt;B></title>"),
            ("<b", "<b>"),
            ("a < b", "a &lt; b"),
            ("<![CDATA[x", "x"),
        ] {
            assert_eq!(to_html(xml), html);
        }
    }

    #[test]
    fn declared_entities_and_prefixes_are_known() {
        let xml = "<!DOCTYPE html [<!ENTITY shop \"Ann's\">]><h:html xmlns:h='http://www.w3.org/1999/xhtml'>\
                   <h:title>&shop; &amp; Co</h:title></h:html>";
        assert!(has_xhtml_root(xml));
        let html = to_html(xml);
        assert!(html.contains("<title>Ann's &amp; Co</title>"), "{html}");
        assert!(!has_xhtml_root("<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"));
        assert!(!has_xhtml_root("<html>"));
    }

    #[test]
    fn entities_cannot_blow_a_page_up() {
        let value = "x".repeat(1000);
        let xml = format!("<!DOCTYPE a [<!ENTITY e '{value}'>]>{}", "&e;".repeat(100_000));
        assert!(to_html(&xml).len() < MAX_EXPANSION + xml.len() + 1000);
    }
}
