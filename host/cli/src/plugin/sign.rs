//! Keys and signatures.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use taskforge_domain::{Json, Manifest};
use taskforge_registry::{Statement, signature};
use taskforge_runtime::{Runtime, RuntimeConfig};

use super::sandbox::{load, outbox};
use crate::{
    args::{AttachArgs, KeygenArgs, MailArgs, SignArgs},
    client::{Client, escaped},
    mailers, output,
    plugin_folder::{self, Beside},
};

/// Makes a pair of keys.
pub(super) fn keygen(args: &KeygenArgs, as_json: bool) -> anyhow::Result<()> {
    let pair = signature::keygen()?;
    let file = args.file.display();
    pair.save(&args.file).with_context(|| format!("cannot write {file}"))?;
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

/// Signs what a component is, as it says itself or as is said of it, and the most that it may
/// reach.
pub(super) async fn sign(args: SignArgs, as_json: bool) -> anyhow::Result<()> {
    let key = args.key.display();
    let private =
        std::fs::read_to_string(&args.key).with_context(|| format!("cannot read {key}"))?;
    let Beside { settings, manifest } =
        plugin_folder::settings_of(&args.file, args.settings.as_deref())?;
    let named = args.name.clone().zip(args.version.clone());
    let named = named.map(|(name, version)| Manifest::new(name, version, String::new()));
    let temporary = outbox()?;
    let mail = MailArgs { mailer: "log".to_owned(), mail_from: "taskforge@localhost".to_owned() };
    let mailer = mailers::build(&mail, temporary.path().to_owned())?;
    // What it says of itself is asked in the sandbox, as every server does.
    let runtime = Runtime::new(RuntimeConfig { max_instances: 1, ..RuntimeConfig::new(mailer) })?;
    let settings = settings.unwrap_or_default();
    let plugin = load(&runtime, &args.file, settings, named.or(manifest).as_ref()).await?;
    let statement = Statement::of(plugin.info(), args.tenant.clone());
    let signed =
        signature::sign(&private, &statement).with_context(|| format!("cannot use {key}"))?;
    let file = signature_file(&args.file);
    std::fs::write(&file, &signed).with_context(|| format!("cannot write {}", file.display()))?;
    if as_json {
        let signature: Value = serde_json::from_slice(&signed)?;
        return output::json(&json!({
            "signature_file": file, "signature": signature, "statement": statement,
        }));
    }
    output::line(&format!("signed: {}", file.display()));
    output::line(&format!("{:#}", serde_json::to_value(&statement)?));
    Ok(())
}

/// Gives a stored version a signature.
pub(super) async fn attach(args: AttachArgs, as_json: bool) -> anyhow::Result<()> {
    let text = read_signature(&args.file)?;
    let signature =
        Json::parse(text).with_context(|| format!("cannot use {}", args.file.display()))?;
    let client = Client::connect(&args.server)?;
    let version = escaped(&args.version);
    let path = format!("plugins/{}/versions/{version}/signature", args.name);
    let answer = client.put(&path, &signature).await?;
    if as_json {
        return output::json(&answer);
    }
    output::line(&format!("{} {} has this signature now", args.name, args.version));
    Ok(())
}

/// The signature in the file that is named, or in the one beside the component, if there is one.
pub(super) fn signature_of(
    component: &Path,
    named: Option<&Path>,
) -> anyhow::Result<Option<String>> {
    let beside = signature_file(component);
    let file = match named {
        Some(file) => file,
        None if beside.exists() => &beside,
        None => return Ok(None),
    };
    read_signature(file).map(Some)
}

/// A signature's text, if it is one.
fn read_signature(file: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    signature::unverified(text.as_bytes())
        .with_context(|| format!("cannot use {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Where a component's signature lies.
fn signature_file(component: &Path) -> PathBuf {
    let mut file = component.as_os_str().to_owned();
    file.push(".sig");
    PathBuf::from(file)
}
