//! Secrets of a plugin, which can be set and not read.

use std::io::Read as _;

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use taskforge_domain::Json;

use crate::{
    args::{SecretCommand, SecretSetArgs},
    client::{Client, escaped},
    confirm,
    exit::Failure,
    output::{self, cell},
};

pub(super) async fn run(command: SecretCommand, as_json: bool) -> anyhow::Result<()> {
    let list = match command {
        SecretCommand::Set(args) => {
            let client = Client::connect(&args.server)?;
            let value = value(&args)?;
            if value.is_empty() {
                return Err(Failure::usage(format!(
                    "the value of {} is empty: nothing was set",
                    args.key
                )));
            }
            let body = Json::from(json!({ "value": value }));
            client.put(&path(&args.name, &args.key), &body).await?
        }
        SecretCommand::List(args) => {
            let client = Client::connect(&args.server)?;
            client.get(&format!("plugins/{}/secrets", args.name), &[]).await?
        }
        SecretCommand::Delete(args) => {
            let client = Client::connect(&args.server)?;
            let what = format!("delete the secret {} of {}", args.key, args.name);
            if !confirm::is_confirmed(&args.confirm, &what)? {
                if as_json {
                    let list = client.get(&format!("plugins/{}/secrets", args.name), &[]).await?;
                    let secrets = list["secrets"].as_array().into_iter().flatten();
                    let would = secrets.filter(|secret| secret["name"] == args.key.as_str());
                    return output::json(&json!({ "would_delete": would.count() }));
                }
                output::line(&format!("this would {what}"));
                return Ok(());
            }
            client.delete(&path(&args.name, &args.key)).await?
        }
    };
    if as_json {
        return output::json(&list);
    }
    let secrets = list["secrets"].as_array().into_iter().flatten();
    let rows = secrets.map(|secret| {
        let opens = match secret["can_open"] {
            Value::Bool(true) => "yes",
            _ => "no: the server has another key",
        };
        vec![cell(&secret["name"]), cell(&secret["updated_at"]), opens.to_owned()]
    });
    output::table(&["SECRET", "SET", "CAN BE OPENED"], &rows.collect::<Vec<_>>());
    Ok(())
}

fn path(plugin: &taskforge_domain::TaskType, key: &str) -> String {
    format!("plugins/{plugin}/secrets/{}", escaped(key))
}

/// Reads the value from where no other process and no shell history sees it.
fn value(args: &SecretSetArgs) -> anyhow::Result<String> {
    if let Some(variable) = &args.from_env {
        return std::env::var(variable).with_context(|| format!("--from-env {variable}"));
    }
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return typed().context("the value cannot be read");
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.context("standard input cannot be read")?;
    Ok(without_line_end(&text).to_owned())
}

/// Asks who sits at the terminal. What is typed is not shown from before the question on, so that
/// an answer may come as soon as the question is there.
fn typed() -> std::io::Result<String> {
    let terminal = std::io::stdin();
    let echoing = tcgetattr(&terminal)?;
    let mut silent = echoing.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Now, &silent)?;
    output::on_stderr(
        "The value, which is not shown, ended with Enter (several lines come from a file: < FILE):",
    );
    let mut line = String::new();
    let read = terminal.read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Now, &echoing)?;
    // Enter was not shown either.
    output::on_stderr("");
    read?;
    Ok(without_line_end(&line).to_owned())
}

fn without_line_end(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').unwrap_or(line)
}
