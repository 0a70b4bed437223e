//! What plugins keep.
//!
//! Whoever writes first takes the lock of the row that says how much is kept, and only then looks
//! at what is there: what another has committed meanwhile is seen by the statements after it. So
//! quotas and sums hold however many write at once.

use std::collections::BTreeMap;

use super::{
    bulk::set_values,
    driver::{Attempted, Connection, Row, any_id, begin, blobs, for_update},
    param::count,
    row::{self, corrupt},
};
use crate::{
    Kept, KeyQuota, KeySpace,
    plugins::{Holding, first_after, is_seen, sum},
};

/// How much is kept, under a lock.
const HELD: &str = concat!(
    "select bytes, keys from plugin_holdings where tenant = $1 and plugin = $2",
    for_update!()
);

const BEGIN_HOLDING: &str = "
    insert into plugin_holdings (tenant, plugin, bytes, keys) values ($1, $2, 0, 0)
    on conflict (tenant, plugin) do nothing";

const SET_HOLDING: &str =
    "update plugin_holdings set bytes = $3, keys = $4 where tenant = $1 and plugin = $2";

const GET: &str = "
    select value from plugin_values where tenant = $1 and plugin = $2 and bucket = $3 and key = $4";

/// How much of it these keys are.
const HELD_BY: &str = concat!(
    "select cast(coalesce(sum(length(key) + length(value)), 0) as bigint), count(*) from plugin_values
     where tenant = $1 and plugin = $2 and bucket = $3 and key",
    any_id!("$4")
);

const DELETE: &str = concat!(
    "delete from plugin_values where tenant = $1 and plugin = $2 and bucket = $3 and key",
    any_id!("$4")
);

const LIST: &str = "
    select key from plugin_values where tenant = $1 and plugin = $2 and bucket = $3 and key >= $4
    order by key limit $5";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[HELD, SET_HOLDING, GET, HELD_BY, DELETE, LIST];

/// A statement whose first three parameters are the key space.
macro_rules! in_space {
    ($statement:expr, $space:expr) => {
        sqlx::query($statement)
            .bind($space.tenant.as_str())
            .bind($space.plugin.as_str())
            .bind($space.bucket.as_bytes())
    };
}

pub(super) async fn get(
    connection: &mut Connection,
    space: &KeySpace,
    key: &str,
) -> Attempted<Option<Vec<u8>>> {
    let found = in_space!(GET, space).bind(key.as_bytes()).fetch_optional(connection).await?;
    found.as_ref().map(|row| row::get(row, 0)).transpose()
}

pub(super) async fn set(
    connection: &mut Connection,
    space: &KeySpace,
    values: &[(String, Vec<u8>)],
    quota: KeyQuota,
) -> Attempted<Kept<()>> {
    let values: BTreeMap<_, _> =
        values.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
    if values.is_empty() {
        return Ok(Kept::Written(()));
    }
    let mut transaction = begin(connection).await?;
    let held = hold(&mut transaction, space).await?;
    let keys = blobs(values.keys().copied());
    let old = in_space!(HELD_BY, space).bind(keys).fetch_one(&mut *transaction).await?;
    let new = Holding::of(values.iter().map(|(key, value)| (*key, *value)));
    let Some(next) = held.replacing(read_holding(&old)?, new, quota) else {
        return Ok(Kept::OverQuota);
    };
    set_values(&mut transaction, space, &values.into_iter().collect::<Vec<_>>()).await?;
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(()))
}

pub(super) async fn delete(
    connection: &mut Connection,
    space: &KeySpace,
    keys: &[String],
) -> Attempted<()> {
    let mut transaction = begin(connection).await?;
    let Some(held) = held(&mut transaction, space).await? else {
        return Ok(());
    };
    let keys = blobs(keys.iter().map(String::as_bytes));
    let old = in_space!(HELD_BY, space).bind(&keys).fetch_one(&mut *transaction).await?;
    let gone = read_holding(&old)?;
    if gone.keys > 0 {
        in_space!(DELETE, space).bind(&keys).execute(&mut *transaction).await?;
        set_holding(&mut transaction, space, held.without(gone)).await?;
        transaction.commit().await?;
    }
    Ok(())
}

pub(super) async fn list(
    connection: &mut Connection,
    space: &KeySpace,
    after: Option<&str>,
    limit: u32,
) -> Attempted<Vec<String>> {
    let rows = in_space!(LIST, space)
        .bind(first_after(after))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let keys = rows.iter().map(|row| {
        let key = row::get::<Vec<u8>>(row, 0)?;
        String::from_utf8(key).map_err(|error| corrupt(row, 0, error))
    });
    keys.collect()
}

pub(super) async fn increment(
    connection: &mut Connection,
    space: &KeySpace,
    key: &str,
    delta: i64,
    quota: KeyQuota,
) -> Attempted<Kept<i64>> {
    let mut transaction = begin(connection).await?;
    let held = hold(&mut transaction, space).await?;
    let old = get(&mut transaction, space, key).await?;
    let Some(sum) = sum(old.as_deref(), delta) else {
        return Ok(Kept::Mismatch);
    };
    let text = sum.to_string();
    let Some(next) = held.exchanging(key, old.as_deref(), text.as_bytes(), quota) else {
        return Ok(Kept::OverQuota);
    };
    set_values(&mut transaction, space, &[(key.as_bytes(), text.as_bytes())]).await?;
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(sum))
}

pub(super) async fn swap(
    connection: &mut Connection,
    space: &KeySpace,
    key: &str,
    seen: Option<[u8; 32]>,
    value: &[u8],
    quota: KeyQuota,
) -> Attempted<Kept<()>> {
    let mut transaction = begin(connection).await?;
    let held = hold(&mut transaction, space).await?;
    let old = get(&mut transaction, space, key).await?;
    if !is_seen(old.as_deref(), seen) {
        return Ok(Kept::Mismatch);
    }
    let Some(next) = held.exchanging(key, old.as_deref(), value, quota) else {
        return Ok(Kept::OverQuota);
    };
    set_values(&mut transaction, space, &[(key.as_bytes(), value)]).await?;
    set_holding(&mut transaction, space, next).await?;
    transaction.commit().await?;
    Ok(Kept::Written(()))
}

/// Locks what is kept, and says how much it is. `None`: nothing ever was.
async fn held(connection: &mut Connection, space: &KeySpace) -> Attempted<Option<Holding>> {
    let row = sqlx::query(HELD)
        .bind(space.tenant.as_str())
        .bind(space.plugin.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_holding).transpose()
}

/// The same for whoever is about to keep something.
async fn hold(connection: &mut Connection, space: &KeySpace) -> Attempted<Holding> {
    if let Some(held) = held(connection, space).await? {
        return Ok(held);
    }
    sqlx::query(BEGIN_HOLDING)
        .bind(space.tenant.as_str())
        .bind(space.plugin.as_str())
        .execute(&mut *connection)
        .await?;
    Ok(held(connection, space).await?.unwrap_or_default())
}

async fn set_holding(
    connection: &mut Connection,
    space: &KeySpace,
    holding: Holding,
) -> Attempted<()> {
    sqlx::query(SET_HOLDING)
        .bind(space.tenant.as_str())
        .bind(space.plugin.as_str())
        .bind(count(holding.bytes))
        .bind(count(holding.keys))
        .execute(connection)
        .await?;
    Ok(())
}

fn read_holding(row: &Row) -> Attempted<Holding> {
    Ok(Holding { bytes: row::number(row, 0)?, keys: row::number(row, 1)? })
}
