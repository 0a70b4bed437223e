//! The client commands for dead letters, over HTTP.

use std::{fmt, process::ExitCode, time::Duration};

use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value};
use taskforge_domain::Json;

use crate::{
    answer::Answer,
    args::{DlqCommand, DlqDeleteArgs, DlqFilterArgs, DlqGroupsArgs, DlqListArgs, DlqRequeueArgs},
    client::Client,
    confirm,
    exit::Failure,
    output::{self, brief, cell, time},
    task::{PAGE, TaskList, last, read_input},
    waiting::Waiting,
};

/// The server works through many dead letters in one request.
const BULK_TIMEOUT: Duration = Duration::from_secs(600);

/// The body of `POST /dlq/requeue`. The input stays the text that was given, so that no number in
/// it changes.
#[derive(Default, Serialize)]
struct Requeue {
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Json>,
}

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
    let tasks = last(&client, "dlq", &query(&args.filter), args.last).await?;
    if json {
        return output::json(&TaskList { tasks });
    }
    let rows: Vec<_> = tasks
        .iter()
        .map(|task| {
            let kinds = ["id", "task_type", "error_kind"].map(|field| cell(&task[field]));
            let rest =
                [time(&task["finished_at"]), cell(&task["attempt"]), brief(&cell(&task["error"]))];
            kinds.into_iter().chain(rest).collect()
        })
        .collect();
    output::table(&["ID", "TYPE", "KIND", "FAILED AT", "ATTEMPTS", "ERROR"], &rows);
    Ok(())
}

async fn groups(args: DlqGroupsArgs, json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let answer = client.get("dlq/groups", &query(&args.filter)).await?;
    if json {
        return output::json(&answer);
    }
    let groups = answer["groups"].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = groups
        .iter()
        .map(|group| {
            let what =
                ["group", "count", "task_type", "error_kind"].map(|field| cell(&group[field]));
            let last = [time(&group["last_failed_at"]), brief(&cell(&group["example"]))];
            what.into_iter().chain(last).collect()
        })
        .collect();
    output::table(&["GROUP", "TASKS", "TYPE", "KIND", "LAST FAILED AT", "FOR EXAMPLE"], &rows);
    Ok(())
}

async fn requeue(args: DlqRequeueArgs, json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let mut body = Requeue::default();
    let filter = filter(&args.filter)?;
    match (args.ids.is_empty(), filter.is_empty(), args.all) {
        (false, ..) => {
            let mut ids = Vec::with_capacity(args.ids.len());
            for id in &args.ids {
                ids.push(client.task_id(id).await?);
            }
            body.ids = Some(ids);
        }
        (true, false, false) => body.filter = Some(filter),
        (true, true, true) => body.all = Some(true),
        (true, false, true) => return Err(Failure::usage("--all and a filter exclude each other")),
        (true, true, false) => return Err(Failure::usage("say which: ids, a filter, or --all")),
    };
    body.input = args.input.as_deref().map(read_input).transpose()?;
    let body = Json::from_value(&body)?;
    let waiting = Waiting::begin("waiting for the server to requeue them");
    let requeued = client.request(Method::POST, "dlq/requeue", &[], Some(&body), BULK_TIMEOUT);
    let answer = waiting.until(requeued).await?;
    drop(waiting);
    say(&answer, "requeued", json)
}

async fn delete(args: DlqDeleteArgs, json: bool) -> anyhow::Result<()> {
    let filter = query(&args.filter);
    let mut which = filter.clone();
    match (filter.is_empty(), args.all) {
        (true, true) => which.push(("all", "true".to_owned())),
        (false, true) => return Err(Failure::usage("--all and a filter exclude each other")),
        (true, false) => return Err(Failure::usage("say which: a filter, or --all")),
        (false, false) => {}
    }
    let client = Client::connect(&args.server)?;
    let would = match args.confirm.yes {
        true => Count::default(),
        false => count(&client, filter).await?,
    };
    if !confirm::is_confirmed(&args.confirm, &format!("delete {would} dead letters"))? {
        return match json {
            true if would.is_whole => {
                output::json(&serde_json::json!({ "would_delete": would.dead_letters }))
            }
            true => {
                output::json(&serde_json::json!({ "would_delete_at_least": would.dead_letters }))
            }
            false => {
                output::line(&format!("{would} would be deleted"));
                Ok(())
            }
        };
    }
    let waiting = Waiting::begin("waiting for the server to delete them");
    let deleted = client.request(Method::DELETE, "dlq", &which, None, BULK_TIMEOUT);
    let answer = waiting.until(deleted).await?;
    drop(waiting);
    say(&answer, "deleted", json)
}

/// How many dead letters match, as far as the server's list of groups goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    dead_letters: u64,
    /// Whether the list had all groups.
    is_whole: bool,
}

impl Count {
    fn of(groups: &[Value]) -> Self {
        Self {
            dead_letters: groups.iter().filter_map(|group| group["count"].as_u64()).sum(),
            is_whole: groups.len() < PAGE,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = if self.is_whole { "" } else { "at least " };
        write!(f, "{about}{}", self.dead_letters)
    }
}

async fn count(client: &Client, mut filter: Vec<(&'static str, String)>) -> anyhow::Result<Count> {
    filter.push(("limit", PAGE.to_string()));
    let answer = client.get("dlq/groups", &filter).await?;
    let groups = answer["groups"].as_array().map(Vec::as_slice);
    Ok(Count::of(groups.unwrap_or_default()))
}

fn say(answer: &Answer, what: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    output::line(&format!("{} {what}", cell(&answer[what])));
    Ok(())
}

/// The filter as query parameters.
fn query(filter: &DlqFilterArgs) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    query.extend(filter.task_type.iter().map(|name| ("task_type", name.to_string())));
    query.extend(filter.error_kind.iter().map(|kind| ("error_kind", kind.to_string())));
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
    for (name, at) in [("failed_from", filter.failed_from), ("failed_before", filter.failed_before)]
    {
        if let Some(at) = at {
            add(name, at.to_string().into());
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_groups_that_is_full_may_lack_some() {
        let group = serde_json::json!({ "count": 3 });
        assert_eq!(Count::of(&[group.clone(), group.clone()]).to_string(), "6");
        assert_eq!(Count::of(&vec![group; PAGE]).to_string(), "at least 3000");
    }
}
