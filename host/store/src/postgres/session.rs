//! How a session with the database begins.
//!
//! A pooler such as PgBouncer refuses startup parameters that it does not know, or forgets them. So
//! what must hold in a session is said once it is there, and then it is seen whether it holds. That
//! finds a server that takes no writes too, and a pooler that gives a connection another session
//! with each transaction.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::fault::{Attempted, Fault};

/// Settings of a session, by name.
pub(super) type Settings = Vec<(&'static str, String)>;

/// The number of a server process, which is that of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backend(i32);

/// Says what must hold, and sees that it does.
pub(super) async fn begin(
    connection: &mut PgConnection,
    settings: &Settings,
) -> Attempted<Backend> {
    let said: String = settings
        .iter()
        .map(|(name, value)| format!(", set_config('{name}', {}, false)", literal(value)))
        .collect();
    let asked: String =
        settings.iter().map(|(name, _)| format!(", current_setting('{name}')")).collect();
    let (backend, said) = ask(connection, &said).await?;
    let (found, mut holds) =
        ask(connection, &format!("{asked}, current_setting('transaction_read_only')")).await?;
    let only_reads = holds.pop().is_some_and(|value| value == "on");
    if found != backend || holds != said {
        return Err(Fault::SharedSession);
    }
    if only_reads {
        return Err(Fault::NoConnection("the server only reads".to_owned()));
    }
    Ok(backend)
}

/// The session that this connection has now.
pub(super) async fn backend(connection: &mut PgConnection) -> Attempted<Backend> {
    ask(connection, "").await.map(|(backend, _)| backend)
}

/// Asks in the simple protocol: one message and one answer, of which no part can go elsewhere.
async fn ask(connection: &mut PgConnection, columns: &str) -> Attempted<(Backend, Vec<String>)> {
    let sql = format!("select pg_backend_pid(){columns}");
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let values = (1..row.len()).map(|column| row.try_get(column));
    Ok((Backend(row.try_get(0)?), values.collect::<Result<_, _>>()?))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
