//! Enqueueing, draining and single tasks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use taskforge_broker::{Broker, Signal};
use taskforge_domain::{Json, TaskType};
use taskforge_store::Store;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::broadcast::error::RecvError,
};

use crate::client::Client;

/// Tasks in one `POST /tasks/batch`.
const BATCH: usize = 1_000;
/// Requests at once.
const CLIENTS: usize = 2;
/// Connections for single tasks.
pub(super) const CONNECTIONS: usize = 64;
/// The longest time without a signal before the store is read.
const SILENCE: Duration = Duration::from_millis(500);

/// The load on the fleet.
pub(super) struct Load<'a> {
    client: &'a Client,
    store: &'a dyn Store,
    broker: &'a dyn Broker,
    task_type: &'a TaskType,
    input: &'a Json,
}

#[derive(Serialize)]
struct Request<'a> {
    task_type: &'a TaskType,
    input: &'a Json,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        client: &'a Client,
        store: &'a dyn Store,
        broker: &'a dyn Broker,
        task_type: &'a TaskType,
        input: &'a Json,
    ) -> Self {
        Self { client, store, broker, task_type, input }
    }

    /// Lets tasks of the load wait, or run.
    pub(super) async fn pause(&self, pause: bool) -> anyhow::Result<()> {
        let verb = if pause { "pause" } else { "resume" };
        let path = format!("queues/{}/{verb}", self.task_type);
        self.client.post(&path, None).await.map(drop)
    }

    /// Enqueues tasks; the time is from the first request to the last acknowledgement.
    pub(super) async fn enqueue(&self, tasks: usize) -> anyhow::Result<Duration> {
        let request = Request { task_type: self.task_type, input: self.input };
        let began = Instant::now();
        let sizes = (0..tasks).step_by(BATCH).map(|done| (tasks - done).min(BATCH));
        stream::iter(sizes)
            .map(|size| {
                let tasks: Vec<_> = std::iter::repeat_n(&request, size).collect();
                async move {
                    let body = Json::from_value(&BTreeMap::from([("tasks", &tasks)]))?;
                    self.client.post("tasks/batch", Some(&body)).await
                }
            })
            .buffer_unordered(CLIENTS)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(began.elapsed())
    }

    /// Enqueues tasks while they wait, then lets them run. The second time is that of
    /// [`Self::drain`].
    pub(super) async fn enqueue_and_drain(
        &self,
        tasks: usize,
    ) -> anyhow::Result<(Duration, Duration)> {
        self.pause(true).await?;
        let enqueued = self.enqueue(tasks).await?;
        Ok((enqueued, self.drain(tasks).await?))
    }

    /// Lets tasks run that were paused; the time is until the store says that all have completed.
    pub(super) async fn drain(&self, tasks: usize) -> anyhow::Result<Duration> {
        let mut signals = self.broker.subscribe();
        let began = Instant::now();
        self.pause(false).await?;
        let mut heard = 0;
        loop {
            let is_silent = match tokio::time::timeout(SILENCE, signals.recv()).await {
                Ok(Ok(Signal::Finished(_))) => {
                    heard += 1;
                    false
                }
                Ok(Ok(Signal::Cancel(_) | Signal::Policy | Signal::Plugins | Signal::Missed)) => {
                    false
                }
                Ok(Err(RecvError::Lagged(missed))) => {
                    heard += usize::try_from(missed)?;
                    false
                }
                Ok(Err(RecvError::Closed)) | Err(_) => true,
            };
            // Reads the store when the signals say that all have ended, or stop.
            if is_silent || heard >= tasks {
                let drained = began.elapsed();
                let counts = self.store.counts().await?;
                let unfinished = counts.by_type.iter().filter(|(_, state, _)| !state.is_terminal());
                if unfinished.count() == 0 {
                    if !counts.by_type.is_empty() {
                        bail!("some tasks failed: {:?}", counts.by_type);
                    }
                    // When the signals went silent before the end, the silence itself is not what
                    // it took.
                    let drained = if is_silent { drained.saturating_sub(SILENCE) } else { drained };
                    return Ok(drained);
                }
            }
        }
    }

    /// Enqueues tasks one by one, over [`CONNECTIONS`] at once, while they wait; the time is from the
    /// first request to the last acknowledgement.
    pub(super) async fn enqueue_one_by_one(
        &self,
        api: &str,
        tasks: usize,
    ) -> anyhow::Result<Duration> {
        self.pause(true).await?;
        let address = api.trim_start_matches("http://").trim_end_matches('/');
        let body = Json::from_value(&Request { task_type: self.task_type, input: self.input })?;
        let request = format!(
            "POST /tasks HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{}",
            body.as_str().len(),
            body.as_str()
        );
        let began = Instant::now();
        let connections = (0..CONNECTIONS).map(|n| {
            let times = tasks / CONNECTIONS + usize::from(n < tasks % CONNECTIONS);
            let (address, request) = (address.to_owned(), request.clone());
            tokio::spawn(async move { post(&address, &request, times).await })
        });
        for connection in connections.collect::<Vec<_>>() {
            connection.await??;
        }
        Ok(began.elapsed())
    }

    /// Enqueues single tasks at a steady rate and waits for each: from the request until an answer
    /// shows it completed.
    pub(super) async fn single_tasks(
        &self,
        tasks: u32,
        per_second: u32,
    ) -> anyhow::Result<Latency> {
        let every = Duration::from_secs(1) / per_second;
        let body = Json::from_value(&Request { task_type: self.task_type, input: self.input })?;
        let began = tokio::time::Instant::now();
        let mut times: Vec<Duration> = stream::iter(0..tasks)
            .map(|n| {
                let body = &body;
                async move {
                    // By the clock and not by the answers: a slow one does not slow the others
                    // down.
                    tokio::time::sleep_until(began + every * n).await;
                    self.single_task(body).await
                }
            })
            .buffer_unordered(1_000)
            .try_collect()
            .await?;
        times.sort_unstable();
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Ok(Latency {
            tasks,
            per_second,
            p50_ms: rank(50),
            p95_ms: rank(95),
            p99_ms: rank(99),
            max_ms: rank(100),
        })
    }

    async fn single_task(&self, body: &Json) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let task = self.client.post("tasks", Some(body)).await?;
        let id = task["id"].as_str().context("a task has an id")?;
        let query = [("wait", "30s".to_owned())];
        let task = self.client.get(&format!("tasks/{id}"), &query).await?;
        match task["status"].as_str() {
            Some("completed") => Ok(began.elapsed()),
            status => bail!("task {id} is {status:?}"),
        }
    }
}

/// Sends a request so often over one connection, each after the answer to the one before. By hand,
/// because on a small machine what a client library takes would be taken from the server.
async fn post(address: &str, request: &str, times: usize) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for _ in 0..times {
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the API closed a connection");
            }
        }
        if !answer.starts_with(b"HTTP/1.1 2") {
            bail!("a task was not accepted: {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

/// Whether an answer is there to its end.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

/// From the request to the committed completion, as a client sees it.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) tasks: u32,
    pub(super) per_second: u32,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}
