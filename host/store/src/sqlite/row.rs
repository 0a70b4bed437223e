//! Rows into domain types. What does not fit is [`StoreError::Corrupt`] and names its column.

use std::{fmt::Display, time::Duration};

use serde::de::DeserializeOwned;
use sqlx::{Column, Decode, Row, Sqlite, Type, sqlite::SqliteRow};
use taskforge_domain::{
    Digest, Json, Priority, RetryPolicy, Revision, TaskId, Timestamp, VersionId, WorkerId,
};
use uuid::Uuid;

use crate::{StoreError, StoreResult};

pub(super) fn corrupt(row: &SqliteRow, column: usize, why: impl Display) -> StoreError {
    StoreError::Corrupt(format!("column {}: {why}", row.column(column).name()))
}

fn get<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
    row: &'r SqliteRow,
    column: usize,
) -> StoreResult<T> {
    Ok(row.try_get(column)?)
}

fn uuid(row: &SqliteRow, column: usize) -> StoreResult<Uuid> {
    Uuid::from_slice(get::<&[u8]>(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn task_id(row: &SqliteRow, column: usize) -> StoreResult<TaskId> {
    uuid(row, column).map(TaskId::from_uuid)
}

pub(super) fn worker_id(row: &SqliteRow, column: usize) -> StoreResult<WorkerId> {
    uuid(row, column).map(WorkerId::from_uuid)
}

pub(super) fn version_id(row: &SqliteRow, column: usize) -> StoreResult<VersionId> {
    uuid(row, column).map(VersionId::from_uuid)
}

pub(super) fn optional_version_id(
    row: &SqliteRow,
    column: usize,
) -> StoreResult<Option<VersionId>> {
    match get::<Option<&[u8]>>(row, column)? {
        Some(_) => version_id(row, column).map(Some),
        None => Ok(None),
    }
}

pub(super) fn digest(row: &SqliteRow, column: usize) -> StoreResult<Digest> {
    let bytes: [u8; 32] =
        get::<&[u8]>(row, column)?.try_into().map_err(|error| corrupt(row, column, error))?;
    Ok(Digest::from_bytes(bytes))
}

pub(super) fn revision(row: &SqliteRow, column: usize) -> StoreResult<Revision> {
    get(row, column).map(Revision)
}

/// Many ids that a statement gave as one JSON array, in order.
pub(super) fn ids(array: &str) -> StoreResult<Vec<TaskId>> {
    let ids: Vec<Uuid> = serde_json::from_str(array)
        .map_err(|error| StoreError::Corrupt(format!("a list of ids: {error}")))?;
    let mut ids: Vec<_> = ids.into_iter().map(TaskId::from_uuid).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Anything that is stored by its name: a tenant, a task type, a state, a kind.
pub(super) fn word<T: std::str::FromStr<Err: Display>>(
    row: &SqliteRow,
    column: usize,
) -> StoreResult<T> {
    get::<&str>(row, column)?.parse().map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_word<T: std::str::FromStr<Err: Display>>(
    row: &SqliteRow,
    column: usize,
) -> StoreResult<Option<T>> {
    get::<Option<&str>>(row, column)?
        .map(|word| word.parse().map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// A whole number, in the type that the domain gives it.
pub(super) fn number<T: TryFrom<i64, Error: Display>>(
    row: &SqliteRow,
    column: usize,
) -> StoreResult<T> {
    T::try_from(get::<i64>(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn priority(row: &SqliteRow, column: usize) -> StoreResult<Priority> {
    Priority::new(number(row, column)?).map_err(|error| corrupt(row, column, error))
}

/// A retry policy from three columns, the first at `column`.
pub(super) fn retry(row: &SqliteRow, column: usize) -> StoreResult<RetryPolicy> {
    Ok(RetryPolicy {
        max_retries: number(row, column)?,
        base: Duration::from_millis(number(row, column + 1)?),
        cap: Duration::from_millis(number(row, column + 2)?),
    })
}

pub(super) fn time(row: &SqliteRow, column: usize) -> StoreResult<Timestamp> {
    Timestamp::from_microsecond(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_time(row: &SqliteRow, column: usize) -> StoreResult<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?
        .map(|micros| {
            Timestamp::from_microsecond(micros).map_err(|error| corrupt(row, column, error))
        })
        .transpose()
}

pub(super) fn optional_text(row: &SqliteRow, column: usize) -> StoreResult<Option<String>> {
    get(row, column)
}

pub(super) fn text(row: &SqliteRow, column: usize) -> StoreResult<String> {
    get(row, column)
}

pub(super) fn json(row: &SqliteRow, column: usize) -> StoreResult<Json> {
    Json::parse(get(row, column)?).map_err(|error| corrupt(row, column, error))
}

pub(super) fn optional_json(row: &SqliteRow, column: usize) -> StoreResult<Option<Json>> {
    get::<Option<String>>(row, column)?
        .map(|text| Json::parse(text).map_err(|error| corrupt(row, column, error)))
        .transpose()
}

/// Something that is stored as JSON text.
pub(super) fn parsed<T: DeserializeOwned>(row: &SqliteRow, column: usize) -> StoreResult<T> {
    serde_json::from_str(get(row, column)?).map_err(|error| corrupt(row, column, error))
}
