//! From text to what the page says.

use schemars::JsonSchema;
use scraper::{ElementRef, Html, Selector};
use serde::Serialize;
use taskforge_sdk::http::Url;

use crate::nesting;

/// The longest text that is taken from a page, in characters.
const MAX_TEXT: usize = 4096;

/// What the page says about itself. All null and zero when the answer is not HTML.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Page {
    /// The first `title` element.
    pub title: Option<String>,
    /// `meta name=description`, or else `meta property=og:description`.
    pub description: Option<String>,
    /// `link rel=canonical`, as an absolute http or https address.
    pub canonical_url: Option<String>,
    /// `html lang`, or else `meta http-equiv=content-language`, or else the `Content-Language` header.
    pub language: Option<String>,
    /// The first `h1` element.
    pub h1: Option<String>,
    /// `a` and `area` elements that lead to an http or https address on another host than the page's own, each counted, ports ignored.
    pub outgoing_link_count: usize,
    /// `a` and `area` elements that lead to any http or https address, those within the page included.
    pub link_count: usize,
}

/// A page, and whether all of it was looked at.
#[derive(Debug)]
pub struct Parsed {
    /// What it says.
    pub page: Page,
    /// Elements were nested too deeply, and what follows was left out.
    pub too_deep: bool,
}

/// Reads a page that came from `url`.
#[must_use]
pub fn read(html: &str, url: &Url) -> Parsed {
    let (html, too_deep) = nesting::cut(html);
    let document = Html::parse_document(html);
    let base = first(&document, "base[href]")
        .and_then(|element| url.join(element.attr("href")?.trim()).ok())
        .unwrap_or_else(|| url.clone());
    let links = links(&document, &base);
    let page = Page {
        // An svg may hold a `title` too.
        title: select(&document, "title").find(is_html).and_then(text_of),
        description: meta(&document, "name", "description")
            .or_else(|| meta(&document, "property", "og:description")),
        canonical_url: select(&document, "link[rel~='canonical' i][href]")
            .find_map(|element| web_url(&base, element.attr("href")?))
            .map(String::from),
        language: first(&document, "html[lang]")
            .and_then(|element| clean(element.attr("lang")?))
            .or_else(|| meta(&document, "http-equiv", "content-language")),
        h1: first(&document, "h1").and_then(text_of),
        outgoing_link_count: links.iter().filter(|link| link.host() != url.host()).count(),
        link_count: links.len(),
    };
    Parsed { page, too_deep }
}

fn select<'a>(document: &'a Html, selector: &str) -> impl Iterator<Item = ElementRef<'a>> {
    // A selector that does not parse would be a typing error in this file, which the tests would show as a missing value.
    let found: Vec<_> = Selector::parse(selector)
        .map(|selector| document.select(&selector).collect())
        .unwrap_or_default();
    found.into_iter()
}

fn first<'a>(document: &'a Html, selector: &str) -> Option<ElementRef<'a>> {
    select(document, selector).next()
}

fn is_html(element: &ElementRef<'_>) -> bool {
    &*element.value().name.ns == "http://www.w3.org/1999/xhtml"
}

fn meta(document: &Html, key: &str, name: &str) -> Option<String> {
    select(document, &format!("meta[{key}='{name}' i][content]"))
        .find_map(|element| clean(element.attr("content")?))
}

fn links(document: &Html, base: &Url) -> Vec<Url> {
    select(document, "a[href], area[href]")
        .filter_map(|link| web_url(base, link.attr("href")?))
        .collect()
}

fn web_url(base: &Url, href: &str) -> Option<Url> {
    let url = base.join(href.trim()).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

fn text_of(element: ElementRef<'_>) -> Option<String> {
    let mut text = String::new();
    for piece in element.text() {
        text.push_str(piece);
        // Collapsed it may be shorter; what is far beyond the limit needs no collecting.
        if text.len() > 16 * MAX_TEXT {
            break;
        }
    }
    clean(&text)
}

/// Collapses white space; nothing left is none.
fn clean(text: &str) -> Option<String> {
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
    use super::*;

    fn page(html: &str) -> Page {
        read(html, &Url::parse("https://example.com/dir/page?x").unwrap()).page
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
            }
        );
    }

    #[test]
    fn what_is_missing_or_empty_is_null() {
        assert_eq!(page(""), Page::default());
        let empty = "<title> \n </title><h1></h1><meta name=description content=' '><html lang=''>";
        assert_eq!(page(empty), Page::default());
        assert_eq!(
            page("<link rel=canonical href='javascript:alert(1)'>").canonical_url,
            None
        );
    }

    #[test]
    fn the_title_is_the_pages_and_not_a_drawings() {
        assert_eq!(page("<svg><title>Icon</title></svg><p>Text").title, None);
        assert_eq!(
            page("<svg><title>Icon</title></svg><title>Page</title>")
                .title
                .as_deref(),
            Some("Page")
        );
    }

    #[test]
    fn the_open_graph_describes_a_page_that_does_not_itself() {
        let page =
            page("<meta name=description content=''><meta property='og:description' content='From og'>");
        assert_eq!(page.description.as_deref(), Some("From og"));
    }

    #[test]
    fn a_base_element_moves_every_relative_address() {
        let page = page("<base href='https://cdn.example/x/'><link rel=canonical href=y><a href=z>");
        assert_eq!(page.canonical_url.as_deref(), Some("https://cdn.example/x/y"));
        assert_eq!(page.outgoing_link_count, 1);
    }

    #[test]
    fn the_language_can_stand_in_a_meta_element() {
        assert_eq!(
            page("<meta http-equiv=Content-Language content=pl>")
                .language
                .as_deref(),
            Some("pl")
        );
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
        let url = Url::parse("https://example.com/").unwrap();
        for tag in ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "<font size=1>"] {
            let parsed = read(&format!("<title>Deep</title>{}", tag.repeat(100_000)), &url);
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
