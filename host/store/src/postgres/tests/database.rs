//! A database for each test.
//!
//! The server is one that the tests start for themselves. Migrations are run once, into a template
//! that each test's database is a copy of.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use taskforge_testing::server::Postgres;
use tokio::sync::Mutex;

use crate::{PostgresConfig, PostgresStore, postgres::migrate};

pub(super) fn server() -> String {
    Postgres::shared().url().to_owned()
}

/// A database that is dropped with its last handle.
pub(super) struct TestDatabase {
    pub(super) url: String,
    name: String,
    _template: Option<Arc<TestDatabase>>,
}

async fn on_server(statement: String) {
    let mut server = PgConnection::connect(&server()).await.expect("the server answers");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut server).await.unwrap();
}

impl TestDatabase {
    /// An empty database with the schema of this binary.
    pub(super) async fn new() -> Self {
        static TEMPLATE: Mutex<Weak<TestDatabase>> = Mutex::const_new(Weak::new());
        let template = {
            let mut current = TEMPLATE.lock().await;
            match current.upgrade() {
                Some(template) => template,
                None => {
                    let template = Arc::new(Self::create(None, "").await);
                    migrate(&PostgresConfig::new(&template.url)).await.unwrap();
                    *current = Arc::downgrade(&template);
                    template
                }
            }
        };
        Self::create(Some(template), "").await
    }

    /// A database without a schema.
    pub(super) async fn empty() -> Self {
        Self::create(None, "").await
    }

    /// The same in another encoding than UTF8.
    pub(super) async fn in_encoding(name: &str) -> Self {
        Self::create(None, &format!(" encoding '{name}' locale 'C' template template0")).await
    }

    async fn create(template: Option<Arc<Self>>, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("taskforge_test_{}_{number}", std::process::id());
        let copied = template
            .as_ref()
            .map_or_else(String::new, |template| format!(" template {}", template.name));
        on_server(format!("create database {name}{copied}{options}")).await;
        let mut url = server();
        url.truncate(url.rfind('/').unwrap());
        Self { url: format!("{url}/{name}"), name, _template: template }
    }

    pub(super) async fn store(&self) -> Arc<PostgresStore> {
        let config = PostgresConfig {
            // Tests run side by side on a server of a hundred connections.
            max_connections: PostgresConfig::MIN_CONNECTIONS,
            ..PostgresConfig::new(&self.url)
        };
        PostgresStore::connect(&config).await.unwrap()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let statement = format!("drop database if exists {} with (force)", self.name);
        // A test's runtime may be ending, and cannot be waited for from here.
        let dropping = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(on_server(statement));
        });
        if dropping.join().is_err() && !std::thread::panicking() {
            panic!("{} is left behind", self.name);
        }
    }
}
