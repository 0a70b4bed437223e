//! The client commands for pauses, caps and shares, over HTTP.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use reqwest::Method;
use serde_json::{Map, Value, json};
use taskforge_domain::Json;

use crate::{
    args::{QueueCommand, QueueLimitArgs, QueueTenantArgs, QueueTypeArgs},
    client::Client,
    output,
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
    let rows = |list: &Value, fields: [&str; 3]| -> Vec<Vec<String>> {
        let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .map(|item| fields.map(|field| cell(&item[field])).to_vec())
            .collect()
    };
    let queues = rows(&queues["queues"], ["task_type", "paused", "max_running"]);
    output::table(&["TYPE", "PAUSED", "AT MOST"], &queues);
    output::line("");
    let tenants = rows(&tenants["tenants"], ["tenant", "weight", "max_running"]);
    output::table(&["TENANT", "WEIGHT", "AT MOST"], &tenants);
    Ok(())
}

async fn steer(args: QueueTypeArgs, verb: &str, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let queue = client
        .post(&format!("queues/{}/{verb}", args.task_type), None)
        .await?;
    show(&queue, as_json)
}

async fn limit(args: QueueLimitArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let body = Json::from(json!({ "max_running": args.max_running.0 }));
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
    let mut body = Map::new();
    if let Some(weight) = args.weight {
        body.insert("weight".to_owned(), weight.into());
    }
    if let Some(cap) = args.max_running {
        body.insert("max_running".to_owned(), cap.0.into());
    }
    if body.is_empty() {
        bail!("say what to set: --weight or --max-running");
    }
    let client = Client::connect(&args.server)?;
    let path = format!("tenants/{}", args.tenant);
    let body = Json::from(Value::Object(body));
    let tenant = client
        .request(Method::PUT, &path, &[], Some(&body), Duration::ZERO)
        .await?;
    show(&tenant, as_json)
}

fn show(item: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(item);
    }
    let fields = item.as_object().into_iter().flatten();
    let pairs: Vec<(&str, String)> = fields.map(|(name, value)| (name.as_str(), cell(value))).collect();
    output::pairs(&pairs);
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
