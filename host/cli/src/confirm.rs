//! Confirmation of commands that delete.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::bail;

use crate::{args::ConfirmArgs, exit::Failure, output};

/// Whether to do something that cannot be undone, such as `delete 12 dead letters`. With
/// `--dry-run` it is only printed. Otherwise it needs `--yes`, or a person at a terminal who
/// confirms it.
///
/// # Errors
/// When there is no terminal, which makes the command line incomplete, or the answer is no.
pub(crate) fn is_confirmed(args: &ConfirmArgs, what: &str) -> anyhow::Result<bool> {
    if args.dry_run {
        return Ok(false);
    }
    if args.yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "this would {what}, and nobody is there to ask: say --yes, or --dry-run to see what would go"
        )));
    }
    output::on_stderr(&format!("This will {what}, which cannot be undone. Go on? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        _ => bail!("nothing was deleted"),
    }
}
