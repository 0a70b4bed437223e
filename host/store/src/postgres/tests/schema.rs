//! Migrations, and the rules that stand in the schema.

use sqlx::AssertSqlSafe;

use super::*;
use crate::{
    PluginStore, RegistrySnapshot, StoreError,
    postgres::{Migrated, PostgresConfig, migrate, schema::MIGRATIONS},
};

async fn connect_error(url: &str) -> StoreError {
    PostgresStore::connect(&PostgresConfig::new(url)).await.err().expect("it must not connect")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_migrations_at_once_one_does_the_work() {
    let database = TestDatabase::empty().await;
    let running: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            tokio::spawn(async move { migrate(&PostgresConfig::new(&url)).await.unwrap() })
        })
        .collect();
    let mut applied = 0;
    for migration in running {
        let Migrated { to, applied: new, .. } = migration.await.unwrap();
        assert!(to > 0);
        applied += new;
    }
    let all = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
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
    let migrated = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    assert_eq!(migrated.from, 1);
    let store = database.store().await;
    let waiting = claim_order(&store, WorkerId::generate(), 10, &QueuePolicy::default()).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!(store.registry().await.unwrap(), RegistrySnapshot::default());
}

/// What a version before this one wrote down, in the table that any application with the same
/// driver uses.
async fn migrate_as_before(connection: &mut sqlx::PgConnection, to: i64) {
    MIGRATIONS.run_to(to, connection).await.unwrap();
}

#[tokio::test]
async fn what_was_written_down_in_the_shared_table_is_taken_over_and_stays_there() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connection().await;
    migrate_as_before(&mut connection, 5).await;
    let theirs =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                  values (20260101, 'of another application', true, '\\x00', 0)";
    sqlx::query(theirs).execute(&mut connection).await.unwrap();
    let error = connect_error(&database.url).await;
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("version 5")), "{error}");
    let migrated = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    let newest = MIGRATIONS.iter().map(|step| step.version).max().unwrap();
    assert_eq!((migrated.from, migrated.to), (5, newest));
    database.store().await.enqueue(&[new_task()]).await.unwrap();
    let shared: Vec<i64> =
        sqlx::query_scalar("select version from _sqlx_migrations order by version")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(shared, [1, 2, 3, 4, 5, 20_260_101], "a process of before reads it");
    let again = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    assert_eq!((again.from, again.applied), (newest, 0));
}

#[tokio::test]
async fn the_migrations_of_another_application_do_not_matter() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connection().await;
    let theirs = "create table _sqlx_migrations (version bigint primary key, description text not null,
                      installed_on timestamptz not null default now(), success boolean not null,
                      checksum bytea not null, execution_time bigint not null);
                  insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                  values (1, 'theirs', true, '\\x0123', 0), (2, 'theirs too', false, '\\x45', 0),
                         (20260101, 'and another', true, '\\x67', 0)";
    sqlx::raw_sql(theirs).execute(&mut connection).await.unwrap();
    let error = connect_error(&database.url).await;
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("empty")), "{error}");
    let migrated = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    assert_eq!(migrated.from, 0);
    let store = database.store().await;
    store.enqueue(&[new_task()]).await.unwrap();
    store.ping().await.unwrap();
    let theirs: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(theirs, 3, "untouched");
}

#[tokio::test]
async fn a_schema_of_its_own_keeps_it_apart_from_tables_of_the_same_names() {
    let database = TestDatabase::empty().await;
    let mut connection = database.connection().await;
    sqlx::raw_sql("create table tasks (mine integer); insert into tasks values (1)")
        .execute(&mut connection)
        .await
        .unwrap();
    let shared = PostgresConfig::new(&database.url);
    let error = migrate(&shared).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("--database-schema")),
        "{error}"
    );
    let own = PostgresConfig {
        schema: Some("taskforge".into()),
        max_connections: PostgresConfig::MIN_CONNECTIONS,
        ..shared.clone()
    };
    migrate(&own).await.unwrap();
    let store = PostgresStore::connect(&own).await.unwrap();
    store.enqueue(&new_tasks(3)).await.unwrap();
    let worker = WorkerId::generate();
    let claimed = claim_order(&store, worker, 10, &QueuePolicy::default()).await;
    store.complete(&completions(&claimed, worker)).await.unwrap();
    store
        .upkeep(None, Timestamp::now() + Duration::from_secs(40 * 24 * 3600), Duration::ZERO)
        .await
        .unwrap();
    store.ping().await.unwrap();
    // The first attempt got no further than to the table in which it would have been written down.
    let found: (i64, i64) = sqlx::query_as(
        "select (select count(*) from public.tasks),
                (select count(*) from pg_tables where schemaname = 'public' and tablename <> 'taskforge_migrations')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(found, (1, 1), "nothing of ours is among what was there");
    let bad = PostgresConfig { schema: Some("x, public".into()), ..shared };
    let error = migrate(&bad).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn an_older_schema_is_refused_with_what_to_run() {
    let database = TestDatabase::empty().await;
    let error = connect_error(&database.url).await;
    assert!(
        matches!(&error, StoreError::Schema(why) if why.contains("taskforge migrate")),
        "{error}"
    );
    migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    let mut connection = database.connection().await;
    sqlx::raw_sql("update taskforge_migrations set version = -version")
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
    let newer =
        "insert into taskforge_migrations (version, description, success, checksum, execution_time)
                 values (9999, 'from the future', true, '\\x00', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    let store = database.store().await;
    store.enqueue(&[new_task()]).await.unwrap();
    store.ping().await.unwrap();
    let again = migrate(&PostgresConfig::new(&database.url)).await.unwrap();
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

/// The state rules stand in the schema too: a statement that breaks one is refused, whoever wrote
/// it.
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
        let error = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect_err(sql);
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
    let plugin = "insert into plugins (name, revision, phase, paused, retired) values ('x', 1, 0, false, false)";
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
