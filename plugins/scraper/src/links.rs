//! `Link` headers (RFC 8288): the canonical address of what has no markup to say it in.

use taskforge_sdk::http::Url;

use crate::{
    address,
    headers::{Headers, split, unquote},
};

/// The first link of an answer from `url` that names its canonical address (RFC 6596).
#[must_use]
pub fn canonical(headers: &Headers, url: &Url) -> Option<Url> {
    let list = headers.list("link")?;
    // A target may hold commas, so it is looked for by its angle brackets.
    let mut rest = list.as_str();
    while let Some(open) = rest.find('<') {
        let (target, after) = rest[open + 1..].split_once('>')?;
        let parameters = split(after, ',').first().copied().unwrap_or_default();
        if is_canonical(parameters, url)
            && let Some(found) = url.join(target.trim()).ok().and_then(address::web)
            && !target.trim().is_empty()
        {
            return Some(found);
        }
        rest = after;
        let skipped = after.find(parameters).map_or(0, |at| at + parameters.len());
        rest = &rest[skipped..];
    }
    None
}

fn is_canonical(parameters: &str, url: &Url) -> bool {
    let (mut relation, mut anchor) = (None, None);
    for parameter in split(parameters, ';') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = unquote(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            // Only the first one counts.
            "rel" => relation = relation.or(Some(value)),
            "anchor" => anchor = Some(value),
            _ => {}
        }
    }
    // A link may be about another document.
    let about_this = anchor.is_none_or(|anchor| {
        let context = url.join(&anchor).ok();
        context.is_some_and(|context| {
            address::without_fragment(&context) == address::without_fragment(url)
        })
    });
    let canonical = relation.is_some_and(|relation| {
        relation.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("canonical"))
    });
    about_this && canonical
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_link_is_found_among_others() {
        for (lines, expected) in [
            (&["<https://a.example/x>; rel=\"canonical\""][..], Some("https://a.example/x")),
            (&["</i>; rel=image_src, </c,d>; rel=canonical"], Some("https://example.com/c,d")),
            (
                &["</a>; rel=next", "<../b>; Rel=\"shortlink Canonical\""],
                Some("https://example.com/b"),
            ),
            (
                &["</a>; title=\"x, <y>; rel=canonical\"; rel=next, </b>; rel=canonical"],
                Some("https://example.com/b"),
            ),
            (&["</a>; rel=next; rel=canonical"], None),
            (&["</a>; rel=canonical; anchor=\"/other\""], None),
            (&["<>; rel=canonical, </b>; rel=canonical"], Some("https://example.com/b")),
            (&["<javascript:x>; rel=canonical"], None),
            (&["</a; rel=canonical"], None),
            (&["rel=canonical"], None),
        ] {
            let headers: Headers = lines.iter().map(|line| ("Link", *line)).collect();
            let url = Url::parse("https://example.com/d/page").unwrap();
            let found = canonical(&headers, &url).map(String::from);
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
    }
}
