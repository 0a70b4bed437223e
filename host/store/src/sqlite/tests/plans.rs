//! The plans that statements stand on. A scan of a table is the kind of mistake that no small test
//! feels.

use sqlx::{QueryBuilder, Sqlite};
use taskforge_domain::{FailureKind, Fingerprint, TaskState};

use super::*;

async fn plan(store: &SqliteStore, sql: &str) -> Vec<String> {
    let explain = sqlx::AssertSqlSafe(format!("explain query plan {sql}"));
    let mut writer = store.shared.writer.turn().await.unwrap().take().await.unwrap();
    let steps = sqlx::query(explain).fetch_all(&mut writer).await.unwrap();
    steps.iter().map(|row| row.get("detail")).collect()
}

fn scans(plan: &[String]) -> Option<&String> {
    plan.iter().find(|step| {
        step.starts_with("SCAN ")
            && step.split(' ').nth(1).is_some_and(|table| {
                ["tasks", "task_inputs", "attempts", "events"].contains(&table)
                    || table.starts_with("plugin")
            })
            && !step.contains("USING INDEX")
            && !step.contains("USING COVERING")
    })
}

#[tokio::test]
async fn no_hot_statement_scans_a_table() {
    let (_folder, store) = fresh().await;
    let statements = [
        enqueue::STATEMENTS,
        claim::STATEMENTS,
        beats::STATEMENTS,
        bulk::STATEMENTS,
        caps::STATEMENTS,
        complete::STATEMENTS,
        progress::STATEMENTS,
        sweep::STATEMENTS,
        order::STATEMENTS,
        lanes::STATEMENTS,
        forget::STATEMENTS,
        read::STATEMENTS,
        driver::DELETE_DEPENDENTS,
        &[driver::SET_INPUT],
        registry::STATEMENTS,
        versions::STATEMENTS,
        collect::STATEMENTS,
        components::STATEMENTS,
        mail::STATEMENTS,
        workers::STATEMENTS,
        secrets::STATEMENTS,
        usage::STATEMENTS,
        values::STATEMENTS,
    ];
    for sql in statements.concat() {
        let plan = plan(&store, sql).await;
        assert_eq!(scans(&plan), None, "{sql}\n{}", plan.join("\n"));
    }
}

/// With a million tasks in one lane, the next lane is one jump away.
#[tokio::test]
async fn lanes_are_found_by_jumps() {
    let (_folder, store) = fresh().await;
    let plan = plan(&store, lanes::STATEMENTS[0]).await.join("\n");
    let jump =
        "SEARCH next USING COVERING INDEX tasks_lanes ((tenant,task_type,priority,id)>(?,?,?,?))";
    assert!(plan.contains(jump), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

#[tokio::test]
async fn each_filter_is_served_by_the_index_that_suits_it() {
    let (_folder, store) = fresh().await;
    let states =
        |states: &[TaskState]| TaskFilter { states: states.into(), ..TaskFilter::default() };
    let failed_alike = TaskFilter {
        fingerprints: vec![Fingerprint::of(FailureKind::Trap, "x")],
        ..states(&[TaskState::Failed])
    };
    let these = TaskFilter { ids: vec![TaskId::generate()], ..states(&[TaskState::Failed]) };
    let cases = [
        (TaskFilter::default(), "SEARCH tasks USING PRIMARY KEY (id<?)"),
        (these, "SEARCH tasks USING PRIMARY KEY (id=?)"),
        (failed_alike, "SEARCH tasks USING INDEX tasks_dead (tenant=? AND error_fingerprint=?)"),
        (
            states(&[TaskState::Failed]),
            "SEARCH tasks USING INDEX tasks_rare (tenant=? AND state=? AND id<?)",
        ),
        (
            states(&[TaskState::Pending]),
            "SEARCH tasks USING INDEX tasks_lanes (tenant=? AND task_type=? AND priority=? AND id<?)",
        ),
        (
            states(&[TaskState::Pending]),
            "SEARCH next USING INDEX tasks_lanes (tenant=? AND (task_type,priority,id)>(?,?,?))",
        ),
    ];
    for (filter, expected) in cases {
        let mut statement: QueryBuilder<Sqlite> =
            QueryBuilder::new("select id from tasks where id");
        let after = Some(TaskId::generate());
        let newest = list::Direction::NewestFirst;
        list::push_among(&mut statement, &TenantId::default(), &filter, newest, after, 100);
        let plan = plan(&store, statement.sql().as_str()).await;
        let text = plan.join("\n");
        assert!(text.replace("COVERING ", "").contains(expected), "{filter:?}\n{text}");
        assert_eq!(scans(&plan), None, "{text}");
    }
}
