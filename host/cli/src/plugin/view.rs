//! Versions and rollouts, for people.

use serde_json::Value;

use crate::output::{self, cell};

/// Shows what a version imports and what it is granted.
pub(super) fn show_review(version: &Value) {
    let rows: Vec<&Value> = version["review"].as_array().into_iter().flatten().collect();
    if rows.is_empty() {
        output::line("it imports nothing that needs a grant");
        return;
    }
    let mark = |row: &Value, field: &str| if row[field] == true { "yes" } else { "-" }.to_owned();
    let cells = rows.iter().map(|row| {
        vec![
            text(row, "capability").to_owned(),
            mark(row, "imported"),
            text(row, "granted").to_owned(),
        ]
    });
    output::table(&["CAPABILITY", "IMPORTED", "GRANTED"], &cells.collect::<Vec<_>>());
    let missing = rows.iter().filter(|row| row["is_missing"] == true);
    let missing: Vec<_> = missing.map(|row| text(row, "capability")).collect();
    if !missing.is_empty() {
        output::line(&format!(
            "not granted: {}; attempts that use it will fail",
            missing.join(", ")
        ));
    }
    output::line("");
}

/// Which versions run, for people.
pub(super) fn rollout_pairs(rollout: &Value) -> Vec<(&'static str, String)> {
    let canary = match &rollout["canary"] {
        Value::Null => "-".to_owned(),
        canary => format!("{} for {} % of the tasks", cell(&canary["version"]), canary["percent"]),
    };
    let tasks = match (&rollout["retired"], &rollout["paused"]) {
        (Value::Bool(true), _) => "refused: the plugin is retired",
        (_, Value::Bool(true)) => "wait: the plugin or its queue is paused",
        _ if rollout["active"].is_null() => "refused: no version is active yet",
        _ if rollout["accepts_tasks"] == false => {
            "of its tenant run; with this key none can be enqueued"
        }
        _ => "run",
    };
    vec![
        ("plugin", cell(&rollout["name"])),
        ("active", cell(&rollout["active"])),
        ("previous", cell(&rollout["previous"])),
        ("canary", canary),
        ("since", cell(&rollout["since"])),
        ("tasks", tasks.to_owned()),
    ]
}

/// Says when a rollout takes effect. On standard error, because it is no part of the answer.
pub(super) fn say_when() {
    output::aside(
        "Workers hear of it within two seconds and take it once they have compiled it; \
         until then tasks begin on the version before.",
    );
}

/// A text of an answer.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("-")
}
