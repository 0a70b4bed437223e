//! Rows into domain types. What does not fit is [`StoreError::Corrupt`] and names its column.

use std::{fmt::Display, time::Duration};

use serde::de::DeserializeOwned;
use sqlx::{Column, Decode, Postgres, Row, Type, postgres::PgRow};
use taskforge_domain::{
    Digest, Json, Lane, Priority, RetryPolicy, TaskId, Timestamp, VersionId, WorkerId,
};
use uuid::Uuid;

use super::fault::{Attempted, Fault};
use crate::{LanedTask, StoreError};

pub(super) fn corrupt(row: &PgRow, column: usize, why: impl Display) -> Fault {
    StoreError::Corrupt(format!("column {}: {why}", row.column(column).name())).into()
}

pub(super) fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    column: usize,
) -> Attempted<T> {
    Ok(row.try_get(column)?)
}

pub(super) fn task_id(row: &PgRow, column: usize) -> Attempted<TaskId> {
    get::<Uuid>(row, column).map(TaskId::from_uuid)
}

pub(super) fn worker_id(row: &PgRow, column: usize) -> Attempted<WorkerId> {
    get::<Uuid>(row, column).map(WorkerId::from_uuid)
}

pub(super) fn version_id(row: &PgRow, column: usize) -> Attempted<VersionId> {
    get::<Uuid>(row, column).map(VersionId::from_uuid)
}

pub(super) fn optional_version_id(row: &PgRow, column: usize) -> Attempted<Option<VersionId>> {
    Ok(get::<Option<Uuid>>(row, column)?.map(VersionId::from_uuid))
}

pub(super) fn digest(row: &PgRow, column: usize) -> Attempted<Digest> {
    let bytes: [u8; 32] =
        get::<&[u8]>(row, column)?.try_into().map_err(|error| corrupt(row, column, error))?;
    Ok(Digest::from_bytes(bytes))
}

/// Anything that is stored by its name: a tenant, a task type, a state, a kind.
pub(super) fn word<T: std::str::FromStr<Err: Display>>(row: &PgRow, column: usize) -> Attempted<T> {
    get::<&str>(row, column)?.parse().map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_word<T: std::str::FromStr<Err: Display>>(
    row: &PgRow,
    column: usize,
) -> Attempted<Option<T>> {
    get::<Option<&str>>(row, column)?
        .map(|word| word.parse().map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// A whole number, in the type that the domain gives it.
pub(super) fn number<T: TryFrom<i64, Error: Display>>(row: &PgRow, column: usize) -> Attempted<T> {
    T::try_from(get::<i64>(row, column)?).map_err(|error| corrupt(row, column, error))
}

/// The same from a narrower column.
pub(super) fn small_number<T: TryFrom<i32, Error: Display>>(
    row: &PgRow,
    column: usize,
) -> Attempted<T> {
    T::try_from(get::<i32>(row, column)?).map_err(|error| corrupt(row, column, error))
}

/// The same from the narrowest.
pub(super) fn tiny_number<T: TryFrom<i16, Error: Display>>(
    row: &PgRow,
    column: usize,
) -> Attempted<T> {
    T::try_from(get::<i16>(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn priority(row: &PgRow, column: usize) -> Attempted<Priority> {
    let level =
        u8::try_from(get::<i16>(row, column)?).map_err(|error| corrupt(row, column, error))?;
    Priority::new(level).map_err(|error| corrupt(row, column, error))
}

/// A retry policy from three columns, the first at `column`.
pub(super) fn retry(row: &PgRow, column: usize) -> Attempted<RetryPolicy> {
    Ok(RetryPolicy {
        max_retries: number(row, column)?,
        base: Duration::from_millis(number(row, column + 1)?),
        cap: Duration::from_millis(number(row, column + 2)?),
    })
}

/// A lane from three columns, the first at `column`.
pub(super) fn lane(row: &PgRow, column: usize) -> Attempted<Lane> {
    Ok(Lane {
        tenant: word(row, column)?,
        task_type: word(row, column + 1)?,
        priority: priority(row, column + 2)?,
    })
}

/// An id and its lane.
pub(super) fn laned(row: &PgRow) -> Attempted<LanedTask> {
    Ok(LanedTask { id: task_id(row, 0)?, lane: lane(row, 1)? })
}

pub(super) fn time(row: &PgRow, column: usize) -> Attempted<Timestamp> {
    Timestamp::from_microsecond(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_time(row: &PgRow, column: usize) -> Attempted<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?
        .map(|micros| {
            Timestamp::from_microsecond(micros).map_err(|error| corrupt(row, column, error))
        })
        .transpose()
}

pub(super) fn json(row: &PgRow, column: usize) -> Attempted<Json> {
    Json::parse(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_json(row: &PgRow, column: usize) -> Attempted<Option<Json>> {
    get::<Option<String>>(row, column)?
        .map(|text| Json::parse(text).map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// Something that is stored as JSON text.
pub(super) fn parsed<T: DeserializeOwned>(row: &PgRow, column: usize) -> Attempted<T> {
    serde_json::from_str(get(row, column)?).map_err(|error| corrupt(row, column, error))
}
