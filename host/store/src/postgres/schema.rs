//! The schema and its versions.

use sqlx::{
    Connection, PgConnection, Row,
    migrate::{Migrate, MigrateError, Migrator},
};

use super::{
    connect::Servers,
    fault::{Attempted, Fault},
};
use crate::{PostgresConfig, StoreError, StoreResult};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// What [`migrate`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before; 0 for an empty database.
    pub from: i64,
    /// Its version now. Above what this binary knows, if a newer one has been here.
    pub to: i64,
    /// How many migrations were applied.
    pub applied: u32,
}

/// Brings the schema of a database up to date. Several at once are harmless: they wait for each other, and all but the first find
/// nothing to do. A schema that is newer is left as it is.
///
/// # Errors
/// [`StoreError::Unavailable`] when the database cannot be reached, [`StoreError::Schema`] when a migration fails (its own changes are
/// then rolled back) or one that was applied before is not the one of this binary.
pub async fn migrate(url: &str) -> StoreResult<Migrated> {
    let servers = Servers::of(&PostgresConfig::new(url))?;
    servers.check_sessions().await?;
    // A migration may take as long as it takes.
    let (mut connection, _) = servers.connect(&Vec::new()).await?;
    let migrated = run(&mut connection).await;
    connection.close().await.ok();
    migrated
}

async fn run(connection: &mut PgConnection) -> StoreResult<Migrated> {
    // Under the same lock as the migrations, so that of several at once each says what it did itself.
    connection.lock().await.map_err(explain)?;
    let from = applied(connection).await?.unwrap_or(0);
    let mut steps = Migrator {
        ignore_missing: true,
        locking: false,
        ..Migrator::DEFAULT
    };
    steps.migrations = MIGRATIONS.migrations.clone();
    steps
        .run_direct(None, &mut *connection, false)
        .await
        .map_err(explain)?;
    connection.unlock().await.map_err(explain)?;
    let new = MIGRATIONS.iter().filter(|step| step.version > from).count();
    Ok(Migrated {
        from,
        to: applied(connection).await?.unwrap_or(0),
        applied: u32::try_from(new).unwrap_or(u32::MAX),
    })
}

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match StoreError::from(Fault::Sql(error)) {
                StoreError::Refused(why) => StoreError::Schema(why),
                error => error,
            }
        }
        error => StoreError::Schema(error.to_string()),
    }
}

/// The version that this binary was built for.
fn known() -> i64 {
    MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0)
}

/// The latest version that was applied; `None` if none ever was.
async fn applied(connection: &mut PgConnection) -> Attempted<Option<i64>> {
    let there: bool = sqlx::query("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if !there {
        return Ok(None);
    }
    let row = sqlx::query("select max(version) from _sqlx_migrations where success")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

/// Whether the schema is at least the one of this binary. A newer one is good too: migrations keep what the version before them needs, so
/// that a fleet can be upgraded process by process.
pub(super) async fn check(connection: &mut PgConnection) -> Attempted<()> {
    let known = known();
    match applied(connection).await?.unwrap_or(0) {
        0 => Err(StoreError::Schema("the database is empty; run `taskforge migrate`".into()).into()),
        version if version < known => Err(StoreError::Schema(format!(
            "it has version {version} and this taskforge needs {known}; run `taskforge migrate`"
        ))
        .into()),
        version if version > known => {
            tracing::warn!(
                schema.version = version,
                schema.known = known,
                "the database schema is of a newer taskforge"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// [`check`], and whether the server takes writes: a primary that was demoted in a failover does not,
/// and a new connection may find the one that took its place.
pub(super) async fn check_writable(connection: &mut PgConnection) -> Attempted<()> {
    check(connection).await?;
    let only_reads: bool = sqlx::query("select current_setting('transaction_read_only')::boolean")
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    if only_reads {
        return Err(Fault::NoConnection("the server only reads".to_owned()));
    }
    Ok(())
}
