//! One message: MAIL, RCPT for each recipient, DATA (RFC 5321, 3.3).

use lettre::{
    Address,
    transport::smtp::{
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt, Rset},
        extension::{Extension, MailBodyParameter, MailParameter},
    },
};

use super::{AUTHENTICATION, Failed, step};
use crate::mailer::{MailError, MailErrorKind, MailRefusal, compose::Composed};

/// The server closes the connection (RFC 5321, 3.8).
const CLOSING: u16 = 421;

/// Too many recipients for one transaction: today's code, and that of RFC 821 (RFC 5321,
/// 4.5.3.1.10).
const TOO_MANY: [u16; 2] = [452, 552];

/// Who got the message, and who did not.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<MailRefusal>,
    /// Something failed afterwards, so the state of the connection is unknown.
    pub(super) is_out_of_step: bool,
}

/// Sends a message. A refused recipient does not affect the others (RFC 5321, 3.3). Recipients
/// beyond what one transaction takes get the message in another.
pub(super) async fn transact(
    connection: &mut AsyncSmtpConnection,
    composed: &Composed,
) -> Result<Taken, MailError> {
    let parameters = parameters(connection, composed)?;
    let mut taken = once(connection, composed, &parameters, composed.envelope.to()).await?;
    loop {
        let refused = std::mem::take(&mut taken.refused).into_iter();
        let (later, refused): (Vec<_>, Vec<_>) =
            refused.partition(|one| TOO_MANY.contains(&one.code));
        taken.refused = refused;
        if later.is_empty() {
            return Ok(taken);
        }
        let is_later = |to: &&Address| later.iter().any(|one| one.address == to.to_string());
        let recipients = composed.envelope.to().iter().filter(is_later).cloned();
        let recipients: Vec<_> = recipients.collect();
        // Each transaction takes one recipient at least, so this ends. Some have the message by now
        // and must not get it again, so a failure is not returned.
        match once(connection, composed, &parameters, &recipients).await {
            Ok(more) => {
                taken.accepted.extend(more.accepted);
                taken.refused.extend(more.refused);
            }
            Err(_) => {
                taken.refused.extend(later);
                taken.is_out_of_step = true;
                return Ok(taken);
            }
        }
    }
}

/// One transaction.
///
/// # Errors
/// When nobody gets the message.
async fn once(
    connection: &mut AsyncSmtpConnection,
    composed: &Composed,
    parameters: &[MailParameter],
    recipients: &[Address],
) -> Result<Taken, MailError> {
    let from = composed.envelope.from().cloned();
    step(connection.command(Mail::new(from, parameters.to_vec())))
        .await
        .map_err(Failed::classified)?;
    let mut taken = Taken::default();
    for recipient in recipients {
        let asked = step(connection.command(Rcpt::new(recipient.clone(), Vec::new()))).await;
        match asked.map_err(|failed| (failed.code(), failed)) {
            Ok(_) => taken.accepted.push(recipient.to_string()),
            Err((Some(code), failed)) if code != CLOSING => taken.refused.push(MailRefusal {
                address: recipient.to_string(),
                code,
                message: failed.said(),
            }),
            Err((_, failed)) => return Err(failed.classified()),
        }
    }
    if taken.accepted.is_empty() {
        // The connection is good for the next message when this succeeds, and is dropped otherwise.
        step(connection.command(Rset)).await.ok();
        return Err(nobody(&taken.refused));
    }
    step(connection.command(Data)).await.map_err(Failed::classified)?;
    step(connection.message(&composed.bytes)).await.map_err(Failed::classified)?;
    Ok(taken)
}

/// The extensions that the message needs.
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
