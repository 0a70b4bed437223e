//! How much mail versions send.

use taskforge_domain::{TaskType, Timestamp};

use super::{
    driver::{Attempted, Connection},
    param::count,
};
use crate::MailCount;

/// Counts a message if it is within the limit. The hour is the store's, so it is one for the whole
/// fleet; it never runs backwards, or a clock that is set back would give an hour twice.
const COUNT: &str = "
    insert into plugin_mail as sent (plugin, version, hour, messages, bytes)
    select $1, $2, cast($7 as bigint), cast($3 as bigint), cast($4 as bigint)
    where $3 <= cast($5 as bigint) and $4 <= cast($6 as bigint)
    on conflict (plugin, version) do update set
        hour = case when excluded.hour > sent.hour then excluded.hour else sent.hour end,
        messages = excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end,
        bytes = excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end
    where excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end <= $5
      and excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end <= $6";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[COUNT];

pub(super) async fn add(
    connection: &mut Connection,
    plugin: &TaskType,
    version: &str,
    sent: MailCount,
    limit: MailCount,
    now: Timestamp,
) -> Attempted<bool> {
    let counted = sqlx::query(COUNT)
        .bind(plugin.as_str())
        .bind(version)
        .bind(count(sent.messages))
        .bind(count(sent.bytes))
        .bind(count(limit.messages))
        .bind(count(limit.bytes))
        .bind(now.as_second() / 3600)
        .execute(connection)
        .await?;
    Ok(counted.rows_affected() > 0)
}
