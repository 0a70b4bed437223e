//! From text to what the page says.

use std::collections::BTreeMap;

use encoding_rs::{Encoding, UTF_8};
use schemars::JsonSchema;
use scraper::{ElementRef, Html, Node, node::Element};
use serde::Serialize;
use taskforge_sdk::http::Url;

use crate::{
    address,
    media::Kind,
    nesting, refresh,
    text::{clean, is_hidden, is_html, seen},
    xhtml,
};

/// Properties of one vocabulary that are told.
const MAX_PROPERTIES: usize = 50;

/// What the page says about itself. Null, zero and empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Page {
    /// The first `title` element that has a text, or else `og:title` or `twitter:title`.
    pub title: Option<String>,
    /// `meta name=description`, or else `og:description` or `twitter:description`.
    pub description: Option<String>,
    /// `link rel=canonical`, or else the canonical `Link` header, as an absolute http or https
    /// address.
    pub canonical_url: Option<String>,
    /// `html lang`, or else `meta http-equiv=content-language`, or else the `Content-Language`
    /// header. Null where a list of languages stands.
    pub language: Option<String>,
    /// The first `h1` element that has a text that a reader sees.
    pub h1: Option<String>,
    /// `a` and `area` elements that lead to an http or https address on another host than the
    /// page's own, each counted, ports ignored.
    pub outgoing_link_count: usize,
    /// `a` and `area` elements that lead to any http or https address, those within the page
    /// included.
    pub link_count: usize,
    /// Open Graph properties by their names without `og:`, such as `image` or `site_name`; the
    /// first value of each, and at most 50.
    pub open_graph: BTreeMap<String, String>,
    /// The same for `twitter:`, such as `card`.
    pub twitter: BTreeMap<String, String>,
}

/// Where a text comes from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its address.
    pub url: &'a Url,
    /// The encoding that it was read in, which queries of its links are sent in.
    pub encoding: &'static Encoding,
    /// How it is to be read.
    pub kind: Kind,
    /// The `Content-Language` header.
    pub content_language: Option<&'a str>,
}

impl<'a> Source<'a> {
    /// An HTML page in UTF-8.
    #[must_use]
    pub const fn html(url: &'a Url) -> Self {
        Self { url, encoding: UTF_8, kind: Kind::Html, content_language: None }
    }
}

/// A page, and whether all of it was looked at.
#[derive(Debug)]
pub struct Parsed {
    /// What it says.
    pub page: Page,
    /// Elements were nested too deeply, and what follows was left out.
    pub too_deep: bool,
    /// The page that it sends its readers on to at once.
    pub refresh: Option<Url>,
}

/// Reads a page.
#[must_use]
pub fn read(text: &str, source: &Source<'_>) -> Parsed {
    let converted = (source.kind == Kind::Xhtml).then(|| xhtml::to_html(text));
    let (html, too_deep) = nesting::cut(converted.as_deref().unwrap_or(text));
    let document = Html::parse_document(html);
    let found = Found::within(&document, source.kind);
    // A base that is none, or that nothing can be relative to, leaves the page's own address.
    let base = found
        .base
        .and_then(|href| address::join(source.url, href, source.encoding))
        .filter(|base| !base.cannot_be_a_base() && !["data", "javascript"].contains(&base.scheme()))
        .unwrap_or_else(|| source.url.clone());
    let resolve = |href: &&str| address::join(&base, href, source.encoding);
    let links: Vec<Url> = found.links.iter().filter_map(resolve).filter(address::is_web).collect();
    let open_graph = found.properties("og:");
    let twitter = found.properties("twitter:");
    let shared = |name: &str| open_graph.get(name).or_else(|| twitter.get(name)).cloned();
    let page = Page {
        title: found.title.clone().or_else(|| shared("title")),
        description: found.meta("description").or_else(|| shared("description")),
        // An empty `href` makes no link (HTML, 4.2.4).
        canonical_url: found
            .canonical
            .iter()
            .filter(|href| !href.trim().is_empty())
            .filter_map(resolve)
            .find_map(address::web)
            .map(String::from),
        language: found.language(source.content_language),
        outgoing_link_count: links.iter().filter(|link| link.host() != source.url.host()).count(),
        link_count: links.len(),
        h1: found.h1,
        open_graph,
        twitter,
    };
    let refresh = found.refresh.and_then(refresh::target);
    Parsed { page, too_deep, refresh: refresh.as_ref().and_then(resolve).filter(address::is_web) }
}

/// What one walk through the document finds. What a template holds is no part of it (HTML, 4.12.3).
#[derive(Default)]
struct Found<'a> {
    base: Option<&'a str>,
    title: Option<String>,
    h1: Option<String>,
    /// Of the `html` element; an empty one says that the language is not known.
    lang: Option<&'a str>,
    pragma_language: Option<&'a str>,
    refresh: Option<&'a str>,
    metas: Vec<(&'a str, &'a str)>,
    canonical: Vec<&'a str>,
    links: Vec<&'a str>,
}

impl<'a> Found<'a> {
    fn within(document: &'a Html, kind: Kind) -> Self {
        let mut found = Self::default();
        let mut next = document.tree.root().first_child();
        let mut hidden = None;
        while let Some(node) = next {
            let element = ElementRef::wrap(node);
            if hidden.is_none() && element.is_some_and(is_hidden) {
                hidden = Some(node.id());
            }
            if let Some(element) = element {
                found.look_at(element, hidden.is_some(), kind);
            }
            let inside = match node.value() {
                Node::Element(value) if value.name() == "template" && is_html(value) => None,
                _ => node.first_child(),
            };
            next = inside;
            let mut done = node;
            while next.is_none() {
                if hidden == Some(done.id()) {
                    hidden = None;
                }
                next = done.next_sibling();
                match done.parent() {
                    Some(parent) => done = parent,
                    None => break,
                }
            }
        }
        found
    }

    fn look_at(&mut self, element: ElementRef<'a>, hidden: bool, kind: Kind) {
        let value = element.value();
        let name = value.name();
        if ["a", "area"].contains(&name)
            && let Some(href) = value.attr("href")
        {
            self.links.push(href);
        }
        if !is_html(value) {
            return;
        }
        match name {
            "html" => {
                let xml = value.attr("xml:lang").filter(|_| kind == Kind::Xhtml);
                self.lang = self.lang.or(xml.or_else(|| value.attr("lang")));
            }
            "base" => self.base = self.base.or_else(|| value.attr("href")),
            "title" if self.title.is_none() => {
                self.title = clean(&element.text().collect::<String>());
            }
            "h1" if self.h1.is_none() && !hidden => self.h1 = seen(element),
            "link" if has_token(value, "rel", "canonical") => {
                self.canonical.extend(value.attr("href"));
            }
            "meta" => self.look_at_meta(value),
            _ => {}
        }
    }

    fn look_at_meta(&mut self, meta: &'a Element) {
        let Some(content) = meta.attr("content") else {
            return;
        };
        // Open Graph asks for `property`; pages and readers take `name` as well.
        for names in ["name", "property"] {
            let names = meta.attr(names).unwrap_or_default();
            self.metas.extend(names.split_ascii_whitespace().map(|name| (name, content)));
        }
        let pragma = meta.attr("http-equiv").unwrap_or_default().trim();
        if pragma.eq_ignore_ascii_case("refresh") {
            self.refresh = self.refresh.or(Some(content));
        }
        // The last one that says something counts, up to its first white space. A list says nothing
        // (HTML, 4.2.5.3).
        if pragma.eq_ignore_ascii_case("content-language") && !content.contains(',') {
            let first = content.split_ascii_whitespace().next();
            self.pragma_language = first.or(self.pragma_language);
        }
    }

    fn meta(&self, name: &str) -> Option<String> {
        self.metas
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .find_map(|(_, content)| clean(content))
    }

    fn properties(&self, prefix: &str) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        for (name, content) in &self.metas {
            let name = name.to_ascii_lowercase();
            let Some(name) = name.strip_prefix(prefix).filter(|name| !name.is_empty()) else {
                continue;
            };
            let room = properties.len() < MAX_PROPERTIES && name.len() <= 100;
            if room
                && !properties.contains_key(name)
                && let Some(content) = clean(content)
            {
                properties.insert(name.to_owned(), content);
            }
        }
        properties
    }

    /// One language, by the nearest that says something; a list says nothing.
    fn language(&self, header: Option<&str>) -> Option<String> {
        let said = self.lang.or(self.pragma_language).or(header);
        let language = clean(said?)?;
        (!language.contains([',', ' '])).then_some(language)
    }
}

fn has_token(element: &Element, attribute: &str, token: &str) -> bool {
    let list = element.attr(attribute).unwrap_or_default();
    list.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::MAX_TEXT;

    fn parsed(html: &str) -> Parsed {
        let url = Url::parse("https://example.com/dir/page?x").unwrap();
        read(html, &Source::html(&url))
    }

    fn page(html: &str) -> Page {
        parsed(html).page
    }

    #[test]
    fn a_page_says_what_it_is() {
        let page = page(
            r#"<!doctype html><html lang="en-GB"><head><title>
                 A   title &amp; more </title>
               <meta name="Description" content=" What   it is. "><meta property="og:description" content="Not this">
               <link rel="alternate canonical" href="../canonical#top"></head>
               <body><h1>One <em>headline</em></h1><h1>Two</h1>
               <a href="/same">1</a> <a href="https://example.com:8443/port">2</a> <a href="//other.example/">3</a>
               <map><area href="http://third.example/"></map> <a href="mailto:a@b.example">4</a> <a>5</a>
               <a href="https://OTHER.example/again">6</a>"#,
        );
        assert_eq!(
            page,
            Page {
                title: Some("A title & more".to_owned()),
                description: Some("What it is.".to_owned()),
                canonical_url: Some("https://example.com/canonical#top".to_owned()),
                language: Some("en-GB".to_owned()),
                h1: Some("One headline".to_owned()),
                outgoing_link_count: 3,
                link_count: 5,
                open_graph: BTreeMap::from([("description".to_owned(), "Not this".to_owned())]),
                twitter: BTreeMap::new(),
            }
        );
    }

    #[test]
    fn what_is_missing_or_empty_is_null() {
        assert_eq!(page(""), Page::default());
        let empty = "<title> \n </title><h1></h1><meta name=description content=' '><html lang=''>";
        assert_eq!(page(empty), Page::default());
        assert_eq!(page("<link rel=canonical href='javascript:alert(1)'>").canonical_url, None);
    }

    #[test]
    fn the_title_is_the_pages_and_not_a_drawings() {
        assert_eq!(page("<svg><title>Icon</title></svg><p>Text").title, None);
        assert_eq!(
            page("<svg><title>Icon</title></svg><title>Page</title>").title.as_deref(),
            Some("Page")
        );
    }

    #[test]
    fn the_open_graph_describes_a_page_that_does_not_itself() {
        let page = page(
            "<meta name=description content=''><meta property='og:description' content='From og'>",
        );
        assert_eq!(page.description.as_deref(), Some("From og"));
    }

    #[test]
    fn a_base_element_moves_every_relative_address() {
        let page =
            page("<base href='https://cdn.example/x/'><link rel=canonical href=y><a href=z>");
        assert_eq!(page.canonical_url.as_deref(), Some("https://cdn.example/x/y"));
        assert_eq!(page.outgoing_link_count, 1);
    }

    #[test]
    fn the_language_can_stand_in_a_meta_element() {
        assert_eq!(
            page("<meta http-equiv=Content-Language content=pl>").language.as_deref(),
            Some("pl")
        );
    }

    #[test]
    fn an_empty_or_listed_language_is_none() {
        let meta = "<meta http-equiv=content-language content=";
        for (html, expected) in [
            ("<html lang=''><meta http-equiv=content-language content=pl>".to_owned(), None),
            (format!("{meta}'en, de'>"), None),
            (format!("{meta}' pl junk'>{meta}''>"), Some("pl")),
            (format!("{meta}en>{meta}de>"), Some("de")),
            ("<html lang='en, de'>".to_owned(), None),
            ("<html lang=' en '>".to_owned(), Some("en")),
        ] {
            assert_eq!(page(&html).language.as_deref(), expected, "{html}");
        }
    }

    #[test]
    fn a_base_that_nothing_can_be_relative_to_is_none() {
        for base in
            ["data:text/plain,x", "javascript:x", "mailto:a@b.example", "http://", "http://["]
        {
            let page =
                page(&format!("<base href='{base}'><link rel=canonical href=/c><a href=/1>"));
            assert_eq!(page.canonical_url.as_deref(), Some("https://example.com/c"), "{base}");
            assert_eq!(page.link_count, 1);
        }
        let page = page("<base target=x><base href=/b/><base href=/d/><link rel=canonical href=c>");
        assert_eq!(page.canonical_url.as_deref(), Some("https://example.com/b/c"));
    }

    #[test]
    fn what_a_template_holds_is_no_part_of_the_page() {
        let held = "<base href=https://x.example><title>T</title><h1>T</h1><a href=/a>\
                    <meta name=description content=T><link rel=canonical href=/t>";
        let page = page(&format!("<template>{held}</template><h1>Real</h1>"));
        let real = Page { h1: Some("Real".to_owned()), ..Page::default() };
        assert_eq!(page, real);
    }

    #[test]
    fn the_heading_is_the_first_that_is_seen() {
        for html in [
            "<div hidden><h1>No</h1></div><h1>Yes</h1>",
            "<h1><img alt=logo></h1><h1>Yes</h1>",
            "<h1 style='display:none'>No</h1><h1>Yes</h1>",
            "<noscript><h1>No</h1></noscript><h1>Yes</h1>",
            "<dialog><h1>No</h1></dialog><h1>Yes</h1>",
        ] {
            assert_eq!(page(html).h1.as_deref(), Some("Yes"), "{html}");
        }
    }

    #[test]
    fn open_graph_and_twitter_fields_are_told_and_stand_in() {
        let page = page(
            "<meta property=og:title content=Og><meta name=og:image content=/i.png>\
             <meta property=og:title content=Second><meta name=twitter:card content=summary>\
             <meta name='twitter:description' content='From T'><meta property='x og:type' content=t>",
        );
        assert_eq!(page.title.as_deref(), Some("Og"));
        assert_eq!(page.description.as_deref(), Some("From T"));
        let names: Vec<&str> = page.open_graph.keys().map(String::as_str).collect();
        assert_eq!(names, ["image", "title", "type"]);
        assert_eq!(page.twitter["card"], "summary");
    }

    #[test]
    fn an_address_of_a_page_is_told_without_credentials_and_an_empty_one_is_none() {
        let canonical = |html: &str| page(html).canonical_url;
        let empty = "<link rel=canonical href=''><link rel=canonical href=' '>";
        assert_eq!(canonical(empty), None);
        let good = format!("{empty}<link rel='CANONICAL x' href=https://ann:pw@a.example/>");
        assert_eq!(canonical(&good).as_deref(), Some("https://a.example/"));
    }

    #[test]
    fn a_refresh_is_resolved_like_a_link() {
        let to = |html: &str| parsed(html).refresh.map(String::from);
        let meta = "<meta http-equiv=Refresh content='0; url=next'>";
        assert_eq!(to(meta).as_deref(), Some("https://example.com/dir/next"));
        let based = format!("<base href=/b/>{meta}");
        assert_eq!(to(&based).as_deref(), Some("https://example.com/b/next"));
        assert_eq!(to(&format!("<noscript>{meta}</noscript>")), None);
        assert_eq!(to("<meta http-equiv=refresh content='0; url=javascript:x'>"), None);
    }

    #[test]
    fn an_xhtml_page_is_read_as_one() {
        let url = Url::parse("https://example.com/").unwrap();
        let source = Source { kind: Kind::Xhtml, ..Source::html(&url) };
        let xml = "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml' xml:lang='pl'>\
                   <head><script src='a.js'/><title>T</title></head><body><h1>H</h1></body></html>";
        let page = read(xml, &source).page;
        assert_eq!((page.title.as_deref(), page.h1.as_deref()), (Some("T"), Some("H")));
        assert_eq!(page.language.as_deref(), Some("pl"));
    }

    #[test]
    fn broken_markup_is_read_as_a_browser_reads_it() {
        let page = page(
            "<TITLE>Broken</titel></title><h1>He<b>ad</h1><a href=http://x.example/>x<a href='http://y.example'>y<table><tr><a href=http://z.example>",
        );
        assert!(page.title.is_some_and(|title| title.starts_with("Broken")));
        assert_eq!(page.h1.as_deref(), Some("Head"));
        assert_eq!(page.outgoing_link_count, 3);
    }

    #[test]
    fn a_page_nested_without_end_is_cut_and_still_read() {
        for tag in ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "<font size=1>"] {
            let parsed = parsed(&format!("<title>Deep</title>{}", tag.repeat(100_000)));
            assert!(parsed.too_deep, "{tag}");
            assert_eq!(parsed.page.title.as_deref(), Some("Deep"), "{tag}");
        }
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let page = page(&format!("<title>{}</title>", "\u{e9} ".repeat(100_000)));
        assert_eq!(page.title.unwrap().chars().count(), MAX_TEXT);
    }
}
