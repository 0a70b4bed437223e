//! The mailer that the arguments ask for.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use taskforge_runtime::{Mailer, OutboxMailer, SmtpMailer};

use crate::{args::MailArgs, authorities};

/// `log` writes into `outbox`; anything else must be an SMTP URL.
pub(crate) fn build(args: &MailArgs, outbox: PathBuf) -> anyhow::Result<Arc<dyn Mailer>> {
    let from = args.mail_from.as_str();
    Ok(match args.mailer.split_once("://") {
        None if args.mailer == "log" => {
            Arc::new(OutboxMailer::new(outbox, from).context("the outbox mailer cannot be set up")?)
        }
        Some(("smtp" | "smtps", _)) => {
            let authorities = authorities::read()?;
            let mailer = SmtpMailer::trusting(&args.mailer, from, &authorities);
            Arc::new(mailer.context("the SMTP mailer cannot be set up")?)
        }
        // Not the value itself: it may hold a password.
        _ => bail!("--mailer is neither `log` nor an smtp:// or smtps:// address"),
    })
}
