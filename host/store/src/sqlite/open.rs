//! The file, its lock, its settings, its schema.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::private;
use crate::{StoreError, StoreResult};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// What the first migration writes into the file's header.
const APPLICATION_ID: i64 = 1_413_894_727;

/// Readers never block the writer or each other, and each is a thread; a list or two at a time is
/// what an embedded server sees.
const READERS: u32 = 4;

/// The right to use a database file, held until it is dropped. The database's own locks are not
/// enough: they would let two processes take turns, and each would sweep the other's work.
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    pub(super) fn take(database: &Path) -> StoreResult<Self> {
        let folder = folder_of(database);
        private::folder(folder).map_err(|error| {
            StoreError::Unavailable(format!(
                "cannot create the data folder {}: {error}",
                folder.display()
            ))
        })?;
        let path = with_suffix(database, ".lock");
        let cannot = |error: std::io::Error| {
            StoreError::Unavailable(format!("cannot lock {}: {error}", path.display()))
        };
        let mut file = private::file(&path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let owner = match file.read_to_string(&mut owner) {
                    Ok(_) if !owner.trim().is_empty() => format!(" (process {})", owner.trim()),
                    _ => String::new(),
                };
                return Err(StoreError::Unavailable(format!(
                    "the data folder {} is in use by another taskforge{owner}; stop it, or use another folder",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        // For the message above; the lock itself is the kernel's and ends with the process.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(cannot)?;
        Ok(Self { _file: file })
    }
}

fn folder_of(database: &Path) -> &Path {
    match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit is on the disk before it is answered. NORMAL would lose the last commits
        // with the power.
        .synchronous(SqliteSynchronous::Full)
        // Nobody else writes; the wait is for a checkpoint or a backup tool.
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(false)
        .pragma("temp_store", "memory")
        .statement_cache_capacity(64)
        // Rows cross from the connection's thread through a channel; a batch of claims should not
        // stop halfway.
        .row_buffer_size(1024)
        .disable_statement_logging()
}

/// How long a write waits for somebody else's lock: for a checkpoint or a short look with another
/// tool. Clients are answered, and finished attempts are committed later.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the connection that writes, creates the file if there is none, and brings the schema up to
/// date.
pub(super) async fn writer(path: &Path) -> StoreResult<SqliteConnection> {
    // SQLite gives its log and its index the mode of the database.
    for file in [path.to_owned(), with_suffix(path, "-wal"), with_suffix(path, "-shm")] {
        private::database_file(&file, file == path).map_err(|error| {
            StoreError::Unavailable(format!("cannot keep {} to its user: {error}", file.display()))
        })?;
    }
    let options = writer_options(path).create_if_missing(true).page_size(PAGE_SIZE);
    let mut connection = connect(path, options).await?;
    migrate(path, &mut connection).await?;
    // Whoever opens the file knows that its leader is gone, because the file has one owner.
    sqlx::query("update leadership set leader = null where leader is not null")
        .execute(&mut connection)
        .await?;
    // From here on somebody waits for each answer.
    sqlx::query(sqlx::AssertSqlSafe(format!("pragma busy_timeout = {}", LOCK_TIMEOUT.as_millis())))
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// Opens another connection that writes, in place of one that was lost. The file must be there: an
/// empty new one in the place of one that somebody has removed would look as if there had never
/// been a task.
pub(super) async fn writer_again(path: &Path) -> StoreResult<SqliteConnection> {
    connect(path, writer_options(path).busy_timeout(LOCK_TIMEOUT)).await
}

fn writer_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        // Negative: kibibytes.
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", WAL_PAGES.to_string())
        .thread_name(|_| "taskforge-store-write".to_owned())
}

async fn connect(path: &Path, options: SqliteConnectOptions) -> StoreResult<SqliteConnection> {
    options.connect().await.map_err(|error| explain(path, error.into()))
}

const PAGE_SIZE: u32 = 4096;
/// A checkpoint copies each changed page once, however often it was written since the last: rarer
/// checkpoints copy less.
const WAL_PAGES: u32 = 4000;

/// Opens the connections that read.
pub(super) async fn readers(path: &Path) -> StoreResult<SqlitePool> {
    let options = options(path)
        .pragma("query_only", "on")
        .pragma("cache_size", "-8192")
        .thread_name(|n| format!("taskforge-store-read-{n}"));
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(10))
        .test_before_acquire(false)
        // One that is left in a transaction would show for ever what was there when that began.
        .after_release(|connection, _| {
            Box::pin(async move {
                Ok(connection.ping().await.is_ok() && !connection.is_in_transaction())
            })
        })
        .connect_with(options)
        .await
        .map_err(|error| explain(path, error.into()))
}

async fn migrate(path: &Path, connection: &mut SqliteConnection) -> StoreResult<()> {
    let application: i64 =
        sqlx::query_scalar("pragma application_id").fetch_one(&mut *connection).await?;
    // The table of migrations is made before the first migration, which sets the application id: a
    // crash may fall between them.
    let foreign: i64 = sqlx::query_scalar(
        "select count(*) from sqlite_schema where tbl_name <> '_sqlx_migrations'",
    )
    .fetch_one(&mut *connection)
    .await?;
    if application != APPLICATION_ID && foreign > 0 {
        return Err(StoreError::Schema(format!(
            "{} is a database of another program",
            path.display()
        )));
    }
    MIGRATIONS.run(connection).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => explain(path, error.into()),
        MigrateError::VersionMissing(version) => StoreError::Schema(format!(
            "{} was last used by a newer taskforge (its schema has version {version}, this one knows versions up to {})",
            path.display(),
            latest_version()
        )),
        error => StoreError::Schema(format!("{}: {error}", path.display())),
    })
}

fn latest_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Whether the database answers and its schema is the one of this binary.
pub(super) async fn check(connection: &mut SqliteConnection) -> StoreResult<()> {
    let version: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(connection)
            .await?;
    match version.unwrap_or(0) {
        version if version == latest_version() => Ok(()),
        version => {
            Err(StoreError::Schema(format!("it has version {version}, not {}", latest_version())))
        }
    }
}

/// Names the file in errors that are about it.
fn explain(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => {
            StoreError::Unavailable(format!("{}: {why}", path.display()))
        }
        StoreError::Corrupt(why) => {
            StoreError::Schema(format!("{} is not a taskforge database: {why}", path.display()))
        }
        error => error,
    }
}
