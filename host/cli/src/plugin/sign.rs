//! Keys and signatures.

use anyhow::Context as _;
use serde_json::json;
use taskforge_registry::signature;

use super::{push::signature_file, read};
use crate::{
    args::{KeygenArgs, SignArgs},
    output,
};

/// Makes a pair of keys.
pub(super) fn keygen(args: &KeygenArgs, as_json: bool) -> anyhow::Result<()> {
    let pair = signature::keygen()?;
    let file = args.file.display();
    pair.save(&args.file)
        .with_context(|| format!("cannot write {file}"))?;
    if as_json {
        return output::json(&json!({ "private_key_file": args.file, "public_key": pair.public }));
    }
    output::pairs(&[
        ("private key", format!("{file} (keep it to yourself)")),
        ("public key", pair.public.clone()),
    ]);
    output::line("\nHosts that are to take what it signs have in their file of trusted keys:\n");
    output::line(&format!(
        "[[key]]\nname = \"…\"\npublic_key = \"{}\"\nshared = true",
        pair.public
    ));
    Ok(())
}

/// Signs a component.
pub(super) fn sign(args: &SignArgs, as_json: bool) -> anyhow::Result<()> {
    let key = args.key.display();
    let private = std::fs::read_to_string(&args.key).with_context(|| format!("cannot read {key}"))?;
    let signature =
        signature::sign(&private, &read(&args.file)?).with_context(|| format!("cannot use {key}"))?;
    let (file, text) = (signature_file(&args.file), signature::to_text(&signature));
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    if as_json {
        return output::json(&json!({ "signature_file": file, "signature": text.trim() }));
    }
    output::line(&format!("signed: {}", file.display()));
    Ok(())
}
