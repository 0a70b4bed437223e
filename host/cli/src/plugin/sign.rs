//! Keys and signatures.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use taskforge_registry::signature;

use super::push::sig_file;
use crate::{
    args::{PluginKeygenArgs, PluginSignArgs},
    output,
};

/// Makes a key pair, and prints the public key.
pub(crate) fn keygen(args: &PluginKeygenArgs, json: bool) -> anyhow::Result<ExitCode> {
    let pair = signature::keygen()?;
    pair.save(&args.file)
        .with_context(|| format!("cannot write {}", args.file.display()))?;
    if json {
        output::json(&json!({ "public_key": pair.public }))?;
    } else {
        output::line(&pair.public);
    }
    Ok(ExitCode::SUCCESS)
}

/// Signs a component.
pub(crate) fn sign(args: &PluginSignArgs, json: bool) -> anyhow::Result<ExitCode> {
    let component =
        std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let key =
        std::fs::read_to_string(&args.key).with_context(|| format!("cannot read {}", args.key.display()))?;
    let signed = signature::sign(&key, &component)
        .with_context(|| format!("cannot sign with {}", args.key.display()))?;
    let file = sig_file(&args.file);
    std::fs::write(&file, signature::to_text(&signed))
        .with_context(|| format!("cannot write {}", file.display()))?;
    if json {
        output::json(&json!({ "signature": signature::to_text(&signed).trim() }))?;
    } else {
        output::line(&format!("{}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}
