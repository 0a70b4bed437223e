//! Operations that are dropped, and connections that end by themselves.

use super::*;
use crate::{
    Notices, PluginStore, PostgresConfig, RetryOutcome,
    conformance::{World, drops},
};

const IN_TRANSACTION: &str = "
    select count(*) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and state like 'idle in transaction%'";

async fn shaken(database: &TestDatabase, config: &PostgresConfig) -> drops::Told {
    let store = PostgresStore::connect(config).await.unwrap();
    let world =
        World::begin(Fixture { plugins: store.clone(), store: store.clone(), keep: Box::new(()) });
    let told = drops::shake(&Arc::new(world.await)).await;
    // Those that were closed may take a moment to end. Nothing ends a transaction that somebody
    // forgot.
    let mut connection = database.connection().await;
    eventually(async {
        while sqlx::query_scalar::<_, i64>(IN_TRANSACTION).fetch_one(&mut connection).await.unwrap()
            > 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_leaves_no_transaction_open_and_others_see_all_that_was_answered() {
    let database = TestDatabase::new().await;
    let config = PostgresConfig {
        max_connections: PostgresConfig::MIN_CONNECTIONS,
        idle_transaction_timeout: Duration::ZERO,
        ..PostgresConfig::new(&database.url)
    };
    let told = shaken(&database, &config).await;
    // On connections of its own: what stands in a transaction that is still open, nobody else sees.
    let other = database.store().await;
    told.check(&*other, &*other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_the_database_ends_for_being_idle_cost_no_answer() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let notices = Notices::connect(&PostgresConfig::new(&database.url)).await.unwrap();
    let mut heard = notices.listen();
    let limit = format!("alter database {} set idle_session_timeout = '200ms'", database.name());
    let mut connection = database.connection().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut connection).await.unwrap();
    // The sessions from here on have it.
    let store = {
        store.close().await;
        database.store().await
    };
    let patient = Notices::connect(&PostgresConfig::new(&database.url)).await.unwrap();
    let mut heard_patiently = patient.listen();
    let tenant = TenantId::default();
    for round in 0..6_u32 {
        // Below and above the time after which a connection is tried before it is used.
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 300 } else { 1_200 })).await;
        let task = new_task();
        store.enqueue(std::slice::from_ref(&task)).await.unwrap();
        store.cancel(&tenant, task.id, Timestamp::now()).await.unwrap();
        let retried = store.retry(&tenant, task.id, Timestamp::now()).await.unwrap();
        assert!(matches!(retried, RetryOutcome::Requeued(_)), "{retried:?}");
        let claimed = claim(&store, WorkerId::generate(), ClaimBy::Ids(&[task.id])).await;
        assert_eq!(claimed.len(), 1);
        let ordered = new_task();
        store.enqueue(std::slice::from_ref(&ordered)).await.unwrap();
        let policy = QueuePolicy::default();
        assert_eq!(claim_order(&store, WorkerId::generate(), 1, &policy).await.len(), 1);
        store.registry_revision().await.unwrap();
    }
    // Whoever only listens stays connected: an empty notice would say that it was not.
    patient.post(&["hello".to_owned()]).await.unwrap();
    assert_eq!(eventually(heard_patiently.recv()).await.unwrap(), "hello");
    assert_eq!(eventually(heard.recv()).await.unwrap(), "hello");
}

const TERMINATE: &str = "
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and application_name = 'cut'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_an_operator_ends_during_any_operation_make_no_answer_untrue() {
    let database = TestDatabase::new().await;
    let config = PostgresConfig {
        application_name: "cut".into(),
        max_connections: PostgresConfig::MIN_CONNECTIONS,
        ..PostgresConfig::new(&database.url)
    };
    let store = PostgresStore::connect(&config).await.unwrap();
    let world =
        World::begin(Fixture { plugins: store.clone(), store: store.clone(), keep: Box::new(()) });
    let world = Arc::new(world.await);
    let mut connection = database.connection().await;
    let cutter = tokio::spawn(async move {
        loop {
            sqlx::query_scalar::<_, i64>(TERMINATE).fetch_one(&mut connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let told = drops::shake_with(&world, drops::Answers::MayBeMissing).await;
    cutter.abort();
    assert!(cutter.await.unwrap_err().is_cancelled(), "the cutter has failed");
    let other = database.store().await;
    told.check(&*other, &*other).await;
}
