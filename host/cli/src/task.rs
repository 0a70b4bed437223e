//! The client commands, over HTTP.

use std::{
    io::Read as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use taskforge_domain::{Json, TaskState, TaskType, Timestamp, one_line};

use crate::{
    answer::Answer,
    args::{FilterArgs, ListArgs, PruneArgs, SubmitArgs, TaskCommand, TaskIdArgs, WaitArgs},
    client::Client,
    confirm, exit, output, signals,
    waiting::Waiting,
};

/// How long one request waits for the end of a task, and so the interval of progress messages.
const LOOK: Duration = Duration::from_secs(2);
/// The most tasks that the server puts on a page.
pub(crate) const PAGE: usize = 1_000;

pub(crate) async fn run(command: TaskCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        TaskCommand::Submit(args) => submit(args, json).await,
        TaskCommand::Get(TaskIdArgs { id, server }) => {
            let client = Client::connect(&server)?;
            let id = client.task_id(&id).await?;
            show(&client.get(&format!("tasks/{id}"), &[]).await?, json)
        }
        TaskCommand::List(args) => list(args, json).await,
        TaskCommand::Wait(args) => wait(args, json).await,
        TaskCommand::Logs(args) => logs(args, json).await,
        TaskCommand::Cancel(args) => steer(args, "cancel", json).await,
        TaskCommand::Retry(args) => steer(args, "retry", json).await,
        TaskCommand::Prune(args) => prune(args, json).await,
    }
}

/// The body of `POST /tasks`. The input stays the text that was given, so that no number in it
/// changes.
#[derive(Serialize)]
struct NewTask {
    task_type: TaskType,
    input: Json,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<Timestamp>,
}

async fn submit(args: SubmitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let body = NewTask {
        task_type: args.task_type,
        input: read_input(&args.input)?,
        priority: args.priority,
        max_retries: args.max_retries,
        delay: args.delay.map(|delay| humantime::format_duration(delay).to_string()),
        run_at: args.run_at,
    };
    let client = Client::connect(&args.server)?;
    let task = client.post("tasks", Some(&Json::from_value(&body)?)).await?;
    if args.wait {
        let id = task_id(&task)?;
        let ended = poll(&client, id, None).await;
        // A second submission would run it twice.
        let ended = ended.with_context(|| {
            format!("task {id} is submitted, and `taskforge task wait {id}` waits for it again")
        })?;
        return show_ended(&ended, json);
    }
    if json {
        output::json(&task)?;
    } else {
        output::line(task_id(&task)?);
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(args: WaitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let id = client.task_id(&args.id).await?;
    let task = poll(&client, &id, args.timeout).await?;
    show_ended(&task, json)
}

/// Waits until a task has ended or the time is over, and reports its progress.
async fn poll(client: &Client, id: &str, timeout: Option<Duration>) -> anyhow::Result<Answer> {
    let waiting = Waiting::begin(&format!("waiting for task {id}"));
    signals::interruptible(ended(client, id, timeout, waiting), || {
        format!(
            "task {id} goes on\n  `taskforge task wait {id}` waits for it again\n  \
             `taskforge task cancel {id}` calls it off"
        )
    })
    .await
}

/// Long-polls until the task has ended.
async fn ended(
    client: &Client,
    id: &str,
    timeout: Option<Duration>,
    mut waiting: Waiting,
) -> anyhow::Result<Answer> {
    let began = Instant::now();
    loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        let hold = left.map_or(LOOK, |left| left.min(LOOK));
        let query = [("wait", format!("{}ms", hold.as_millis()))];
        let task = client.request(Method::GET, &format!("tasks/{id}"), &query, None, hold).await?;
        let ended = matches!(text(&task, "status"), "completed" | "failed" | "cancelled");
        if ended || left.is_some_and(|left| left <= hold) {
            return Ok(task);
        }
        waiting.say(&format!("task {id} {}", how_it_goes(&task)));
    }
}

/// The progress of a task that has not ended.
fn how_it_goes(task: &Value) -> String {
    let attempts = task["max_retries"].as_u64().unwrap_or_default() + 1;
    let attempt = task["attempt"].as_u64().unwrap_or_default();
    match text(task, "status") {
        "running" => {
            let progress =
                progress(task).map_or_else(String::new, |progress| format!(": {progress}"));
            format!("runs, attempt {attempt} of {attempts}{progress}")
        }
        "scheduled" if attempt > 0 => format!(
            "failed at attempt {attempt} of {attempts} ({}) and waits until {}",
            text(task, "error"),
            text(task, "run_at")
        ),
        "scheduled" => format!("waits until {}", text(task, "run_at")),
        status => format!("is {status}"),
    }
}

/// The handler's last progress report.
fn progress(task: &Value) -> Option<String> {
    let fraction = task["progress"]["fraction"].as_f64()?;
    let note = task["progress"]["note"].as_str().unwrap_or_default();
    Some(format!("{:.0}% {note}", fraction * 100.0).trim_end().to_owned())
}

async fn list(args: ListArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let tasks = last(&client, "tasks", &filter_query(&args.filter), args.last).await?;
    if json {
        output::json(&TaskList { tasks })?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = tasks
        .iter()
        .map(|task| {
            let outcome = match text(task, "status") {
                "completed" => output::brief(task.member("result").text()),
                _ => output::brief(text(task, "error")),
            };
            let cells = ["id", "task_type", "status"].map(|field| text(task, field).to_owned());
            let last = [output::time(&task["created_at"]), outcome];
            cells.into_iter().chain(last).collect()
        })
        .collect();
    output::table(&["ID", "TYPE", "STATUS", "CREATED", "OUTCOME"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// Tasks as `--json` lists them.
#[derive(Serialize)]
pub(crate) struct TaskList {
    pub(crate) tasks: Vec<Answer>,
}

/// The newest tasks of a list of the server's, which comes in pages.
pub(crate) async fn last(
    client: &Client,
    path: &str,
    filter: &[(&'static str, String)],
    count: usize,
) -> anyhow::Result<Vec<Answer>> {
    let mut tasks = Vec::new();
    let mut cursor: Option<String> = None;
    while tasks.len() < count {
        let mut query = filter.to_vec();
        query.push(("limit", (count - tasks.len()).min(PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page = client.get(path, &query).await?;
        tasks.append(&mut page.list("tasks"));
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(tasks)
}

async fn logs(args: TaskIdArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let id = client.task_id(&args.id).await?;
    let log = client.get(&format!("tasks/{id}/logs"), &[]).await?;
    if json {
        // As every list: under its name.
        output::json(&serde_json::json!({ "logs": *log }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for entry in log.as_array().into_iter().flatten() {
        let attempt =
            entry["attempt"].as_u64().map(|attempt| format!(" #{attempt}")).unwrap_or_default();
        let level = text(entry, "level");
        output::line(&format!(
            "{} {level:<5}{attempt} {}",
            text(entry, "created_at"),
            one_line(text(entry, "message"))
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn steer(args: TaskIdArgs, action: &str, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let id = client.task_id(&args.id).await?;
    let task = client.post(&format!("tasks/{id}/{action}"), None).await?;
    show(&task, json)
}

async fn prune(args: PruneArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let filter = filter_query(&args.filter);
    let would = match args.confirm.yes {
        true => 0,
        false => count_ended(&client, &args.filter, args.first as usize).await?,
    };
    if !confirm::is_confirmed(&args.confirm, &format!("delete {would} tasks"))? {
        return show_pruned(&serde_json::json!({ "would_delete": would }), json);
    }
    let mut query = filter;
    query.push(("first", args.first.to_string()));
    let pruned = client.request(Method::DELETE, "tasks", &query, None, Duration::ZERO).await?;
    show_pruned(&pruned, json)
}

fn show_pruned(pruned: &Value, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        output::json(pruned)?;
    } else if let Some(would) = pruned["would_delete"].as_u64() {
        output::line(&format!("{would} tasks would be deleted"));
    } else {
        output::line(&format!("{} tasks deleted", pruned["deleted"]));
    }
    Ok(ExitCode::SUCCESS)
}

/// How many ended tasks match, up to a number.
async fn count_ended(client: &Client, filter: &FilterArgs, most: usize) -> anyhow::Result<usize> {
    let mut query = filter_query(filter);
    if filter.status.is_empty() {
        let ended = TaskState::ALL.iter().filter(|state| state.is_terminal());
        query.extend(ended.map(|state| ("status", state.to_string())));
    }
    let (mut count, mut cursor) = (0, None);
    loop {
        let mut query = query.clone();
        query.push(("limit", most.saturating_sub(count).clamp(1, PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page = client.get("tasks", &query).await?;
        count += page["tasks"].as_array().map_or(0, Vec::len);
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if count >= most || cursor.is_none() {
            return Ok(count.min(most));
        }
    }
}

fn filter_query(filter: &FilterArgs) -> Vec<(&'static str, String)> {
    let states = filter.status.iter().map(|state| ("status", state.to_string()));
    let types = filter.task_type.iter().map(|task_type| ("task_type", task_type.to_string()));
    let kinds = filter.error_kind.iter().map(|kind| ("error_kind", kind.to_string()));
    states.chain(types).chain(kinds).collect()
}

/// JSON from the argument itself, from a file (`@FILE`) or from standard input (`-`).
pub(crate) fn read_input(argument: &str) -> anyhow::Result<Json> {
    let text = match argument.strip_prefix('@') {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?
        }
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            text
        }
        None => argument.to_owned(),
    };
    Json::parse(text).context("the input is not JSON")
}

fn show(task: &Answer, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        output::json(task)?;
        return Ok(ExitCode::SUCCESS);
    }
    let attempts =
        format!("{} of {}", task["attempt"], task["max_retries"].as_u64().unwrap_or_default() + 1);
    let mut pairs = vec![
        ("id", text(task, "id").to_owned()),
        ("type", text(task, "task_type").to_owned()),
        ("status", text(task, "status").to_owned()),
        ("priority", task["priority"].to_string()),
        ("attempt", attempts),
        ("input", task.member("input").text().to_owned()),
    ];
    for name in ["created_at", "run_at", "started_at", "finished_at", "error_kind", "error"] {
        if let Some(value) = task[name].as_str() {
            pairs.push((name, value.to_owned()));
        }
    }
    pairs.extend(progress(task).map(|progress| ("progress", progress)));
    if text(task, "status") == "completed" {
        pairs.push(("result", task.member("result").text().to_owned()));
    }
    output::pairs(&pairs);
    Ok(ExitCode::SUCCESS)
}

/// Shows a task after a wait. The exit code is success if it completed, for use in scripts.
fn show_ended(task: &Answer, json: bool) -> anyhow::Result<ExitCode> {
    show(task, json)?;
    Ok(match text(task, "status") {
        "completed" => ExitCode::SUCCESS,
        "failed" | "cancelled" => ExitCode::from(exit::TASK_FAILED),
        _ => ExitCode::from(exit::NOT_ENDED),
    })
}

fn task_id(task: &Value) -> anyhow::Result<&str> {
    task["id"].as_str().context("the server's answer holds no id")
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_that_is_not_json_is_named() {
        let error = format!("{:#}", read_input("{n: 1}").unwrap_err());
        assert!(error.starts_with("the input is not JSON"), "{error}");
    }
}
