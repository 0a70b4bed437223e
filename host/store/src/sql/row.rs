//! Rows into domain types. What does not fit is [`StoreError::Corrupt`] and names its column.

use std::{fmt::Display, time::Duration};

use serde::de::DeserializeOwned;
use sqlx::{Column as _, Decode, Row as _, Type};
use taskforge_domain::{
    Digest, Json, Lane, Priority, RetryPolicy, RunLease, TaskId, Timestamp, VersionId, WorkerId,
};
use uuid::Uuid;

use super::driver::{Attempted, Database, Fault, Row, fault, integer};
use crate::{LapsedTask, QueuedTask, StoreError};

pub(super) fn corrupt(row: &Row, column: usize, why: impl Display) -> Fault {
    fault(StoreError::Corrupt(format!("column {}: {why}", row.column(column).name())))
}

pub(super) fn get<'r, T: Decode<'r, Database> + Type<Database>>(
    row: &'r Row,
    column: usize,
) -> Attempted<T> {
    Ok(row.try_get(column)?)
}

pub(super) fn task_id(row: &Row, column: usize) -> Attempted<TaskId> {
    get::<Uuid>(row, column).map(TaskId::from_uuid)
}

pub(super) fn worker_id(row: &Row, column: usize) -> Attempted<WorkerId> {
    get::<Uuid>(row, column).map(WorkerId::from_uuid)
}

pub(super) fn version_id(row: &Row, column: usize) -> Attempted<VersionId> {
    get::<Uuid>(row, column).map(VersionId::from_uuid)
}

pub(super) fn optional_version_id(row: &Row, column: usize) -> Attempted<Option<VersionId>> {
    Ok(get::<Option<Uuid>>(row, column)?.map(VersionId::from_uuid))
}

pub(super) fn digest(row: &Row, column: usize) -> Attempted<Digest> {
    let bytes: [u8; 32] =
        get::<&[u8]>(row, column)?.try_into().map_err(|error| corrupt(row, column, error))?;
    Ok(Digest::from_bytes(bytes))
}

/// Anything that is stored by its name: a tenant, a task type, a state, a kind.
pub(super) fn word<T: std::str::FromStr<Err: Display>>(row: &Row, column: usize) -> Attempted<T> {
    get::<&str>(row, column)?.parse().map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_word<T: std::str::FromStr<Err: Display>>(
    row: &Row,
    column: usize,
) -> Attempted<Option<T>> {
    get::<Option<&str>>(row, column)?
        .map(|word| word.parse().map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// A whole number, in the type that the domain gives it.
pub(super) fn number<T: TryFrom<i64, Error: Display>>(row: &Row, column: usize) -> Attempted<T> {
    T::try_from(integer(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn priority(row: &Row, column: usize) -> Attempted<Priority> {
    Priority::new(number(row, column)?).map_err(|error| corrupt(row, column, error))
}

/// A retry policy from three columns, the first at `column`.
pub(super) fn retry(row: &Row, column: usize) -> Attempted<RetryPolicy> {
    Ok(RetryPolicy {
        max_retries: number(row, column)?,
        base: Duration::from_millis(number(row, column + 1)?),
        cap: Duration::from_millis(number(row, column + 2)?),
    })
}

/// A lane from three columns, the first at `column`.
pub(super) fn lane(row: &Row, column: usize) -> Attempted<Lane> {
    Ok(Lane {
        tenant: word(row, column)?,
        task_type: word(row, column + 1)?,
        priority: priority(row, column + 2)?,
    })
}

/// An id and its lane.
pub(super) fn laned(row: &Row) -> Attempted<QueuedTask> {
    Ok(QueuedTask { id: task_id(row, 0)?, lane: lane(row, 1)? })
}

/// The columns of a running task.
macro_rules! running_columns {
    () => {
        "tasks.id, tasks.run_lease, tasks.attempt, tasks.max_retries, tasks.retry_base_ms, tasks.retry_cap_ms, tasks.worker, \
         tasks.tenant, tasks.task_type, tasks.priority, tasks.lapses"
    };
}
pub(super) use running_columns;

/// A running task from [`running_columns`].
pub(super) fn running(row: &Row) -> Attempted<LapsedTask> {
    Ok(LapsedTask {
        id: task_id(row, 0)?,
        lane: lane(row, 7)?,
        run_lease: RunLease(get(row, 1)?),
        attempt: number(row, 2)?,
        lapses: number(row, 10)?,
        retry: retry(row, 3)?,
        worker: worker_id(row, 6)?,
    })
}

pub(super) fn time(row: &Row, column: usize) -> Attempted<Timestamp> {
    Timestamp::from_microsecond(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_time(row: &Row, column: usize) -> Attempted<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?
        .map(|micros| {
            Timestamp::from_microsecond(micros).map_err(|error| corrupt(row, column, error))
        })
        .transpose()
}

pub(super) fn json(row: &Row, column: usize) -> Attempted<Json> {
    Json::parse(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_json(row: &Row, column: usize) -> Attempted<Option<Json>> {
    get::<Option<String>>(row, column)?
        .map(|text| Json::parse(text).map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// Something that is stored as JSON text.
pub(super) fn parsed<T: DeserializeOwned>(row: &Row, column: usize) -> Attempted<T> {
    serde_json::from_str(get(row, column)?).map_err(|error| corrupt(row, column, error))
}
