//! What a person at a terminal sees, and types.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use serde_json::json;
use taskforge_testing::guests;

use crate::server::{Server, component, done, taskforge};

/// Runs a shell line on a terminal of 80 columns; types `typed` once `prompt` has been shown.
/// Returns all that was to be seen.
fn on_a_terminal(server: &Server, line: &str, prompt: &str, typed: &str) -> String {
    let mut command = Command::new("script");
    command.args(["-qfec", &format!("stty cols 80 rows 24; {line}"), "/dev/null"]);
    for (name, value) in server.command(&[]).get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut is_typed = typed.is_empty();
    let mut byte = [0];
    while output.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
        if !is_typed && seen.ends_with(prompt.as_bytes()) {
            is_typed = true;
            input.write_all(typed.as_bytes()).unwrap();
        }
    }
    process.wait().unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_tables_that_fit_and_no_secret_that_is_typed() {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "util-linux's script is missing");
        eprintln!("skipped: there is no program `script` to be a terminal");
        return;
    }
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), |command| {
        command.env("TASKFORGE_SECRET_KEY", "00".repeat(32));
    });
    let program = taskforge();
    let program = program.get_program().to_str().unwrap().to_owned();
    let thing = component(files.path(), "thing.wasm", &guests::bytes("command"));
    done(&server, &["plugin", "push", &thing, "--name", "thing", "--version", "1.0.0"]);
    let secret = on_a_terminal(
        &server,
        &format!("{program} plugin secret set thing key"),
        "< FILE):",
        "swordfish-of-the-test\n",
    );
    assert!(secret.contains("not shown") && secret.contains("CAN BE OPENED"), "{secret}");
    assert!(!secret.contains("swordfish"), "{secret}");

    let wide = json!({ "url": format!("http://{}.test/", "x".repeat(60)) }).to_string();
    let id = done(&server, &["task", "submit", "scraper", "-i", &wide]);
    for line in
        ["task list", "plugin list", "plugin versions thing", "plugin events thing", "queue list"]
    {
        let shown = on_a_terminal(&server, &format!("{program} {line}"), "", "");
        for row in shown.lines() {
            assert!(row.trim_end().chars().count() <= 80, "{line}: {row}");
        }
        assert!(line != "task list" || shown.contains(id.trim()), "{shown}");
    }
}
