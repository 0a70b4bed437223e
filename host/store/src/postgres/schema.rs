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

/// Where it is written down which migrations were applied. A table of our own: the name that the
/// driver gives it is that of any application with the same driver, which may share the database.
const TABLE: &str = "taskforge_migrations";

/// Where it was written down before.
const SHARED_TABLE: &str = "_sqlx_migrations";

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

/// Brings the schema of a database up to date. Several at once are harmless: they wait for each
/// other, and all but the first find nothing to do. A schema that is newer is left as it is.
///
/// # Errors
/// [`StoreError::Unavailable`] when the database cannot be reached, [`StoreError::Schema`] when a
/// migration fails (its own changes are then rolled back), when one that was applied before is not
/// the one of this binary, or when the database is new and its encoding is not UTF8.
pub async fn migrate(config: &PostgresConfig) -> StoreResult<Migrated> {
    let servers = Servers::of(config)?;
    servers.check_sessions().await?;
    // A migration may take as long as it takes.
    let (mut connection, _) = servers.connect(&servers.search_path()).await?;
    let migrated = run(&mut connection, config.schema.as_deref()).await;
    connection.close().await.ok();
    migrated
}

async fn run(connection: &mut PgConnection, schema: Option<&str>) -> StoreResult<Migrated> {
    // Under the same lock as the migrations, so that of several at once each says what it did
    // itself.
    connection.lock().await.map_err(explain)?;
    let from = applied(connection).await?.unwrap_or(0);
    check_encoding(connection, from == 0).await?;
    take_over(connection).await?;
    let schemas: Vec<_> = schema.map(|name| name.to_owned().into()).into_iter().collect();
    let mut steps = Migrator {
        ignore_missing: true,
        locking: false,
        table_name: TABLE.into(),
        create_schemas: schemas.into(),
        ..Migrator::DEFAULT
    };
    steps.migrations = MIGRATIONS.migrations.clone();
    steps.run_direct(None, &mut *connection, false).await.map_err(explain)?;
    connection.unlock().await.map_err(explain)?;
    let new = MIGRATIONS.iter().filter(|step| step.version > from).count();
    Ok(Migrated {
        from,
        to: applied(connection).await?.unwrap_or(0),
        applied: u32::try_from(new).unwrap_or(u32::MAX),
    })
}

/// Text is UTF-8 everywhere else. A database that cannot hold a character refuses the row that it
/// is in.
async fn check_encoding(connection: &mut PgConnection, is_new: bool) -> Attempted<()> {
    let encoding: String = sqlx::query_scalar("select current_setting('server_encoding')")
        .fetch_one(connection)
        .await?;
    if encoding == "UTF8" {
        return Ok(());
    }
    if is_new {
        return Err(StoreError::Schema(format!(
            "the database's encoding is {encoding}, and TaskForge needs UTF8: make another one with \
             `create database NAME encoding 'UTF8' template template0`"
        ))
        .into());
    }
    tracing::warn!(
        encoding,
        "the database's encoding is not UTF8: what it cannot hold is refused; move to a database in UTF8"
    );
    Ok(())
}

/// Writes down in our own table what was written down in the shared one. The rows stay there too:
/// processes of the version before look for them until they are replaced.
async fn take_over(connection: &mut PgConnection) -> Attempted<()> {
    if exists(connection, TABLE).await? {
        return Ok(());
    }
    let ours = in_shared_table(connection).await?;
    if ours.is_empty() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    sqlx::query("create table taskforge_migrations (like _sqlx_migrations including all)")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "insert into taskforge_migrations select * from _sqlx_migrations where version = any ($1)",
    )
    .bind(&ours)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    tracing::info!(table = TABLE, "the schema's versions were taken over from {SHARED_TABLE}");
    Ok(())
}

/// Of the migrations in the shared table, those that are ours: another application's have other
/// texts.
async fn in_shared_table(connection: &mut PgConnection) -> Attempted<Vec<i64>> {
    if !exists(connection, SHARED_TABLE).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "select version, checksum from _sqlx_migrations where success order by version",
    )
    .fetch_all(connection)
    .await?;
    let mut ours = Vec::new();
    for row in rows {
        let (version, checksum): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let is_ours = |step: &sqlx::migrate::Migration| {
            step.version == version && step.checksum.as_ref() == checksum.as_slice()
        };
        if MIGRATIONS.iter().any(is_ours) {
            ours.push(version);
        }
    }
    Ok(ours)
}

async fn exists(connection: &mut PgConnection, table: &str) -> Attempted<bool> {
    let there = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(connection)
        .await?;
    Ok(there)
}

/// duplicate_table, duplicate_function
const NAME_TAKEN: [&str; 2] = ["42P07", "42723"];

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::ExecuteMigration(sqlx::Error::Database(error), _)
            if error.code().is_some_and(|code| NAME_TAKEN.contains(&code.as_ref())) =>
        {
            StoreError::Schema(format!(
                "{}; something else has that name: give TaskForge a schema of its own (--database-schema)",
                error.message()
            ))
        }
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
    if !exists(connection, TABLE).await? {
        return Ok(in_shared_table(connection).await?.last().copied());
    }
    let row = sqlx::query("select max(version) from taskforge_migrations where success")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

/// Whether the schema is at least the one of this binary. A newer one is good too: migrations keep
/// what the version before them needs, so that a fleet can be upgraded process by process.
pub(super) async fn check(connection: &mut PgConnection) -> Attempted<()> {
    let known = known();
    match applied(connection).await?.unwrap_or(0) {
        0 => {
            Err(StoreError::Schema("the database is empty; run `taskforge migrate`".into()).into())
        }
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

/// [`check`], and whether the server takes writes: a primary that was demoted in a failover does
/// not, and a new connection may find the one that took its place.
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
