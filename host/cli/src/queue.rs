//! The client commands for pauses, caps and shares, over HTTP.

use std::{process::ExitCode, time::Duration};

use reqwest::Method;
use serde_json::{Map, Value, json};
use taskforge_domain::{Json, Timestamp};

use crate::{
    answer::Answer,
    args::{QueueCommand, QueueLimitArgs, QueueTenantArgs, QueueTypeArgs},
    client::Client,
    exit::Failure,
    output::{self, cell},
};

pub(crate) async fn run(command: QueueCommand, as_json: bool) -> anyhow::Result<ExitCode> {
    match command {
        QueueCommand::List(args) => list(&Client::connect(&args.server)?, as_json).await,
        QueueCommand::Pause(args) => steer(args, "pause", as_json).await,
        QueueCommand::Resume(args) => steer(args, "resume", as_json).await,
        QueueCommand::Limit(args) => limit(args, as_json).await,
        QueueCommand::Tenant(args) => tenant(args, as_json).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let queues = client.get("queues", &[]).await?;
    let tenants = client.get("tenants", &[]).await?;
    if as_json {
        return output::json(&json!({ "queues": queues["queues"], "tenants": tenants["tenants"] }));
    }
    let items = |list: &Answer, name: &str| list[name].as_array().cloned().unwrap_or_default();
    let rows = items(&queues, "queues").into_iter().map(|queue| {
        let tasks = &queue["tasks"];
        let state = match queue["paused"] == true {
            true => "paused",
            false => "runs",
        };
        let numbers =
            ["pending", "scheduled", "running", "failed"].map(|state| cell(&tasks[state]));
        let name = [cell(&queue["task_type"]), state.to_owned()];
        let last = [waiting(&tasks["oldest_pending_at"]), cell(&queue["max_running"])];
        name.into_iter().chain(numbers).chain(last).collect()
    });
    let head = ["TYPE", "STATE", "PENDING", "LATER", "RUNNING", "FAILED", "OLDEST", "AT MOST"];
    output::table(&head, &rows.collect::<Vec<_>>());
    output::line("");
    let rows = items(&tenants, "tenants").into_iter().map(|tenant| {
        let fields = ["tenant", "weight", "max_running"];
        fields.map(|field| cell(&tenant[field])).to_vec()
    });
    output::table(&["TENANT", "WEIGHT", "AT MOST"], &rows.collect::<Vec<_>>());
    Ok(())
}

/// How long ago something was, to the second.
fn waiting(since: &Value) -> String {
    let since = since.as_str().and_then(|since| since.parse::<Timestamp>().ok());
    let Some(since) = since else {
        return cell(&Value::Null);
    };
    let seconds = Timestamp::now().duration_since(since).as_secs().max(0);
    humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string()
}

async fn steer(args: QueueTypeArgs, verb: &str, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let queue = client.post(&format!("queues/{}/{verb}", args.task_type), None).await?;
    show(&queue, as_json)
}

async fn limit(args: QueueLimitArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    // The server replaces the whole policy: a paused queue is to stay so.
    let queues = client.get("queues", &[]).await?;
    let mut queues = queues["queues"].as_array().into_iter().flatten();
    let is_paused = queues
        .any(|queue| queue["task_type"] == args.task_type.as_str() && queue["paused"] == true);
    let body = Json::from(json!({ "max_running": args.max_running.0, "paused": is_paused }));
    let queue = client
        .request(
            Method::PUT,
            &format!("queues/{}", args.task_type),
            &[],
            Some(&body),
            Duration::ZERO,
        )
        .await?;
    show(&queue, as_json)
}

async fn tenant(args: QueueTenantArgs, as_json: bool) -> anyhow::Result<()> {
    if args.weight.is_none() && args.max_running.is_none() {
        return Err(Failure::usage("say what to set: --weight or --max-running"));
    }
    let client = Client::connect(&args.server)?;
    // The server replaces the whole policy: what is not named is to stay as it is.
    let tenants = client.get("tenants", &[]).await?;
    let mut tenants = tenants["tenants"].as_array().into_iter().flatten();
    let before = tenants.find(|tenant| tenant["tenant"] == args.tenant.as_str());
    let mut body = Map::new();
    for field in ["weight", "max_running"] {
        body.extend(before.map(|tenant| (field.to_owned(), tenant[field].clone())));
    }
    if let Some(weight) = args.weight {
        body.insert("weight".to_owned(), weight.into());
    }
    if let Some(cap) = args.max_running {
        body.insert("max_running".to_owned(), cap.0.into());
    }
    let path = format!("tenants/{}", args.tenant);
    let body = Json::from(Value::Object(body));
    let tenant = client.request(Method::PUT, &path, &[], Some(&body), Duration::ZERO).await?;
    show(&tenant, as_json)
}

fn show(item: &Answer, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(item);
    }
    let fields = item.as_object().into_iter().flatten();
    let pairs: Vec<(&str, String)> =
        fields.map(|(name, value)| (name.as_str(), cell(value))).collect();
    output::pairs(&pairs);
    Ok(())
}
