//! The client commands for dead letters, over HTTP.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use reqwest::Method;
use serde_json::{Map, Value};
use taskforge_domain::Json;

use crate::{
    args::{DlqCommand, DlqDeleteArgs, DlqFilterArgs, DlqGroupsArgs, DlqListArgs, DlqRequeueArgs},
    client::Client,
    confirm, output,
    task::read_input,
    waiting::Waiting,
};

/// The server works through many dead letters in one request.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most tasks that the server puts on a page.
const PAGE: usize = 1_000;

pub(crate) async fn run(command: DlqCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::List(args) => list(args, json).await,
        DlqCommand::Groups(args) => groups(args, json).await,
        DlqCommand::Requeue(args) => requeue(args, json).await,
        DlqCommand::Delete(args) => delete(args, json).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn list(args: DlqListArgs, json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let mut tasks: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    while tasks.len() < args.last {
        let mut query = query(&args.filter);
        query.push(("limit", (args.last - tasks.len()).min(PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut page = client.get("dlq", &query).await?;
        if let Some(page) = page["tasks"].as_array_mut() {
            tasks.append(page);
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if json {
        return output::json(&tasks);
    }
    let rows: Vec<_> = tasks
        .iter()
        .map(|task| {
            ["id", "task_type", "error_kind", "finished_at", "attempt", "error"]
                .map(|field| cell(&task[field]))
                .to_vec()
        })
        .collect();
    output::table(&["ID", "TYPE", "KIND", "FAILED AT", "ATTEMPTS", "ERROR"], &rows);
    Ok(())
}

async fn groups(args: DlqGroupsArgs, json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let answer = client.get("dlq/groups", &query(&args.filter)).await?;
    if json {
        return output::json(&answer["groups"]);
    }
    let groups = answer["groups"].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = groups
        .iter()
        .map(|group| {
            [
                "group",
                "count",
                "task_type",
                "error_kind",
                "last_failed_at",
                "example",
            ]
            .map(|field| cell(&group[field]))
            .to_vec()
        })
        .collect();
    output::table(
        &["GROUP", "TASKS", "TYPE", "KIND", "LAST FAILED AT", "FOR EXAMPLE"],
        &rows,
    );
    Ok(())
}

async fn requeue(args: DlqRequeueArgs, json: bool) -> anyhow::Result<()> {
    let mut body = Map::new();
    let filter = filter(&args.filter)?;
    match (args.ids.is_empty(), filter.is_empty(), args.all) {
        (false, ..) => body.insert("ids".to_owned(), serde_json::to_value(&args.ids)?),
        (true, false, false) => body.insert("filter".to_owned(), Value::Object(filter)),
        (true, true, true) => body.insert("all".to_owned(), Value::Bool(true)),
        (true, false, true) => bail!("--all and a filter exclude each other"),
        (true, true, false) => bail!("say which: ids, a filter, or --all"),
    };
    if let Some(input) = &args.input {
        body.insert("input".to_owned(), read_input(input)?.to_value());
    }
    let body = Json::from(Value::Object(body));
    let client = Client::connect(&args.server)?;
    let waiting = Waiting::begin("waiting for the server to requeue them");
    let requeued = client.request(Method::POST, "dlq/requeue", &[], Some(&body), PATIENCE);
    let answer = waiting.until(requeued).await?;
    drop(waiting);
    say(&answer, "requeued", json)
}

async fn delete(args: DlqDeleteArgs, json: bool) -> anyhow::Result<()> {
    let filter = query(&args.filter);
    let mut which = filter.clone();
    match (filter.is_empty(), args.all) {
        (true, true) => which.push(("all", "true".to_owned())),
        (false, true) => bail!("--all and a filter exclude each other"),
        (true, false) => bail!("say which: a filter, or --all"),
        (false, false) => {}
    }
    let client = Client::connect(&args.server)?;
    let would = match args.confirm.yes {
        true => 0,
        false => count(&client, filter).await?,
    };
    if !confirm::is_confirmed(&args.confirm, &format!("delete {would} dead letters"))? {
        return match json {
            true => output::json(&serde_json::json!({ "would_delete": would })),
            false => {
                output::line(&format!("{would} would be deleted"));
                Ok(())
            }
        };
    }
    let waiting = Waiting::begin("waiting for the server to delete them");
    let deleted = client.request(Method::DELETE, "dlq", &which, None, PATIENCE);
    let answer = waiting.until(deleted).await?;
    drop(waiting);
    say(&answer, "deleted", json)
}

/// How many dead letters match.
async fn count(client: &Client, mut filter: Vec<(&'static str, String)>) -> anyhow::Result<u64> {
    filter.push(("limit", PAGE.to_string()));
    let groups = client.get("dlq/groups", &filter).await?;
    let groups = groups["groups"].as_array().into_iter().flatten();
    Ok(groups.filter_map(|group| group["count"].as_u64()).sum())
}

fn say(answer: &Value, what: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    output::line(&format!("{} {what}", cell(&answer[what])));
    Ok(())
}

/// The filter as query parameters.
fn query(filter: &DlqFilterArgs) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    query.extend(
        filter
            .task_type
            .iter()
            .map(|name| ("task_type", name.to_string())),
    );
    query.extend(
        filter
            .error_kind
            .iter()
            .map(|kind| ("error_kind", kind.to_string())),
    );
    query.extend(filter.group.map(|group| ("group", group.to_string())));
    query.extend(filter.failed_from.map(|at| ("failed_from", at.to_string())));
    query.extend(filter.failed_before.map(|at| ("failed_before", at.to_string())));
    query
}

/// The filter as the body of a requeue has it.
fn filter(filter: &DlqFilterArgs) -> anyhow::Result<Map<String, Value>> {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    if !filter.task_type.is_empty() {
        add("task_type", serde_json::to_value(&filter.task_type)?);
    }
    if !filter.error_kind.is_empty() {
        add("error_kind", serde_json::to_value(&filter.error_kind)?);
    }
    if let Some(group) = filter.group {
        add("group", group.to_string().into());
    }
    for (name, at) in [
        ("failed_from", filter.failed_from),
        ("failed_before", filter.failed_before),
    ] {
        if let Some(at) = at {
            add(name, at.to_string().into());
        }
    }
    Ok(object)
}

/// A value for people, on one line.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line: String = text.chars().take(100).collect();
    line.replace(['\n', '\r', '\t'], " ")
}
