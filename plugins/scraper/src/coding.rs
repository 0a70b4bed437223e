//! Content codings: gzip, brotli and deflate, cut at the cap.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// A body without its codings.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What could be decoded, at most as much as allowed.
    pub bytes: Vec<u8>,
    /// There was more.
    pub truncated: bool,
    /// Why there is no more. What came before is in `bytes`.
    pub error: Option<String>,
}

/// Takes the codings of a `Content-Encoding` header off again, the last one first. Never makes more than `cap` bytes of it, so that a
/// decompression bomb costs no more than a page of that size.
#[must_use]
pub fn decode(body: Vec<u8>, content_encoding: Option<&str>, cap: usize) -> Decoded {
    let mut decoded = Decoded {
        truncated: body.len() > cap,
        bytes: body,
        error: None,
    };
    decoded.bytes.truncate(cap);
    for coding in content_encoding
        .unwrap_or_default()
        .rsplit(',')
        .map(str::trim)
        .filter(|c| !c.is_empty())
    {
        let input = decoded.bytes.as_slice();
        let (bytes, error) = match coding.to_ascii_lowercase().as_str() {
            "identity" => continue,
            "gzip" | "x-gzip" => inflate(MultiGzDecoder::new(input), cap),
            "br" => inflate(brotli_decompressor::Decompressor::new(input, 4096), cap),
            // What the standard calls deflate is a zlib stream; some servers leave the zlib header out.
            "deflate" if has_zlib_header(input) => inflate(ZlibDecoder::new(input), cap),
            "deflate" => inflate(DeflateDecoder::new(input), cap),
            _ => (Vec::new(), Some("is not a known content coding".to_owned())),
        };
        decoded.error = decoded
            .error
            .or_else(|| error.map(|error| format!("{coding}: {error}")));
        decoded.truncated |= bytes.len() > cap;
        decoded.bytes = bytes;
        decoded.bytes.truncate(cap);
    }
    decoded
}

/// Up to one byte more than the cap, which tells that there is more.
fn inflate(decoder: impl Read, cap: usize) -> (Vec<u8>, Option<String>) {
    let mut bytes = Vec::new();
    let result: io::Result<usize> = decoder.take(cap as u64 + 1).read_to_end(&mut bytes);
    (bytes, result.err().map(|error| error.to_string()))
}

fn has_zlib_header(bytes: &[u8]) -> bool {
    matches!(bytes, [cmf, flg, ..] if cmf & 0x0f == 8 && (u16::from(*cmf) << 8 | u16::from(*flg)).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] = b"<title>Compressed</title> and again: Compressed, Compressed, Compressed.";

    /// The same text, compressed by the reference implementation of brotli (1.1.0, quality 5).
    const BROTLI: &[u8] = include_bytes!("../testdata/text.br");

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(body: Vec<u8>, coding: &str) -> Decoded {
        decode(body, Some(coding), 1 << 20)
    }

    #[test]
    fn every_coding_that_we_ask_for_is_decoded() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(TEXT).unwrap();
        for (coding, body) in [
            ("gzip", gzip(TEXT)),
            ("X-GZIP", gzip(TEXT)),
            ("br", BROTLI.to_vec()),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
            ("identity", TEXT.to_vec()),
            ("", TEXT.to_vec()),
            ("gzip, gzip", gzip(&gzip(TEXT))),
            ("br , gzip", gzip(BROTLI)),
        ] {
            let decoded = decoded(body, coding);
            assert_eq!(
                decoded,
                Decoded {
                    bytes: TEXT.to_vec(),
                    truncated: false,
                    error: None
                },
                "{coding}"
            );
        }
    }

    #[test]
    fn what_was_decoded_before_a_corrupt_place_is_kept() {
        let text: Vec<u8> = (0..40_000_u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        let mut body = gzip(&text);
        let middle = body.len() / 2;
        body.truncate(middle);
        let cut = decoded(body.clone(), "gzip");
        assert!(cut.error.is_some() && !cut.bytes.is_empty());
        assert!(text.starts_with(&cut.bytes));

        body[20..40].fill(0xff);
        let corrupt = decoded(body, "gzip");
        assert!(corrupt.error.unwrap().starts_with("gzip: "));
    }

    #[test]
    fn a_body_in_a_coding_that_nobody_asked_for_is_no_text() {
        let decoded = decoded(TEXT.to_vec(), "zstd");
        assert_eq!(
            (decoded.bytes.len(), decoded.error.as_deref()),
            (0, Some("zstd: is not a known content coding"))
        );
    }

    #[test]
    fn a_bomb_is_cut_at_the_cap() {
        let bomb = gzip(&gzip(&vec![b' '; 64 << 20]));
        assert!(bomb.len() < 1_000, "{}", bomb.len());
        let decoded = decode(bomb, Some("gzip, gzip"), 100_000);
        assert_eq!((decoded.bytes.len(), decoded.truncated), (100_000, true));
    }
}
