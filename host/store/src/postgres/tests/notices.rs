//! Word between processes.

use super::*;
use crate::{
    StoreError,
    postgres::{Notices, PostgresConfig},
};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_notice_reaches_every_process() {
    let database = TestDatabase::new().await;
    let config = PostgresConfig::new(&database.url);
    let (one, other) =
        (Notices::connect(&config).await.unwrap(), Notices::connect(&config).await.unwrap());
    let mut heard = [one.listen(), other.listen(), other.listen()];
    one.post(&texts(&["first", "second"])).await.unwrap();
    other.post(&texts(&["thïrd"])).await.unwrap();
    for heard in &mut heard {
        for expected in ["first", "second", "thïrd"] {
            assert_eq!(eventually(heard.recv()).await.unwrap(), expected);
        }
    }
    one.post(&[]).await.unwrap();
    for bad in [String::new(), "a\0b".into(), "x".repeat(8_000)] {
        assert!(matches!(one.post(&[bad]).await, Err(StoreError::Refused(_))));
    }
    one.post(&["x".repeat(7_999)]).await.unwrap();
}

#[tokio::test]
async fn after_a_loss_an_empty_notice_says_that_some_may_be_missing() {
    let database = TestDatabase::new().await;
    let notices = Notices::connect(&PostgresConfig::new(&database.url)).await.unwrap();
    let mut heard = notices.listen();
    let mut connection = database.connection().await;
    let listener = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where datname = current_database() and query ilike 'listen%'";
    let cut: i64 = sqlx::query_scalar(listener).fetch_one(&mut connection).await.unwrap();
    assert_eq!(cut, 1);
    assert_eq!(eventually(heard.recv()).await.unwrap(), "");
    notices.post(&texts(&["after"])).await.unwrap();
    assert_eq!(eventually(heard.recv()).await.unwrap(), "after");
}
