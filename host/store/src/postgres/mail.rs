//! How much mail versions send.

use sqlx::PgConnection;
use taskforge_domain::TaskType;

use super::{fault::Attempted, param::count};
use crate::MailCount;

/// Counts a message if it is within the limit. The hour is the database's, so it is one for the
/// whole fleet; it never runs backwards, or a clock that is set back would give an hour twice.
const COUNT: &str = "
    insert into plugin_mail as sent (plugin, version, hour, messages, bytes)
    select $1, $2, extract(epoch from now())::bigint / 3600, $3::bigint, $4::bigint
    where $3 <= $5::bigint and $4 <= $6::bigint
    on conflict (plugin, version) do update set
        hour = greatest(sent.hour, excluded.hour),
        messages = excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end,
        bytes = excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end
    where excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end <= $5
      and excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end <= $6";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[COUNT];

pub(super) async fn add(
    connection: &mut PgConnection,
    plugin: &TaskType,
    version: &str,
    sent: MailCount,
    limit: MailCount,
) -> Attempted<bool> {
    let counted = sqlx::query(COUNT)
        .bind(plugin.as_str())
        .bind(version)
        .bind(count(sent.messages))
        .bind(count(sent.bytes))
        .bind(count(limit.messages))
        .bind(count(limit.bytes))
        .execute(connection)
        .await?;
    Ok(counted.rows_affected() > 0)
}
