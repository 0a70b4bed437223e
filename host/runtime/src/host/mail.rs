//! Sends mail within the plugin's grant.

use taskforge_domain::{DomainPattern, FailureKind, LogLevel};

use super::{Attempt, HostState};
use crate::{
    contract::{mail, mail_mime},
    mailer::{
        self, MailAmount, MailAttachment, MailError, MailErrorKind, MailMessage, MailReceipt,
    },
};

/// Copies of a mail in memory while it is composed and sent: as it came, encoded, composed, and on
/// its way.
const COPIES: u64 = 4;

/// The mail that an attempt has sent.
#[derive(Debug, Default)]
pub(super) struct Mails {
    /// Calls that were let through.
    sent: u32,
    amount: MailAmount,
}

impl mail::Host for HostState {
    async fn send(&mut self, message: mail::Message) -> Result<mail::Receipt, mail::Error> {
        let receipt = self
            .deliver(MailMessage {
                from: message.from,
                to: message.to,
                cc: message.cc,
                bcc: message.bcc,
                reply_to: message.reply_to.into_iter().collect(),
                subject: message.subject,
                text: message.text,
                html: message.html,
                ..MailMessage::default()
            })
            .await?;
        Ok(mail::Receipt { message_id: receipt.message_id, accepted: receipt.accepted })
    }
}

impl mail_mime::Host for HostState {
    async fn send(
        &mut self,
        message: mail_mime::Message,
    ) -> Result<mail_mime::Receipt, mail::Error> {
        let attachments = message.attachments.into_iter().map(|file| MailAttachment {
            name: file.name,
            content_type: file.content_type,
            content: file.content,
            content_id: file.content_id,
        });
        let receipt = self
            .deliver(MailMessage {
                key: String::new(),
                from: message.from,
                to: message.to,
                cc: message.cc,
                bcc: message.bcc,
                reply_to: message.reply_to,
                subject: message.subject,
                headers: message.headers,
                text: message.text,
                html: message.html,
                attachments: attachments.collect(),
            })
            .await?;
        let refused = receipt.refused.into_iter().map(|refusal| mail_mime::Refusal {
            address: refusal.address,
            code: refusal.code,
            message: refusal.message,
        });
        Ok(mail_mime::Receipt {
            message_id: receipt.message_id,
            accepted: receipt.accepted,
            refused: refused.collect(),
        })
    }
}

impl HostState {
    /// Checks and sends a message, for both interfaces.
    async fn deliver(&mut self, mut message: MailMessage) -> Result<MailReceipt, mail::Error> {
        message.check()?;
        if let Some(refusal) = self.refusal(&message)? {
            self.log.lock().refuse(FailureKind::CapabilityDenied, refusal.clone());
            return Err(mail::Error { code: mail::ErrorCode::Denied, message: refusal });
        }
        let held = self.budget.charge("the mail", COPIES * message.size());
        let _held = held.map_err(|over| {
            self.log.lock().refuse(FailureKind::OutOfMemory, over.to_string());
            MailError { kind: MailErrorKind::Invalid, message: over.to_string() }
        })?;
        self.count(&message)?;
        message.key = format!("{}.{}", self.attempt.task, self.mails.sent);
        let Attempt { tenant, plugin, .. } = &self.attempt;
        let sent = self.attempt.mail.send(tenant, plugin, message).await;
        let receipt = sent.inspect_err(|error| {
            // Only limits of the host count as a refusal; the guest itself tells what a server
            // said.
            if error.kind == MailErrorKind::Unavailable {
                self.log.lock().note(LogLevel::Error, &error.message);
            }
        })?;
        let mut log = self.log.lock();
        for line in &receipt.log {
            log.message(LogLevel::Info, "mail", line);
        }
        for refused in &receipt.refused {
            let text =
                format!("{} was refused: {} {}", refused.address, refused.code, refused.message);
            log.message(LogLevel::Warn, "mail", &text);
        }
        drop(log);
        Ok(receipt)
    }

    /// Counts a message towards the limits of the attempt.
    ///
    /// # Errors
    /// When it is beyond them.
    fn count(&mut self, message: &MailMessage) -> Result<(), mail::Error> {
        let limits = &self.attempt.plugin.limits;
        let limit = MailAmount { messages: limits.mails.into(), bytes: limits.mail_bytes };
        let amount = self.mails.amount.plus(MailAmount::of(message));
        if amount.is_within(limit) {
            self.mails.sent += 1;
            self.mails.amount = amount;
            return Ok(());
        }
        let text = format!(
            "mail was refused: an attempt may send {} messages, one for each recipient, and {} bytes \
             (`mails` and `mail_bytes` under [limits])",
            limit.messages, limit.bytes
        );
        self.log.lock().refuse(FailureKind::HostCallLimit, text.clone());
        Err(mail::Error { code: mail::ErrorCode::Denied, message: text })
    }

    /// Why the grant does not cover a message, in a sentence that names the grant that would.
    ///
    /// # Errors
    /// When an address is not valid, by the mailer's own rules.
    fn refusal(&self, message: &MailMessage) -> Result<Option<String>, MailError> {
        let grant = &self.attempt.plugin.grants.mail;
        if !grant.allowed {
            let text = "mail was refused: grant it with `mail = true` under [grants]";
            return Ok(Some(text.to_owned()));
        }
        if let (Some(senders), Some(from)) = (&grant.senders, &message.from)
            && let Some(domain) = outside(senders, "from", from)?
        {
            return Ok(Some(format!(
                "mail from an address at {domain} was refused: grant it with `mail.senders = [\"{domain}\"]` under [grants]"
            )));
        }
        let lists = [("to", &message.to), ("cc", &message.cc), ("bcc", &message.bcc)];
        let listed =
            lists.iter().flat_map(|(field, list)| list.iter().map(move |address| (field, address)));
        for (field, address) in listed {
            if let Some(recipients) = &grant.recipients
                && let Some(domain) = outside(recipients, field, address)?
            {
                return Ok(Some(format!(
                    "mail to an address at {domain} was refused: grant it with `mail.recipients = [\"{domain}\"]` under [grants]"
                )));
            }
        }
        Ok(None)
    }
}

/// The domain of an address, if no pattern covers it.
fn outside(
    patterns: &[DomainPattern],
    field: &str,
    address: &str,
) -> Result<Option<String>, MailError> {
    let domain = mailer::domain(field, address)?;
    let covered = patterns.iter().any(|pattern| pattern.matches(&domain));
    Ok((!covered).then_some(domain))
}

impl From<MailError> for mail::Error {
    fn from(error: MailError) -> Self {
        let code = match error.kind {
            MailErrorKind::Invalid => mail::ErrorCode::Invalid,
            MailErrorKind::Rejected => mail::ErrorCode::Rejected,
            MailErrorKind::Unavailable => mail::ErrorCode::Unavailable,
        };
        Self { code, message: error.message }
    }
}
