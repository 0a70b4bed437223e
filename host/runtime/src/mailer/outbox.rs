//! The mailer for development: messages go to a folder and to the task's log.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::{
    MailError, MailMessage, MailReceipt, Mailer,
    address::Mailbox,
    compose::{Bcc, Composed, compose_apart},
};

/// Lines of a body that the task's log shows.
const LOGGED_LINES: usize = 100;

/// Writes each message as `<id>.eml` into a folder. A message that is sent again under the same id
/// replaces the first copy.
#[derive(Debug)]
pub struct OutboxMailer {
    folder: PathBuf,
    from: Mailbox,
}

impl OutboxMailer {
    /// A mailer that writes to `folder`, which it makes with the first message. `from` is the
    /// sender of messages that name none.
    ///
    /// # Errors
    /// When `from` is not an address.
    pub fn new(folder: PathBuf, from: &str) -> Result<Self, MailError> {
        Ok(Self { folder, from: Mailbox::parse("from", from)? })
    }
}

#[async_trait]
impl Mailer for OutboxMailer {
    async fn send(&self, mail: MailMessage) -> Result<MailReceipt, MailError> {
        let (mail, composed) = compose_apart(mail, self.from.clone(), Bcc::Keep).await?;
        let path = self.folder.join(format!("{}.eml", composed.id));
        let (bytes, target) = (composed.bytes.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || write(&target, &bytes)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(receipt(&composed, &mail, &path)),
            Err(error) => {
                tracing::error!(error = %error, path = %path.display(), "a message could not be written to the outbox");
                Err(MailError::unavailable("the outbox cannot be written"))
            }
        }
    }
}

fn receipt(composed: &Composed, mail: &MailMessage, path: &Path) -> MailReceipt {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut log =
        vec![format!("{}, written to the outbox as {file}", composed.summary(&mail.subject))];
    let body = mail.text.as_deref().or(mail.html.as_deref()).unwrap_or_default();
    log.extend(body.lines().take(LOGGED_LINES).map(|line| format!("| {line}")));
    if body.lines().nth(LOGGED_LINES).is_some() {
        log.push("| […]".to_owned());
    }
    MailReceipt {
        message_id: format!("<{}>", composed.id),
        accepted: composed.recipients.clone(),
        refused: Vec::new(),
        log,
    }
}

/// Writes a file as a whole or not at all, and syncs it to the disk.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("part");
    let mut file = fs::File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    fs::File::open(folder)?.sync_all()
}
