//! One message: MAIL, RCPT for each recipient, DATA (RFC 5321, 3.3).

use lettre::transport::smtp::{
    client::AsyncSmtpConnection,
    commands::{Data, Mail, Rcpt, Rset},
    extension::{Extension, MailBodyParameter, MailParameter},
};

use super::{AUTHENTICATION, Failed, step};
use crate::mailer::{MailError, MailErrorKind, MailRefusal, compose::Composed};

/// The server closes the connection, whatever it was told (RFC 5321, 3.8).
const CLOSING: u16 = 421;

type Taken = (Vec<String>, Vec<MailRefusal>);

/// Hands a message over. A recipient who is refused takes nothing from the others (RFC 5321, 3.3).
pub(super) async fn transact(
    connection: &mut AsyncSmtpConnection,
    composed: &Composed,
) -> Result<Taken, MailError> {
    let parameters = parameters(connection, composed)?;
    let from = composed.envelope.from().cloned();
    step(connection.command(Mail::new(from, parameters)))
        .await
        .map_err(Failed::classified)?;
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for recipient in composed.envelope.to() {
        let asked = step(connection.command(Rcpt::new(recipient.clone(), Vec::new()))).await;
        match asked.map_err(|failed| (failed.code(), failed)) {
            Ok(_) => accepted.push(recipient.to_string()),
            Err((Some(code), failed)) if code != CLOSING => refused.push(MailRefusal {
                address: recipient.to_string(),
                code,
                message: failed.said(),
            }),
            Err((_, failed)) => return Err(failed.classified()),
        }
    }
    if accepted.is_empty() {
        // The connection is good for the next message when this succeeds, and is dropped otherwise.
        step(connection.command(Rset)).await.ok();
        return Err(nobody(&refused));
    }
    step(connection.command(Data)).await.map_err(Failed::classified)?;
    step(connection.message(&composed.bytes))
        .await
        .map_err(Failed::classified)?;
    Ok((accepted, refused))
}

/// Extensions that the message needs.
fn parameters(
    connection: &AsyncSmtpConnection,
    composed: &Composed,
) -> Result<Vec<MailParameter>, MailError> {
    if !composed.beyond_ascii {
        return Ok(Vec::new());
    }
    if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
        return Err(MailError {
            kind: MailErrorKind::Rejected,
            message: "an address has characters beyond ASCII before its @, and the mail server \
                      takes none such (it does not offer SMTPUTF8)"
                .to_owned(),
        });
    }
    // SMTPUTF8 asks for 8BITMIME (RFC 6531, 3.1).
    let eight_bit = MailParameter::Body(MailBodyParameter::EightBitMime);
    Ok(vec![eight_bit, MailParameter::SmtpUtfEight])
}

/// All recipients were refused: for good, unless one may be taken later.
fn nobody(refused: &[MailRefusal]) -> MailError {
    let reasons: Vec<String> = refused
        .iter()
        .map(|one| format!("{} ({} {})", one.address, one.code, one.message))
        .collect();
    let reasons = reasons.join(", ");
    let may_pass = |one: &MailRefusal| one.code < 500 || AUTHENTICATION.contains(&one.code);
    if refused.iter().any(may_pass) {
        return MailError::unavailable(format!("the mail server asks to try later: {reasons}"));
    }
    MailError {
        kind: MailErrorKind::Rejected,
        message: format!("the mail server refused every recipient: {reasons}"),
    }
}
