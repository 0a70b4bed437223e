//! Bodies and attachments as MIME parts.

use lettre::message::{
    Attachment, Body, MultiPart, SinglePart,
    header::{ContentTransferEncoding, ContentType},
};

use super::{MailAttachment, MailError, MailMessage, header::one_line};

/// Files that one message may have.
const MAX_ATTACHMENTS: usize = 50;

/// The part of a message below its own headers, with its `Content-…` headers.
pub(super) fn formatted(mail: &MailMessage) -> Result<Vec<u8>, MailError> {
    if mail.attachments.len() > MAX_ATTACHMENTS {
        let count = mail.attachments.len();
        let text = format!("the message has {count} attachments; {MAX_ATTACHMENTS} are allowed");
        return Err(MailError::invalid(text));
    }
    let (mut shown, mut attached) = (Vec::new(), Vec::new());
    for file in &mail.attachments {
        let within = file.content_id.is_some();
        if within { &mut shown } else { &mut attached }.push(attachment(file)?);
    }
    if !shown.is_empty() && mail.html.is_none() {
        let text =
            "an attachment with a content id is shown in the HTML body, which there is none of";
        return Err(MailError::invalid(text));
    }
    let mut part = readable(mail)?;
    if !shown.is_empty() {
        part = together(MultiPart::related().build(), part, shown);
    }
    if !attached.is_empty() {
        part = together(MultiPart::mixed().build(), part, attached);
    }
    Ok(match part {
        Part::Single(part) => part.formatted(),
        Part::Multi(part) => part.formatted(),
    })
}

enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

fn together(whole: MultiPart, first: Part, files: Vec<SinglePart>) -> Part {
    let whole = match first {
        Part::Single(part) => whole.singlepart(part),
        Part::Multi(part) => whole.multipart(part),
    };
    Part::Multi(files.into_iter().fold(whole, MultiPart::singlepart))
}

fn readable(mail: &MailMessage) -> Result<Part, MailError> {
    let plain = mail.text.as_deref().map(|text| text_part(text, ContentType::TEXT_PLAIN));
    let html = mail.html.as_deref().map(|text| text_part(text, ContentType::TEXT_HTML));
    match (plain, html) {
        (Some(plain), Some(html)) => {
            Ok(Part::Multi(MultiPart::alternative().singlepart(plain).singlepart(html)))
        }
        (Some(one), None) | (None, Some(one)) => Ok(Part::Single(one)),
        (None, None) => Err(MailError::invalid("the message has neither text nor html")),
    }
}

/// Every line break is CRLF on the wire, a lone CR too (RFC 5321, 2.3.8), and control characters
/// are encoded: 7bit knows no NUL (RFC 2045, 2.7).
fn text_part(text: &str, content_type: ContentType) -> SinglePart {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let body = if lines.chars().all(plain) {
        Body::new(lines)
    } else {
        let encoding = ContentTransferEncoding::QuotedPrintable;
        // Quoted-printable takes everything.
        Body::new_with_encoding(lines, encoding).unwrap_or_else(Body::new)
    };
    SinglePart::builder().content_type(content_type).body(body)
}

fn attachment(file: &MailAttachment) -> Result<SinglePart, MailError> {
    let shown = crate::log::cut(&file.name, 100);
    let field = format!("attachment {shown:?}");
    let invalid = |why: &str| MailError::invalid(format!("{field}: {why}"));
    one_line(&field, &file.name)?;
    one_line(&field, &file.content_type)?;
    if file.name.is_empty() || file.name.len() > 255 {
        return Err(invalid("a name has 1 to 255 bytes"));
    }
    let content_type = Some(file.content_type.as_str())
        .filter(|text| text.is_ascii() && text.len() <= 255)
        .and_then(|text| ContentType::parse(text).ok())
        .ok_or_else(|| invalid("the content type is no media type, such as application/pdf"))?;
    // Parts of other messages have encodings of their own, which nobody here looks after.
    if ["multipart/", "message/"]
        .iter()
        .any(|kind| file.content_type.to_ascii_lowercase().starts_with(kind))
    {
        return Err(invalid("a message or a multipart cannot be attached"));
    }
    let disposition = match &file.content_id {
        Some(id) if is_content_id(id) => {
            Attachment::new_inline_with_name(id.clone(), file.name.clone())
        }
        Some(_) => {
            return Err(invalid("a content id is letters, digits and signs such as . - _ @"));
        }
        None => Attachment::new(file.name.clone()),
    };
    let content = file.content.clone();
    let body =
        Body::new_with_encoding(content, ContentTransferEncoding::Base64).unwrap_or_else(Body::new);
    Ok(disposition.body(body, content_type))
}

fn is_content_id(id: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b".-_@+".contains(&b);
    (1..=200).contains(&id.len()) && id.bytes().all(known)
}
