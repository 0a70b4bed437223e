//! Content codings: gzip, brotli and deflate, cut at the cap. Lenient where every browser is:
//! what is not a coding, or was declared and not applied, leaves the bytes as they are.

use std::io::Read;

use flate2::{Crc, Decompress, FlushDecompress, Status};

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

/// Takes the codings of a `Content-Encoding` header off again, the last one first. Never makes more
/// than `cap` bytes of it, so that a decompression bomb costs no more than a page of that size.
#[must_use]
pub fn decode(body: Vec<u8>, content_encoding: Option<&str>, cap: usize) -> Decoded {
    let mut decoded = Decoded { truncated: body.len() > cap, bytes: body, error: None };
    decoded.bytes.truncate(cap);
    let mut unknown = None;
    for coding in content_encoding.unwrap_or_default().rsplit(',') {
        // Some servers write parameters or quotes, as if it were a media type.
        let coding = coding.split(';').next().unwrap_or_default();
        let coding = coding.trim().trim_matches('"').to_ascii_lowercase();
        let input = decoded.bytes.as_slice();
        if !KNOWN.contains(&coding.as_str()) {
            unknown = Some(coding);
            continue;
        }
        let Some((bytes, error)) = uncoded(&coding, input, cap) else {
            continue;
        };
        if bytes.is_empty() && error.is_some() && looks_like_text(input) {
            // Declared twice, or never applied.
            continue;
        }
        decoded.error = decoded.error.or_else(|| error.map(|error| format!("{coding}: {error}")));
        decoded.truncated |= bytes.len() > cap;
        decoded.bytes = bytes;
        decoded.bytes.truncate(cap);
    }
    // The Fetch standard leaves bytes alone whose coding it does not know: most such names are
    // mistakes, as `UTF-8` is. What another compressor made is no text.
    if let Some(coding) = unknown.filter(|_| is_compressed(&decoded.bytes)) {
        let error = format!("{coding}: is not a known content coding");
        decoded.error = decoded.error.or(Some(error));
        decoded.bytes.clear();
    }
    decoded
}

/// Codings that can be taken off, or need not be.
const KNOWN: [&str; 8] = ["gzip", "x-gzip", "br", "deflate", "x-deflate", "identity", "none", ""];

/// A body with one coding less; `None` when there is nothing to take off.
fn uncoded(coding: &str, input: &[u8], cap: usize) -> Option<(Vec<u8>, Option<String>)> {
    if input.is_empty() {
        return None;
    }
    match coding {
        "gzip" | "x-gzip" => Some(gunzip(input, cap)),
        "br" => Some(unbrotli(input, cap)),
        // What the standard calls deflate is a zlib stream; some servers leave the zlib header out.
        "deflate" | "x-deflate" => Some(zlib(input, cap)),
        _ => None,
    }
}

/// One member after the other (RFC 1952, 2.2). What follows and is no member is padding.
fn gunzip(input: &[u8], cap: usize) -> (Vec<u8>, Option<String>) {
    let (mut bytes, mut rest) = (Vec::new(), input);
    loop {
        let Some(header) = gzip_header(rest) else {
            let error = bytes.is_empty().then(|| "is not a gzip stream".to_owned());
            return (bytes, error);
        };
        let deflated = &rest[header.min(rest.len())..];
        let member = inflate(deflated, cap - bytes.len().min(cap));
        let sum = crc(&member.bytes);
        bytes.extend(member.bytes);
        if member.error.is_some() || bytes.len() > cap {
            return (bytes, member.error);
        }
        // A trailer that was cut off takes nothing from the text before it.
        let trailer = &deflated[member.used..];
        match trailer.first_chunk::<4>() {
            Some(said) if u32::from_le_bytes(*said) != sum => {
                return (bytes, Some("the checksum is wrong".to_owned()));
            }
            _ => rest = trailer.get(8..).unwrap_or_default(),
        }
    }
}

/// The length of a gzip member's header (RFC 1952, 2.3).
fn gzip_header(bytes: &[u8]) -> Option<usize> {
    let &[0x1f, 0x8b, 8, flags, ..] = bytes else {
        return None;
    };
    let mut length = 10;
    if flags & 4 != 0 {
        let extra = bytes.get(length..length + 2)?;
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            length += bytes.get(length..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    Some(length + usize::from(flags & 2))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// What a deflate stream held, and how many bytes it had.
struct Inflated {
    bytes: Vec<u8>,
    used: usize,
    error: Option<String>,
}

/// Up to some bytes more than the cap, which tells that there is more.
fn inflate(input: &[u8], cap: usize) -> Inflated {
    const STEP: usize = 64 << 10;
    let mut stream = Decompress::new(false);
    let mut bytes = Vec::new();
    let mut error = None;
    let used = |stream: &Decompress| usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
    while bytes.len() <= cap {
        let before = (stream.total_in(), stream.total_out());
        bytes.reserve(STEP);
        let rest = input.get(used(&stream)..).unwrap_or_default();
        match stream.decompress_vec(rest, &mut bytes, FlushDecompress::None) {
            Ok(Status::StreamEnd) => break,
            Ok(_) if (stream.total_in(), stream.total_out()) != before => {}
            Ok(_) => error = Some("ends in the middle".to_owned()),
            Err(wrong) => error = Some(wrong.to_string()),
        }
        if error.is_some() {
            break;
        }
    }
    Inflated { used: used(&stream).min(input.len()), bytes, error }
}

fn zlib(input: &[u8], cap: usize) -> (Vec<u8>, Option<String>) {
    let deflated = if has_zlib_header(input) { &input[2..] } else { input };
    let inflated = inflate(deflated, cap);
    (inflated.bytes, inflated.error)
}

/// Up to one byte more than the cap.
fn unbrotli(input: &[u8], cap: usize) -> (Vec<u8>, Option<String>) {
    let mut bytes = Vec::new();
    let decoder = brotli_decompressor::Decompressor::new(input, 4096);
    let result = decoder.take(cap as u64 + 1).read_to_end(&mut bytes);
    (bytes, result.err().map(|error| error.to_string()))
}

fn has_zlib_header(bytes: &[u8]) -> bool {
    matches!(bytes, [cmf, flg, ..] if cmf & 0x0f == 8 && (u16::from(*cmf) << 8 | u16::from(*flg)).is_multiple_of(31))
}

/// How the streams of compressors begin: gzip, zstd, LZ4, bzip2, xz and `compress`.
const COMPRESSED: [&[u8]; 6] =
    [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"BZh", b"\xfd7zXZ\0", b"\x1f\x9d"];

fn is_compressed(bytes: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| bytes.starts_with(magic))
}

/// Text has none of the bytes that WHATWG MIME Sniffing calls binary, and no compressed stream is
/// long without one.
fn looks_like_text(bytes: &[u8]) -> bool {
    let binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    !bytes[..bytes.len().min(1445)].iter().any(binary)
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
                Decoded { bytes: TEXT.to_vec(), truncated: false, error: None },
                "{coding}"
            );
        }
    }

    #[test]
    fn what_was_decoded_before_a_corrupt_place_is_kept() {
        let text: Vec<u8> =
            (0..40_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
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
    fn what_was_declared_and_not_applied_is_left_as_it_is() {
        for (body, coding) in [
            (TEXT.to_vec(), "UTF-8"),
            (TEXT.to_vec(), "aws-chunked"),
            (TEXT.to_vec(), "none"),
            (TEXT.to_vec(), "gzip"),
            (TEXT.to_vec(), "br"),
            (TEXT.to_vec(), "deflate"),
            (gzip(TEXT), "gzip, gzip"),
            (gzip(TEXT), "utf-8, gzip"),
            (gzip(TEXT), "gzip, utf-8, \"identity\""),
            (gzip(TEXT), "gzip;q=1"),
        ] {
            let decoded = decoded(body, coding);
            assert_eq!((decoded.bytes.as_slice(), decoded.error), (TEXT, None), "{coding}");
        }
        for coding in ["gzip", "br", "deflate", "x"] {
            let decoded = decoded(Vec::new(), coding);
            assert_eq!((decoded.bytes.len(), decoded.error), (0, None), "{coding}");
        }
    }

    #[test]
    fn what_comes_after_the_end_is_padding() {
        for after in [&[0; 13][..], b"garbage", b"\x1f\x8b", b"<!-- cached -->"] {
            let zlib = {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(TEXT).unwrap();
                encoder.finish().unwrap()
            };
            for (coding, body) in [("gzip", gzip(TEXT)), ("deflate", zlib), ("br", BROTLI.to_vec())]
            {
                let decoded = decoded([&body, after].concat(), coding);
                assert_eq!((decoded.bytes.as_slice(), decoded.error), (TEXT, None), "{coding}");
            }
        }
        let two = [gzip(&TEXT[..20]), gzip(&TEXT[20..])].concat();
        assert_eq!(decoded(two, "gzip").bytes, TEXT);
        let untailed = gzip(TEXT);
        let decoded = decoded(untailed[..untailed.len() - 6].to_vec(), "gzip");
        assert_eq!((decoded.bytes.as_slice(), decoded.error), (TEXT, None));
    }

    #[test]
    fn a_body_in_a_coding_that_nobody_asked_for_is_no_text() {
        for (body, coding) in [
            (&b"\x28\xb5\x2f\xfd\x04\x00"[..], "zstd"),
            (b"\x1f\x9d\x90<b", "compress"),
            (b"\xfd7zXZ\x00\x00\x04", "xz"),
            (b"BZh91AY&SY", "bzip2"),
            (&gzip(TEXT), "utf-8"),
        ] {
            let decoded = decoded(body.to_vec(), coding);
            let error = format!("{coding}: is not a known content coding");
            assert_eq!((decoded.bytes.len(), decoded.error), (0, Some(error)));
        }
    }

    #[test]
    fn what_nothing_compressed_is_left_as_it_is_whatever_it_is_called() {
        let utf16: Vec<u8> = "<title>x</title>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [utf16, b"<title>\0x</title>".to_vec()] {
            let decoded = decoded(body.clone(), "UTF-8");
            assert_eq!((decoded.bytes, decoded.error), (body, None));
        }
    }

    #[test]
    fn a_bomb_is_cut_at_the_cap() {
        let bomb = gzip(&gzip(&vec![b' '; 64 << 20]));
        assert!(bomb.len() < 1_000, "{}", bomb.len());
        let decoded = decode(bomb, Some("gzip, gzip"), 100_000);
        assert_eq!((decoded.bytes.len(), decoded.truncated), (100_000, true));
    }
}
