//! Poolers in between, several servers, and addresses that are hard to write.

use taskforge_testing::server::{PgBouncer, Postgres};

use super::*;
use crate::{
    Notices, PostgresConfig, StoreError,
    postgres::{Scratch, connect::Servers, migrate},
};

/// The port of the server that the tests share.
fn port() -> u16 {
    let url = super::database::server();
    let (_, rest) = url.rsplit_once(':').unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

fn pooler(mode: &str) -> Option<PgBouncer> {
    PgBouncer::start(port(), mode)
}

async fn works(url: &str) {
    migrate(&PostgresConfig::new(url)).await.unwrap();
    let config = PostgresConfig::new(url);
    let store = PostgresStore::connect(&config).await.unwrap();
    let task = new_task();
    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
    let worker = WorkerId::generate();
    let claimed = claim(&store, worker, ClaimBy::Ids(&[task.id])).await;
    let commits = store.complete(&completions(&claimed, worker)).await.unwrap();
    assert_eq!(commits, [crate::Commit::Committed]);
    let notices = Notices::connect(&config).await.unwrap();
    let mut heard = notices.listen();
    notices.post(&["hello".to_owned()]).await.unwrap();
    assert_eq!(eventually(heard.recv()).await.unwrap(), "hello");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_of_sessions_serves_and_what_must_hold_in_a_session_holds() {
    let Some(pooler) = pooler("session") else { return };
    let database = TestDatabase::empty().await;
    let url = pooler.url(database.name());
    works(&url).await;
    let config =
        PostgresConfig { statement_timeout: Duration::from_secs(3), ..PostgresConfig::new(&url) };
    let servers = Servers::of(&config).unwrap();
    let settings = servers.settings(&[("enable_nestloop", "off"), ("work_mem", "32MB")]);
    let (mut connection, _) = servers.connect(&settings).await.unwrap();
    for (name, value) in [
        ("statement_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("jit", "off"),
        ("enable_nestloop", "off"),
        ("work_mem", "32MB"),
    ] {
        let found: String = sqlx::query_scalar("select current_setting($1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(found, value, "{name}");
    }
    let store = PostgresStore::connect(&config).await.unwrap();
    let mut other = database.connection().await;
    sqlx::raw_sql("begin; lock table tasks in access exclusive mode")
        .execute(&mut other)
        .await
        .unwrap();
    let answer = store.enqueue(&[new_task()]).await;
    assert!(
        matches!(&answer, Err(StoreError::Unavailable(why)) if why.contains("statement timeout")),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_is_refused_by_name() {
    for mode in ["transaction", "statement"] {
        let Some(pooler) = pooler(mode) else { return };
        let database = TestDatabase::new().await;
        let url = pooler.url(database.name());
        // However many look at once.
        let connecting: Vec<_> = (0..4)
            .map(|_| {
                let config = PostgresConfig::new(&url);
                tokio::spawn(async move { PostgresStore::connect(&config).await.err() })
            })
            .collect();
        for connecting in connecting {
            let error = connecting.await.unwrap().expect("it must not connect");
            assert!(
                matches!(&error, StoreError::Misconfigured(why)
                    if why.contains("PgBouncer") && why.contains("pool_mode = session")),
                "{mode}: {error}"
            );
        }
        let error = migrate(&PostgresConfig::new(&url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured(_)), "{mode}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv6_address_and_unusual_names_are_as_good_as_others() {
    let postgres = Postgres::start();
    let (port, database) = (postgres.port(), "we ird/#?%@:ü");
    postgres.sql("postgres", &format!("create database \"{database}\""));
    postgres.sql("postgres", "create role \"us/er@ö %41\" superuser login password 'p#/:@%2F'");
    let file = postgres.sql("postgres", "show hba_file");
    // From the next session on everybody is asked for a password.
    let ask = format!("copy (select 'host all all all scram-sha-256') to '{file}'");
    postgres.sql("postgres", &ask);
    postgres.sql("postgres", "select pg_reload_conf()");
    for host in ["[::1]", "127.0.0.1", "localhost"] {
        if host == "[::1]" && std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped: this machine has no IPv6");
            continue;
        }
        let url = format!(
            "postgres://us%2Fer%40ö %2541:p#%2F:@%252F@{host}:{port}/we%20ird%2F#%3F%25%40:%C3%BC"
        );
        works(&url).await;
        let scratch = Scratch::create(&url).await.unwrap();
        works(scratch.url()).await;
        scratch.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_the_one_that_takes_writes_is_used() {
    let database = TestDatabase::empty().await;
    let (good, name) = (port(), database.name());
    // Nobody listens, nobody has the database, and one only reads.
    let absent = taskforge_testing::server::free_port();
    let reading = Postgres::start();
    reading.sql("postgres", &format!("create database {name}"));
    reading.sql("postgres", "alter system set default_transaction_read_only = on");
    reading.sql("postgres", "select pg_reload_conf()");
    let url = format!(
        "postgres://postgres@127.0.0.1:{absent},127.0.0.1:{},localhost:{good}/{name}?target_session_attrs=read-write",
        reading.port()
    );
    works(&url).await;
    // None that takes writes: each says why.
    let url = format!("postgres://postgres@127.0.0.1:{absent},127.0.0.1:{}/{name}", reading.port());
    let error = PostgresStore::connect(&PostgresConfig::new(&url)).await.err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unavailable(_)), "{text}");
    assert!(
        text.contains("Connection refused")
            && text.contains("only reads")
            && text.contains(&absent.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn why_there_is_no_connection_is_said_at_once() {
    let refused =
        format!("postgres://nobody@127.0.0.1:{}/x", taskforge_testing::server::free_port());
    let wrong_role = format!("postgres://nobody@127.0.0.1:{}/postgres", port());
    for (url, why) in [(refused, "Connection refused"), (wrong_role, "nobody")] {
        let config = PostgresConfig {
            // What can be told is told before this.
            acquire_timeout: Duration::from_secs(600),
            ..PostgresConfig::new(&url)
        };
        let error = PostgresStore::connect(&config).await.err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_take_turns_on_few_connections_and_give_them_up_when_they_are_idle_or_closed() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.counts().await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let mut other = database.connection().await;
    let sessions = "select count(*) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid()";
    let open: i64 = sqlx::query_scalar(sessions).fetch_one(&mut other).await.unwrap();
    assert!((1..=i64::from(PostgresConfig::MIN_CONNECTIONS)).contains(&open), "{open}");
    store.close().await;
    drop(store);
    eventually(async {
        while sqlx::query_scalar::<_, i64>(sessions).fetch_one(&mut other).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
