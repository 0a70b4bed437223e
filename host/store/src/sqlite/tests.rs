mod full;
mod locked;
mod migrate;
mod plans;
mod turns;
mod upkeep;

use sqlx::{Connection, Row, SqliteConnection};
use tempfile::TempDir;

use super::*;
use crate::{StoreError, conformance::Fixture};

async fn open() -> Fixture {
    let (folder, store) = fresh().await;
    Fixture { plugins: store.clone(), store, keep: Box::new(folder) }
}

mod rules {
    crate::conformance_suite!(crate::sqlite::tests::open);
}

async fn fresh() -> (TempDir, Arc<SqliteStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("data/taskforge.db")).await.unwrap();
    (folder, store)
}

fn new_task() -> NewTask {
    let task_type = taskforge_domain::TaskType::new("work").unwrap();
    let input = taskforge_domain::Json::from(serde_json::json!(1));
    NewTask::new(TenantId::default(), task_type, input, Timestamp::UNIX_EPOCH)
}

async fn open_error(path: &Path) -> StoreError {
    SqliteStore::open(path).await.err().expect("it must not open")
}

#[cfg(unix)]
#[tokio::test]
async fn its_files_are_its_users_alone() {
    use std::{
        fs::{Permissions, metadata, set_permissions},
        os::unix::fs::PermissionsExt as _,
    };
    let mode = |path: &Path| metadata(path).unwrap().permissions().mode() & 0o777;
    let (folder, store) = fresh().await;
    store.enqueue(&[new_task()]).await.unwrap();
    let data = folder.path().join("data");
    let files = ["taskforge.db", "taskforge.db-wal", "taskforge.db-shm", "taskforge.db.lock"];
    let all_closed = || {
        for name in files {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
    };
    assert_eq!(mode(&data), 0o700);
    all_closed();
    // As an older version left them, with a log that was not written back.
    store.close().await.unwrap();
    drop(store);
    for name in files {
        let path = data.join(name);
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    }
    let store = SqliteStore::open(&data.join("taskforge.db")).await.unwrap();
    store.enqueue(&[new_task()]).await.unwrap();
    all_closed();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let (folder, store) = fresh().await;
    let task = new_task();
    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.enqueue(std::slice::from_ref(&task)).await, Err(StoreError::Closed));
    assert_eq!(store.task(&task.tenant, task.id).await, Err(StoreError::Closed));
    assert!(matches!(
        store.cancel(&task.tenant, task.id, task.created_at).await,
        Err(StoreError::Closed)
    ));
    let store = SqliteStore::open(&folder.path().join("data/taskforge.db")).await.unwrap();
    assert_eq!(store.task(&task.tenant, task.id).await.unwrap().unwrap().id, task.id);
}

#[tokio::test]
async fn a_folder_has_one_owner_and_the_second_is_told_which_folder() {
    let (folder, store) = fresh().await;
    let path = folder.path().join("data/taskforge.db");
    let error = open_error(&path).await.to_string();
    assert!(error.contains(folder.path().join("data").to_str().unwrap()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    store.ping().await.unwrap();
    store.close().await.unwrap();
    SqliteStore::open(&path).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (folder, store) = fresh().await;
    let sql =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
               values (9999, 'from the future', true, x'00', 0)";
    sqlx::query(sql)
        .execute(&mut store.shared.writer.turn().await.unwrap().take().await.unwrap())
        .await
        .unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Schema(_))));
    store.close().await.unwrap();
    let error = open_error(&folder.path().join("data/taskforge.db")).await;
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("newer") && why.contains("9999")),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("create table tasks (id integer)").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let error = open_error(&path).await;
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("another program")),
        "{error}"
    );
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    let tables: i64 = sqlx::query_scalar("select count(*) from sqlite_schema")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "not a database, ".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let error = open_error(&path).await;
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("notes.txt")), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = open_error(&folder.path().join("file/data/taskforge.db")).await;
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("file/data")), "{error}");
}

/// The state rules stand in the schema too: a statement that breaks one is refused, whoever wrote
/// it.
#[tokio::test]
async fn the_schema_refuses_impossible_tasks() {
    let (_folder, store) = fresh().await;
    store.enqueue(&[new_task()]).await.unwrap();
    let mut writer = store.shared.writer.turn().await.unwrap().take().await.unwrap();
    for sql in [
        "update tasks set state = 'sleeping'",
        "update tasks set state = 'running'",
        "update tasks set state = 'running', worker = randomblob(16), attempt = 1, run_lease = 1",
        "update tasks set state = 'completed'",
        "update tasks set state = 'failed', finished_at = 1",
        "update tasks set finished_at = 1",
        "update tasks set worker = randomblob(16)",
        "update tasks set attempt = -1",
        "update tasks set attempt = 1",
        "update tasks set priority = 0",
        "update tasks set priority = 6",
        "update tasks set progress = 0.5",
        "update tasks set error_kind = 'trap'",
        "update tasks set created_at = 'yesterday'",
        "update tasks set id = x'00'",
        "update tasks set tenant = null",
    ] {
        let error = StoreError::from(sqlx::query(sql).execute(&mut writer).await.expect_err(sql));
        assert!(matches!(error, StoreError::Refused(_)), "{sql}: {error}");
    }
    let legal = "update tasks set state = 'running', worker = randomblob(16), attempt = 1, run_lease = 1, started_at = 1,
                 progress = 0.5";
    sqlx::query(legal).execute(&mut writer).await.unwrap();
}

#[tokio::test]
async fn a_commit_is_on_the_disk_before_it_is_answered() {
    let (_folder, store) = fresh().await;
    let mut writer = store.shared.writer.turn().await.unwrap().take().await.unwrap();
    let journal: String =
        sqlx::query_scalar("pragma journal_mode").fetch_one(&mut writer).await.unwrap();
    let synchronous: i64 =
        sqlx::query_scalar("pragma synchronous").fetch_one(&mut writer).await.unwrap();
    assert_eq!((journal.as_str(), synchronous), ("wal", 2), "2 is FULL");
}
