//! From bytes to text: which encoding, in the order of the HTML standard — byte order mark,
//! `Content-Type` header, what the page declares ([`prescan`]) —, and without any of them by what
//! the bytes look like.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

use crate::{media::Kind, prescan};

/// What is known of a page beside its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Hints<'a> {
    /// The `charset` of its type.
    pub charset: Option<&'a str>,
    /// How it is to be read.
    pub kind: Kind,
    /// The page goes on after these bytes.
    pub cut: bool,
    /// The host that it came from: what is undeclared on a Japanese host is rather Shift_JIS.
    pub host: Option<&'a str>,
    /// It was sent as a type that is none. Such pages are rendered by browsers alone, which never
    /// guess UTF-8, so they are written in what browsers fall back on.
    pub malformed_type: bool,
}

/// Decodes a page and says in which encoding. What cannot be decoded becomes U+FFFD.
#[must_use]
pub fn decode<'a>(bytes: &'a [u8], hints: &Hints<'_>) -> (Cow<'a, str>, &'static Encoding) {
    let told = hints.charset.and_then(|label| Encoding::for_label(label.as_bytes()));
    let declared = || match hints.kind {
        Kind::Xhtml => prescan::xml(bytes),
        _ => prescan::html(bytes),
    };
    let encoding = told.or_else(declared).unwrap_or_else(|| guess(bytes, hints));
    // `decode` lets a byte order mark override what it is told.
    let (text, used, _) = encoding.decode(bytes);
    (text, used)
}

/// UTF-8 if it can be, or else what the letters look like.
fn guess(bytes: &[u8], hints: &Hints<'_>) -> &'static Encoding {
    if let Some(encoding) = prescan::utf16_markup(bytes) {
        return encoding;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, !hints.cut);
    let top = hints
        .host
        .and_then(|host| host.rsplit('.').next())
        .filter(|top| top.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
    let utf8 = match hints.malformed_type {
        true => Utf8Detection::Deny,
        false if is_nearly_utf8(bytes) => return UTF_8,
        false => Utf8Detection::Allow,
    };
    detector.guess(top.map(str::as_bytes), utf8)
}

/// A page that a database cut in the middle of a character, or that quotes one line of another
/// encoding, is UTF-8 all the same: no other encoding makes so many valid sequences by chance.
fn is_nearly_utf8(bytes: &[u8]) -> bool {
    const GOOD_FOR_EACH_BAD: usize = 20;
    let (mut good, mut bad) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    bad > 0 && good >= bad * GOOD_FOR_EACH_BAD
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTML: Hints<'static> =
        Hints { charset: None, kind: Kind::Html, cut: false, host: None, malformed_type: false };

    #[track_caller]
    fn check(bytes: &[u8], hints: Hints<'_>, text: &str, name: &str) {
        let (decoded, used) = decode(bytes, &hints);
        assert!(decoded.contains(text), "{decoded}");
        assert_eq!(used.name(), name);
    }

    fn told(charset: &str) -> Hints<'_> {
        Hints { charset: Some(charset), ..HTML }
    }

    #[test]
    fn a_byte_order_mark_beats_the_header_and_the_header_beats_the_meta_element() {
        check(b"\xef\xbb\xbf\xc3\xa9", told("windows-1252"), "é", "UTF-8");
        check(b"\xfe\xff\x00h\x00i", HTML, "hi", "UTF-16BE");
        check(b"<meta charset=utf-8>\xe9", told("iso-8859-1"), "é", "windows-1252");
        check(b"<meta charset=windows-1251>\xe9", HTML, "й", "windows-1251");
        check(b"<meta charset=koi8-r>\xc1", told("nonsense"), "а", "KOI8-R");
    }

    #[test]
    fn shift_jis_and_windows_1252_are_known_by_their_meta_elements() {
        let jis = b"<META http-equiv='Content-Type' content=\"text/html; charset=Shift_JIS\">\
                    <title>\x93\xfa\x96\x7b\x8c\xea";
        check(jis, HTML, "日本語", "Shift_JIS");
        let western = b"<meta http-equiv=content-type content='text/html;charset=windows-1252'>\
                        \x93quoted\x94 \x80";
        check(western, HTML, "“quoted” €", "windows-1252");
    }

    #[test]
    fn an_xml_document_declares_its_encoding_or_is_utf8() {
        let xml = Hints { kind: Kind::Xhtml, ..HTML };
        check(b"<?xml version='1.0' encoding='windows-1251'?>\xcf", xml, "П", "windows-1251");
        check("<?xml version='1.0'?>ż".as_bytes(), xml, "ż", "UTF-8");
    }

    #[test]
    fn without_a_word_it_is_utf8_if_it_can_be() {
        check("<title>Zażółć".as_bytes(), HTML, "Zażółć", "UTF-8");
        check(b"<p>plain", HTML, "plain", "UTF-8");
        check(b"<\0p\0>\0x\0", HTML, "<p>x", "UTF-16LE");
        let cut = Hints { cut: true, ..HTML };
        check(&"é".as_bytes()[..1], cut, "", "UTF-8");
        let stray = ["Zażółć gęślą jaźń. ".repeat(5).as_bytes(), b"\xe9"].concat();
        check(&stray, HTML, "jaźń", "UTF-8");
        let malformed = Hints { malformed_type: true, ..HTML };
        check("é".as_bytes(), malformed, "Ã©", "windows-1252");
    }

    #[test]
    fn without_a_word_the_letters_tell() {
        check(b"<title>caf\xe9 au lait, d\xe9j\xe0 vu", HTML, "café au lait, déjà", "windows-1252");
        for (name, text) in [
            ("windows-1251", "Это обычная страница на русском языке, без объявления кодировки."),
            ("Shift_JIS", "これは文字コードの宣言がない日本語のページです。"),
            ("EUC-KR", "이것은 문자 인코딩 선언이 없는 한국어 페이지입니다."),
            ("Big5", "這是一個沒有宣告編碼的中文網頁,內容足夠長。"),
            ("GBK", "这是一个没有声明编码的中文网页,内容足够长。"),
            ("windows-1253", "Αυτή είναι μια σελίδα χωρίς δήλωση κωδικοποίησης."),
        ] {
            let encoding = Encoding::for_label(name.as_bytes()).unwrap();
            check(&encoding.encode(text).0, HTML, text, name);
        }
    }

    #[test]
    fn the_host_says_which_letters_to_expect() {
        let short = Encoding::for_label(b"shift_jis").unwrap().encode("日本").0;
        let hints = Hints { host: Some("www.example.jp"), ..HTML };
        check(&short, hints, "日本", "Shift_JIS");
        let short = Encoding::for_label(b"windows-1251").unwrap().encode("Мир").0;
        let hints = Hints { host: Some("www.xn--e1afmkfd.xn--p1ai"), ..HTML };
        check(&short, hints, "Мир", "windows-1251");
    }
}
