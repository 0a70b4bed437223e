//! Our own interfaces: logging, progress, mail.

use taskforge_domain::{FailureKind, LogLevel, Progress};

use super::HostState;
use crate::{
    contract::{logging, mail, progress},
    log::cut,
    mailer::{MailError, MailErrorKind, MailMessage},
};

/// The longest note of a progress report that is passed on, in bytes.
const NOTE: usize = 500;

impl logging::Host for HostState {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        };
        self.log.lock().message(level, cut(&context, NOTE), &message);
    }
}

impl progress::Host for HostState {
    fn report(&mut self, fraction: f64, note: Option<String>) {
        if let Some(report) = &self.attempt.progress {
            let fraction = if fraction.is_nan() {
                0.0
            } else {
                fraction.clamp(0.0, 1.0)
            };
            let note = note.map(|note| cut(&note, NOTE).to_owned());
            report(Progress { fraction, note });
        }
    }
}

impl mail::Host for HostState {
    async fn send(&mut self, message: mail::Message) -> Result<mail::Receipt, mail::Error> {
        if !self.attempt.plugin.grants.mail.allowed {
            let text = "mail was refused: grant it with `mail = true` under [grants]".to_owned();
            self.log
                .lock()
                .refuse(FailureKind::CapabilityDenied, text.clone());
            return Err(mail::Error {
                code: mail::ErrorCode::Denied,
                message: text,
            });
        }
        self.mails += 1;
        let message = MailMessage {
            key: format!("{}.{}", self.attempt.task, self.mails),
            from: message.from,
            to: message.to,
            cc: message.cc,
            bcc: message.bcc,
            reply_to: message.reply_to,
            subject: message.subject,
            text: message.text,
            html: message.html,
        };
        let receipt = self.attempt.mailer.send(message).await?;
        let mut log = self.log.lock();
        for line in &receipt.log {
            log.message(LogLevel::Info, "mail", line);
        }
        Ok(mail::Receipt {
            message_id: receipt.message_id,
            accepted: receipt.accepted,
        })
    }
}

impl From<MailError> for mail::Error {
    fn from(error: MailError) -> Self {
        let code = match error.kind {
            MailErrorKind::Invalid => mail::ErrorCode::Invalid,
            MailErrorKind::Rejected => mail::ErrorCode::Rejected,
            MailErrorKind::Unavailable => mail::ErrorCode::Unavailable,
        };
        Self {
            code,
            message: error.message,
        }
    }
}
