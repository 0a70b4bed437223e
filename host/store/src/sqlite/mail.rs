//! How much mail versions send.

use sqlx::SqliteConnection;
use taskforge_domain::{TaskType, Timestamp};

use super::param::count;
use crate::{MailCount, StoreResult};

/// Counts a message if it is within the limit. The hour is the store's; it never runs backwards, or
/// a clock that is set back would give an hour twice.
const COUNT: &str = "
    insert into plugin_mail as sent (plugin, version, hour, messages, bytes)
    select ?1, ?2, ?7, ?3, ?4 where ?3 <= ?5 and ?4 <= ?6
    on conflict (plugin, version) do update set
        hour = max(sent.hour, excluded.hour),
        messages = excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end,
        bytes = excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end
    where excluded.messages + case when excluded.hour > sent.hour then 0 else sent.messages end <= ?5
      and excluded.bytes + case when excluded.hour > sent.hour then 0 else sent.bytes end <= ?6";

pub(super) async fn add(
    writer: &mut SqliteConnection,
    plugin: &TaskType,
    version: &str,
    sent: MailCount,
    limit: MailCount,
    now: Timestamp,
) -> StoreResult<bool> {
    let counted = sqlx::query(COUNT)
        .bind(plugin.as_str().to_owned())
        .bind(version.to_owned())
        .bind(count(sent.messages))
        .bind(count(sent.bytes))
        .bind(count(limit.messages))
        .bind(count(limit.bytes))
        .bind(now.as_second() / 3600)
        .execute(writer)
        .await?;
    Ok(counted.rows_affected() > 0)
}
