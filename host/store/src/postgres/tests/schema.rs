//! Migrations, and the rules that stand in the schema.

use sqlx::AssertSqlSafe;

use super::*;
use crate::{
    PluginStore, RegistrySnapshot, StoreError,
    postgres::{Migrated, PostgresConfig, migrate, schema::MIGRATIONS},
};

async fn connect_error(url: &str) -> StoreError {
    PostgresStore::connect(&PostgresConfig::new(url))
        .await
        .err()
        .expect("it must not connect")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_migrations_at_once_one_does_the_work() {
    let database = TestDatabase::empty().await;
    let running: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            tokio::spawn(async move { migrate(&url).await.unwrap() })
        })
        .collect();
    let mut applied = 0;
    for migration in running {
        let Migrated { to, applied: new, .. } = migration.await.unwrap();
        assert!(to > 0);
        applied += new;
    }
    let all = migrate(&database.url).await.unwrap();
    assert_eq!(applied as usize, MIGRATIONS.iter().count());
    assert_eq!((all.from, all.applied), (all.to, 0));
    database.store().await.ping().await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date_with_its_tasks() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connection().await;
    MIGRATIONS.run_to(1, &mut connection).await.unwrap();
    let old = "insert into tasks (id, tenant, task_type, state, priority, max_retries, retry_base_ms, retry_cap_ms, created_at, run_at,
                                  input)
               values (gen_random_uuid(), 'default', 'work', 'pending', 3, 3, 1000, 1000, 0, 0, '1')";
    sqlx::query(old).execute(&mut connection).await.unwrap();
    let error = connect_error(&database.url).await;
    assert!(matches!(error, StoreError::Schema(_)), "{error}");
    let migrated = migrate(&database.url).await.unwrap();
    assert_eq!(migrated.from, 1);
    let store = database.store().await;
    let waiting = claim_order(&store, WorkerId::generate(), 10, &QueuePolicy::default()).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!(store.registry().await.unwrap(), RegistrySnapshot::default());
}

#[tokio::test]
async fn an_older_schema_is_refused_with_what_to_run() {
    let database = TestDatabase::empty().await;
    let error = connect_error(&database.url).await;
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("taskforge migrate")),
        "{error}"
    );
    migrate(&database.url).await.unwrap();
    let mut connection = database.connection().await;
    sqlx::raw_sql("update _sqlx_migrations set version = -version")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = connect_error(&database.url).await;
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("taskforge migrate")),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_good_for_a_rolling_upgrade() {
    let database = TestDatabase::new().await;
    let mut connection = database.connection().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values (9999, 'from the future', true, '\\x00', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    let store = database.store().await;
    store.enqueue(&[new_task()]).await.unwrap();
    store.ping().await.unwrap();
    let again = migrate(&database.url).await.unwrap();
    assert_eq!((again.to, again.applied), (9999, 0));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let config = PostgresConfig {
        acquire_timeout: Duration::from_millis(200),
        ..PostgresConfig::new("postgres://nobody@127.0.0.1:1/none")
    };
    let error = PostgresStore::connect(&config).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

/// The state rules stand in the schema too: a statement that breaks one is refused, whoever wrote it.
#[tokio::test]
async fn the_schema_refuses_impossible_tasks() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    store.enqueue(&[new_task()]).await.unwrap();
    let mut connection = database.connection().await;
    for sql in [
        "update tasks set state = 'sleeping'",
        "update tasks set state = 'running'",
        "update tasks set state = 'running', worker = gen_random_uuid(), attempt = 1, run_lease = 1",
        "update tasks set state = 'completed'",
        "update tasks set state = 'failed', finished_at = 1",
        "update tasks set finished_at = 1",
        "update tasks set worker = gen_random_uuid()",
        "update tasks set attempt = -1",
        "update tasks set attempt = 1",
        "update tasks set priority = 0",
        "update tasks set priority = 6",
        "update tasks set progress = 0.5",
        "update tasks set error_kind = 'trap'",
        "update tasks set error_kind = 'trap', error_message = 'x'",
        "update tasks set tenant = null",
    ] {
        let error = sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .expect_err(sql);
        let error = StoreError::from(crate::postgres::fault::Fault::Sql(error));
        assert!(matches!(error, StoreError::Refused(_)), "{sql}: {error}");
    }
    let legal = "update tasks set state = 'running', worker = gen_random_uuid(), attempt = 1, run_lease = 1, started_at = 1,
                 progress = 0.5";
    sqlx::query(legal).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn the_schema_refuses_impossible_plugins() {
    let database = TestDatabase::new().await;
    let mut connection = database.connection().await;
    let plugin =
        "insert into plugins (name, revision, phase, paused, retired) values ('x', 1, 0, false, false)";
    sqlx::query(plugin).execute(&mut connection).await.unwrap();
    for sql in [
        "insert into registry_revision (one, revision) values (2, 1)",
        "update plugins set phase = 1",
        "update plugins set since = 1",
        "update plugins set stable = gen_random_uuid()",
        "update plugins set phase = 1, since = 1, canary = gen_random_uuid(), canary_percent = 1, canary_min_attempts = 1,
                            canary_failure_margin = 0, canary_latency_factor = 1",
        "update plugins set phase = 1, since = 1, stable = gen_random_uuid(), canary = gen_random_uuid(), canary_percent = 1",
        "update plugins set canary_percent = 100",
        "insert into plugin_components (digest, part, bytes) values ('', 0, '')",
        "insert into plugin_usage (version, phase, metric, bucket, count, max) values (gen_random_uuid(), 0, 'failed', 1, 1, 0)",
        "insert into plugin_usage (version, phase, metric, bucket, count, max) values (gen_random_uuid(), 0, 'luck', 0, 1, 0)",
        "insert into plugin_events (plugin, at, kind, who, detail) values ('x', 0, 'forgotten', 'me', '')",
        "insert into plugin_holdings (tenant, plugin, bytes, keys) values ('a', 'x', -1, 0)",
    ] {
        let error = sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .expect_err(sql);
        let error = StoreError::from(crate::postgres::fault::Fault::Sql(error));
        assert!(matches!(error, StoreError::Refused(_)), "{sql}: {error}");
    }
}
