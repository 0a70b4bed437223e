//! What the database could do without us.
//!
//! A measurement to hold the rest against: the same rows go into the same tables with the same
//! durability and by the same statements, because those are the best that we know. No trait, no
//! coalescing, no broker: batches, one after the other on each connection. It grows with both
//! numbers, so a figure is worth nothing without them.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Json, NewTask, Next, Outcome, TaskType, TenantId, Timestamp,
    Usage, WorkerId,
};
use uuid::Uuid;

use super::{
    claim::{self, Claim},
    complete::{self, End},
    connect::{Connections, Servers, Taken},
    enqueue,
    fault::Fault,
    operate::delete_dependents,
    workers,
};
use crate::{Commit, Completion, PostgresConfig, StoreError, StoreResult, WorkerRecord};

/// What [`measure`] found, in tasks a second over all connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// Tasks inserted.
    pub enqueue_per_second: f64,
    /// Tasks claimed, one batch after the other, with nothing else going on.
    pub claim_per_second: f64,
    /// Tasks completed, each with the record of its attempt, with nothing else going on.
    pub complete_per_second: f64,
    /// Tasks that were claimed and completed: what a drain can reach.
    pub claim_complete_per_second: f64,
}

/// Runs tasks through their life in a database that [`migrate`](super::migrate) has prepared,
/// `batch` tasks a statement, and deletes them. They are of a type and a tenant of their own
/// (`ceiling`), which no worker serves.
///
/// # Errors
/// As the store's own operations.
pub async fn measure(
    url: &str,
    tasks: usize,
    batch: usize,
    connections: usize,
) -> StoreResult<Ceiling> {
    let (batch, connections) = (batch.max(1), connections.max(1));
    let config = PostgresConfig::new(url);
    let share = tasks.div_ceil(connections).max(1);
    let mut lanes = Vec::new();
    for _ in 0..connections {
        lanes.push(Bench::new(&config, share, batch).await?);
    }
    let count = (share * connections) as f64;
    let rate = |time: Duration| count / time.as_secs_f64().max(1e-9);
    let mut times = [Duration::ZERO; 3];
    for (step, time) in [Step::Enqueue, Step::Claim, Step::Complete].into_iter().zip(&mut times) {
        let begin = Instant::now();
        let running: Vec<_> = lanes
            .drain(..)
            .map(|mut bench| tokio::spawn(async move { bench.run(step).await.map(|()| bench) }))
            .collect();
        for bench in running {
            let bench = bench.await.map_err(|error| StoreError::Refused(error.to_string()))?;
            lanes.push(bench?);
        }
        *time = begin.elapsed();
    }
    for mut bench in lanes {
        bench.forget().await?;
    }
    Ok(Ceiling {
        enqueue_per_second: rate(times[0]),
        claim_per_second: rate(times[1]),
        complete_per_second: rate(times[2]),
        claim_complete_per_second: rate(times[1] + times[2]),
    })
}

#[derive(Clone, Copy)]
enum Step {
    Enqueue,
    Claim,
    Complete,
}

/// One connection's part.
struct Bench {
    connection: Taken,
    batch: usize,
    worker: WorkerId,
    tasks: Vec<NewTask>,
    claimed: Vec<ClaimedTask>,
}

impl Bench {
    async fn new(config: &PostgresConfig, tasks: usize, batch: usize) -> StoreResult<Self> {
        let mut connection = Connections::hot(&Servers::of(config)?).take().await?;
        // Registered, or a sweeper that is at work on the same database would take its tasks away.
        let worker = WorkerRecord {
            id: WorkerId::generate(),
            host: "ceiling".into(),
            pid: std::process::id(),
            started_at: Timestamp::now(),
            lease: Duration::from_secs(3_600),
        };
        workers::register(&mut connection, &worker, Timestamp::now()).await?;
        let task_type = TaskType::new("ceiling").map_err(refused)?;
        let tenant = TenantId::new("ceiling").map_err(refused)?;
        let input = Json::parse("{\"n\":20}".into()).map_err(refused)?;
        let new =
            || NewTask::new(tenant.clone(), task_type.clone(), input.clone(), Timestamp::now());
        Ok(Self {
            connection,
            batch,
            worker: worker.id,
            tasks: std::iter::repeat_with(new).take(tasks).collect(),
            claimed: Vec::new(),
        })
    }

    async fn run(&mut self, step: Step) -> StoreResult<()> {
        match step {
            Step::Enqueue => self.enqueue().await,
            Step::Claim => self.claim().await,
            Step::Complete => self.complete().await,
        }
        .map_err(Into::into)
    }

    async fn enqueue(&mut self) -> Result<(), Fault> {
        let connection = &mut self.connection;
        for some in self.tasks.chunks_mut(self.batch) {
            enqueue::run(connection, some).await?;
        }
        Ok(())
    }

    async fn claim(&mut self) -> Result<(), Fault> {
        let connection = &mut self.connection;
        for some in self.tasks.chunks(self.batch) {
            let claim = Claim {
                worker: self.worker,
                now: Timestamp::now(),
                ids: some.iter().map(|task| task.id).collect(),
            };
            self.claimed.extend(
                claim::run(connection, &[claim])
                    .await?
                    .into_iter()
                    .flatten()
                    .flat_map(|claimed| claimed.tasks),
            );
        }
        whole(self.claimed.len(), self.tasks.len())
    }

    async fn complete(&mut self) -> Result<(), Fault> {
        let connection = &mut self.connection;
        let mut committed = 0;
        for some in self.claimed.chunks(self.batch) {
            let ends = some
                .iter()
                .map(|task| End::new(&completion(task, self.worker)?))
                .collect::<StoreResult<Vec<_>>>()?;
            let commits = complete::run(connection, &ends).await?;
            committed += commits.iter().filter(|commit| **commit == Commit::Committed).count();
        }
        whole(committed, self.tasks.len())
    }

    /// Leaves the database as it was.
    async fn forget(&mut self) -> StoreResult<()> {
        let ids: Vec<Uuid> = self.tasks.iter().map(|task| *task.id.as_uuid()).collect();
        let connection = &mut self.connection;
        forget(connection, &ids).await?;
        workers::remove(connection, self.worker).await.map_err(Into::into)
    }
}

const DELETE_TASKS: &str = "delete from tasks where id = any ($1)";

async fn forget(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(), Fault> {
    let mut transaction = connection.begin().await?;
    sqlx::query(DELETE_TASKS).bind(ids).execute(&mut *transaction).await?;
    delete_dependents(&mut transaction, ids).await?;
    Ok(transaction.commit().await?)
}

/// A measurement that somebody interferes with is none.
fn whole(found: usize, expected: usize) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    let why =
        format!("of {expected} tasks {found} were left to measure: somebody else took the others");
    Err(StoreError::Refused(why).into())
}

fn refused(error: impl std::fmt::Display) -> StoreError {
    StoreError::Refused(error.to_string())
}

/// The record of an attempt like that of a small pure handler.
fn completion(task: &ClaimedTask, worker: WorkerId) -> StoreResult<Completion> {
    let attempt = Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.0.0".into(),
        plugin_digest: Digest::from_bytes([7; 32]),
        started_at: task.started_at,
        finished_at: Timestamp::now(),
        outcome: Outcome::Completed(Json::parse("{\"result\":6765}".into()).map_err(refused)?),
        usage: Usage { fuel: 12_345, peak_memory: 1 << 20, wall_micros: 40, ..Usage::default() },
        logs: Vec::new(),
    };
    Ok(Completion { attempt, next: Next::Complete })
}
