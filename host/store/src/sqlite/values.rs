//! What plugins keep.

use std::collections::BTreeMap;

use sqlx::{
    Row, SqliteConnection, SqliteExecutor, SqlitePool, SqliteTransaction, sqlite::SqliteRow,
};

use super::{
    param::{RowText, arrays, count},
    row,
};
use crate::{
    Kept, KeyQuota, KeySpace, StoreResult,
    plugins::{Holding, first_after, is_seen, sum},
};

const HELD: &str = "select bytes, keys from plugin_holdings where tenant = ?1 and plugin = ?2";

const SET_HOLDING: &str = "
    insert into plugin_holdings (tenant, plugin, bytes, keys) values (?1, ?2, ?3, ?4)
    on conflict (tenant, plugin) do update set bytes = excluded.bytes, keys = excluded.keys";

const GET: &str = "
    select value from plugin_values where tenant = ?1 and plugin = ?2 and bucket = ?3 and key = ?4";

/// How much of it these keys are.
const HELD_BY: &str = "
    select coalesce(sum(length(key) + length(value)), 0), count(*) from plugin_values
    where tenant = ?1 and plugin = ?2 and bucket = ?3 and key in (select unhex(named.value) from jsonb_each(?4) as named)";

const SET: &str = "
    insert into plugin_values (tenant, plugin, bucket, key, value)
    select ?1, ?2, ?3, unhex(given.value ->> 0), unhex(given.value ->> 1) from jsonb_each(?4) as given where true
    on conflict (tenant, plugin, bucket, key) do update set value = excluded.value";

const DELETE: &str = "
    delete from plugin_values
    where tenant = ?1 and plugin = ?2 and bucket = ?3 and key in (select unhex(named.value) from jsonb_each(?4) as named)";

const LIST: &str = "
    select key from plugin_values where tenant = ?1 and plugin = ?2 and bucket = ?3 and key >= ?4
    order by key limit ?5";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[HELD, SET_HOLDING, GET, HELD_BY, SET, DELETE, LIST];

/// A statement whose first three parameters are the key space.
macro_rules! in_space {
    ($statement:expr, $space:expr) => {
        sqlx::query($statement)
            .bind($space.tenant.as_str().to_owned())
            .bind($space.plugin.as_str().to_owned())
            .bind($space.bucket.as_bytes().to_vec())
    };
}

pub(super) async fn get<'e>(
    executor: impl SqliteExecutor<'e>,
    space: &KeySpace,
    key: &str,
) -> StoreResult<Option<Vec<u8>>> {
    let found =
        in_space!(GET, space).bind(key.as_bytes().to_vec()).fetch_optional(executor).await?;
    Ok(found.as_ref().map(|row| row.try_get(0)).transpose()?)
}

pub(super) async fn set(
    mut transaction: SqliteTransaction<'_>,
    space: &KeySpace,
    values: &[(String, Vec<u8>)],
    quota: KeyQuota,
) -> StoreResult<Kept<()>> {
    let values: BTreeMap<_, _> =
        values.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
    let held = held(&mut transaction, space).await?;
    let old = held_by(&mut transaction, space, hex_array(values.keys().copied())).await?;
    let new = Holding::of(values.iter().map(|(key, value)| (*key, *value)));
    let Some(next) = held.replacing(old, new, quota) else {
        return Ok(Kept::OverQuota);
    };
    let rows: Vec<_> =
        values.iter().map(|(key, value)| RowText::new().hex(key).hex(value).finish()).collect();
    for array in arrays(rows.iter().map(String::as_str)) {
        in_space!(SET, space).bind(array).execute(&mut *transaction).await?;
    }
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(()))
}

pub(super) async fn delete(
    mut transaction: SqliteTransaction<'_>,
    space: &KeySpace,
    keys: &[String],
) -> StoreResult<()> {
    let held = held(&mut transaction, space).await?;
    let keys = hex_array(keys.iter().map(String::as_bytes));
    let gone = held_by(&mut transaction, space, keys.clone()).await?;
    if gone.keys > 0 {
        in_space!(DELETE, space).bind(keys).execute(&mut *transaction).await?;
        set_holding(&mut transaction, space, held.without(gone)).await?;
        transaction.commit().await?;
    }
    Ok(())
}

pub(super) async fn list(
    readers: &SqlitePool,
    space: &KeySpace,
    after: Option<&str>,
    limit: u32,
) -> StoreResult<Vec<String>> {
    let rows =
        in_space!(LIST, space).bind(first_after(after)).bind(limit).fetch_all(readers).await?;
    let keys = rows.iter().map(|row| {
        let key: Vec<u8> = row.try_get(0)?;
        String::from_utf8(key).map_err(|error| row::corrupt(row, 0, error))
    });
    keys.collect()
}

pub(super) async fn increment(
    mut transaction: SqliteTransaction<'_>,
    space: &KeySpace,
    key: &str,
    delta: i64,
    quota: KeyQuota,
) -> StoreResult<Kept<i64>> {
    let held = held(&mut transaction, space).await?;
    let old = get(&mut *transaction, space, key).await?;
    let Some(sum) = sum(old.as_deref(), delta) else {
        return Ok(Kept::Mismatch);
    };
    let text = sum.to_string();
    let Some(next) = held.exchanging(key, old.as_deref(), text.as_bytes(), quota) else {
        return Ok(Kept::OverQuota);
    };
    set_one(&mut transaction, space, key, text.as_bytes()).await?;
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(sum))
}

pub(super) async fn swap(
    mut transaction: SqliteTransaction<'_>,
    space: &KeySpace,
    key: &str,
    seen: Option<[u8; 32]>,
    value: &[u8],
    quota: KeyQuota,
) -> StoreResult<Kept<()>> {
    let held = held(&mut transaction, space).await?;
    let old = get(&mut *transaction, space, key).await?;
    if !is_seen(old.as_deref(), seen) {
        return Ok(Kept::Mismatch);
    }
    let Some(next) = held.exchanging(key, old.as_deref(), value, quota) else {
        return Ok(Kept::OverQuota);
    };
    set_one(&mut transaction, space, key, value).await?;
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(()))
}

async fn set_one(
    connection: &mut SqliteConnection,
    space: &KeySpace,
    key: &str,
    value: &[u8],
) -> StoreResult<()> {
    let row = RowText::new().hex(key.as_bytes()).hex(value).finish();
    in_space!(SET, space).bind(format!("[{row}]")).execute(connection).await?;
    Ok(())
}

async fn held(connection: &mut SqliteConnection, space: &KeySpace) -> StoreResult<Holding> {
    let row = sqlx::query(HELD)
        .bind(space.tenant.as_str().to_owned())
        .bind(space.plugin.as_str().to_owned())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map_or_else(|| Ok(Holding::default()), read_holding)
}

async fn held_by(
    connection: &mut SqliteConnection,
    space: &KeySpace,
    keys: String,
) -> StoreResult<Holding> {
    let row = in_space!(HELD_BY, space).bind(keys).fetch_one(connection).await?;
    read_holding(&row)
}

async fn set_holding(
    connection: &mut SqliteConnection,
    space: &KeySpace,
    holding: Holding,
) -> StoreResult<()> {
    sqlx::query(SET_HOLDING)
        .bind(space.tenant.as_str().to_owned())
        .bind(space.plugin.as_str().to_owned())
        .bind(count(holding.bytes))
        .bind(count(holding.keys))
        .execute(connection)
        .await?;
    Ok(())
}

fn read_holding(row: &SqliteRow) -> StoreResult<Holding> {
    Ok(Holding { bytes: row::number(row, 0)?, keys: row::number(row, 1)? })
}

/// A JSON array of byte strings.
fn hex_array<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> String {
    strings.into_iter().fold(RowText::new(), RowText::hex).finish()
}
