//! The plans that the hot statements stand on. A scan of a table is the kind of mistake that no
//! small test feels.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::super::{
    bulk, claim, collect, complete, components, connect, driver, enqueue, mail, order, outlook,
    progress, read, registry, secrets, sweep, usage, values, versions, workers,
};
use super::database::TestDatabase;

/// The plan of a statement whatever its parameters are, in this session.
async fn generic_plan(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    let prepare = format!("prepare hot as {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
    let count: i32 = sqlx::query_scalar(
        "select cardinality(parameter_types) from pg_prepared_statements where name = 'hot'",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let nulls = vec!["null"; usize::try_from(count).unwrap()].join(", ");
    let arguments = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
    let explain = format!("explain (costs off) execute hot{arguments}");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("deallocate hot").execute(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn session(database: &TestDatabase, settings: &[(&str, &str)]) -> PgConnection {
    let mut connection = database.connection().await;
    for (name, value) in settings.iter().chain(&[("plan_cache_mode", "force_generic_plan")]) {
        sqlx::query("select set_config($1, $2, false)")
            .bind(name)
            .bind(value)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection
}

fn is_table(name: &str) -> bool {
    ["tasks", "attempts", "events", "plugin"].iter().any(|table| name.starts_with(table))
}

/// The indexes and the tables that a plan reads.
fn scans(plan: &[String]) -> Vec<(String, String)> {
    plan.iter()
        .filter_map(|step| {
            let (how, what) = step.trim_start_matches([' ', '-', '>']).split_once(" on ")?;
            let table = what.split(' ').next()?;
            (how.contains("Scan") && is_table(table)).then(|| (how.to_owned(), table.to_owned()))
        })
        .collect()
}

/// Planned on tables that are empty and known to be, the worst time to plan.
async fn empty_and_analysed() -> TestDatabase {
    let database = TestDatabase::new().await;
    let mut connection = database.connection().await;
    sqlx::raw_sql("vacuum analyze").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    database
}

#[tokio::test]
async fn what_is_done_by_ids_goes_through_the_primary_key() {
    let database = empty_and_analysed().await;
    let mut connection = session(&database, connect::HOT).await;
    for sql in [&[claim::TAKE, progress::REPORT, enqueue::INSERT], complete::STATEMENTS].concat() {
        let plan = generic_plan(&mut connection, sql).await;
        for (how, table) in scans(&plan) {
            assert!(
                how.starts_with("Index") && how.contains("_pkey"),
                "{table}: {how}\n{sql}\n{}",
                plan.join("\n")
            );
        }
        assert!(
            !plan.iter().any(|step| step.contains("Nested Loop")),
            "the cost of a batch must not grow with its square\n{sql}\n{}",
            plan.join("\n")
        );
    }
}

#[tokio::test]
async fn a_claim_in_order_goes_through_its_lanes() {
    let database = empty_and_analysed().await;
    let mut connection = session(&database, connect::ORDER).await;
    for sql in [order::STATEMENTS, &[outlook::LOOK, outlook::GLANCE]].concat() {
        let plan = generic_plan(&mut connection, sql).await;
        let lane = |step: &String| {
            step.contains("_pkey")
                || step.contains("tenant_task_type_priority_id")
                || step.contains("worker")
        };
        for (how, table) in scans(&plan) {
            assert!(
                how.starts_with("Index") && lane(&how),
                "{table}: {how}\n{sql}\n{}",
                plan.join("\n")
            );
        }
    }
}

#[tokio::test]
async fn nothing_that_is_done_often_scans_a_table() {
    let database = empty_and_analysed().await;
    let mut connection = session(&database, connect::COOL).await;
    for sql in [
        sweep::STATEMENTS,
        workers::STATEMENTS,
        registry::STATEMENTS,
        versions::STATEMENTS,
        components::STATEMENTS,
        collect::STATEMENTS,
        secrets::STATEMENTS,
        usage::STATEMENTS,
        values::STATEMENTS,
        mail::STATEMENTS,
        bulk::STATEMENTS,
        read::STATEMENTS,
        driver::DELETE_DEPENDENTS,
        &[driver::SET_INPUT],
        &[outlook::PENDING],
    ]
    .concat()
    {
        let plan = generic_plan(&mut connection, sql).await;
        for (how, table) in scans(&plan) {
            assert!(!how.starts_with("Seq"), "{table}: {how}\n{sql}\n{}", plan.join("\n"));
        }
    }
}
