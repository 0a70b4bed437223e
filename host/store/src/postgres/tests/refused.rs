//! A row that the database refuses fails alone.

use taskforge_domain::{Failure, FailureKind, LogLevel, LogLine, Progress, TaskState};

use super::*;
use crate::{
    Commit, Ended, PostgresConfig, ProgressReport, StoreError, complete_or_fail,
    postgres::{migrate, schema::MIGRATIONS},
};

#[tokio::test]
async fn a_new_database_in_another_encoding_is_refused() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = TestDatabase::in_encoding(encoding).await;
        let error = migrate(&PostgresConfig::new(&database.url)).await.unwrap_err();
        let StoreError::Schema(why) = &error else { panic!("{error}") };
        assert!(why.contains(encoding) && why.contains("UTF8"), "{why}");
    }
}

/// A database that was made before that was refused: it cannot hold every character.
async fn latin() -> (TestDatabase, Arc<PostgresStore>) {
    let database = TestDatabase::in_encoding("LATIN1").await;
    MIGRATIONS.run(&mut database.connection().await).await.unwrap();
    migrate(&PostgresConfig::new(&database.url)).await.unwrap();
    let store = database.store().await;
    (database, store)
}

/// One that also refuses what it is told to, as a limit of a row or of an index would.
async fn fussy() -> (TestDatabase, Arc<PostgresStore>) {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(
        "create function too_much() returns trigger language plpgsql as $$
         begin
             raise program_limit_exceeded using message = 'index row size 4112 exceeds btree maximum 2704';
         end $$;
         create trigger too_much before insert on tasks for each row
         when (new.input like '%unholdable%') execute function too_much();
         create trigger too_much before insert on attempts for each row
         when (new.output like '%unholdable%' or new.logs like '%unholdable%'
               or new.failure_message like '%unholdable%') execute function too_much()",
    )
    .execute(&mut database.connection().await)
    .await
    .unwrap();
    let store = database.store().await;
    (database, store)
}

fn saying(text: &str) -> NewTask {
    NewTask { input: Json::from(serde_json::json!({ "text": text })), ..new_task() }
}

/// Enqueues many at once, so that they share statements. Every tenth is bad.
async fn enqueue_with_neighbours(store: &Arc<PostgresStore>, bad: &str) {
    let mut enqueues = Vec::new();
    for n in 0..100 {
        let is_bad = n % 10 == 3;
        let task = if is_bad { saying(bad) } else { saying("good") };
        let store = Arc::clone(store);
        enqueues.push(tokio::spawn(async move {
            let answer = store.enqueue(std::slice::from_ref(&task)).await;
            (task.id, is_bad, answer)
        }));
    }
    for enqueue in enqueues {
        let (id, is_bad, answer) = enqueue.await.unwrap();
        assert_eq!(matches!(answer, Err(StoreError::Refused(_))), is_bad, "{answer:?}");
        let task = store.task(&TenantId::default(), id).await.unwrap();
        assert_eq!(task.is_none(), is_bad);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_cannot_be_stored_fails_none_beside_it() {
    let (_database, store) = latin().await;
    enqueue_with_neighbours(&store, "\u{1f600}").await;
    let (_database, store) = fussy().await;
    enqueue_with_neighbours(&store, "unholdable").await;
}

async fn end_of(
    store: &PostgresStore,
    id: TaskId,
) -> (TaskState, Option<FailureKind>, Vec<Attempt>) {
    let history = store.history(&TenantId::default(), id).await.unwrap().unwrap();
    let kind = history.task.error.as_ref().map(|error| error.kind);
    (history.task.state, kind, history.attempts)
}

fn log(message: &str) -> LogLine {
    LogLine { at: Timestamp::now(), level: LogLevel::Info, message: message.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_cannot_be_stored_ends_as_a_failure_that_can() {
    for ((_database, store), bad) in [(latin().await, "\u{1f600}"), (fussy().await, "unholdable")] {
        let worker = WorkerId::generate();
        let tasks = new_tasks(60);
        store.enqueue(&tasks).await.unwrap();
        let claimed = claim(&store, worker, ClaimBy::Ids(&ids(&tasks))).await;
        let mut ends = Vec::new();
        for (n, task) in claimed.iter().enumerate() {
            let mut completion = completion(task, worker);
            match n % 6 {
                0 => {
                    completion.attempt.outcome =
                        Outcome::Completed(Json::from(serde_json::json!(bad)));
                }
                1 => completion.attempt.logs = vec![log("plain"), log(bad)],
                2 => {
                    completion.attempt.outcome = Outcome::Failed(Failure::new(
                        FailureKind::Permanent,
                        format!("bad: {bad}"),
                    ));
                    completion.next = Next::DeadLetter;
                }
                _ => {}
            }
            let store = Arc::clone(&store);
            ends.push(tokio::spawn(async move { complete_or_fail(&*store, &completion).await }));
        }
        for (n, (task, end)) in claimed.iter().zip(ends).enumerate() {
            let Ended { commit, next } = end.await.unwrap().unwrap();
            assert_eq!(commit, Commit::Committed);
            let (state, kind, attempts) = end_of(&store, task.id).await;
            assert_eq!(attempts.len(), 1);
            match n % 6 {
                0 => {
                    assert_eq!((next, state), (Next::DeadLetter, TaskState::Failed));
                    assert_eq!(kind, Some(FailureKind::InvalidOutput));
                    let Outcome::Failed(failure) = &attempts[0].outcome else {
                        panic!("{attempts:?}")
                    };
                    assert!(failure.message.contains("cannot hold the result"), "{failure:?}");
                }
                2 => {
                    assert_eq!((next, state), (Next::DeadLetter, TaskState::Failed));
                    assert_eq!(kind, Some(FailureKind::Permanent));
                }
                1 if bad == "unholdable" => assert_eq!(state, TaskState::Failed),
                1 => {
                    assert_eq!((next, state), (Next::Complete, TaskState::Completed));
                    assert_eq!(attempts[0].logs.len(), 2);
                    assert_eq!(attempts[0].logs[1].message, "?");
                }
                _ => assert_eq!((next, state), (Next::Complete, TaskState::Completed)),
            }
        }
    }
}

#[tokio::test]
async fn what_is_refused_in_every_form_ends_as_a_lapse() {
    let (database, store) = fussy().await;
    sqlx::raw_sql(
        "create trigger never before insert on attempts for each row execute function too_much()",
    )
    .execute(&mut database.connection().await)
    .await
    .unwrap();
    let worker = WorkerId::generate();
    let task = new_task();
    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
    let claimed = claim(&store, worker, ClaimBy::Ids(&[task.id])).await;
    let ended = complete_or_fail(&*store, &completion(&claimed[0], worker)).await.unwrap();
    assert_eq!(ended.commit, Commit::Committed);
    let (state, kind, _) = end_of(&store, task.id).await;
    assert_eq!((state, kind), (TaskState::Failed, Some(FailureKind::LeaseLapsed)));
}

#[tokio::test]
async fn a_report_that_cannot_be_stored_takes_no_other_with_it() {
    let (_database, store) = latin().await;
    let worker = WorkerId::generate();
    let tasks = new_tasks(9);
    store.enqueue(&tasks).await.unwrap();
    let claimed = claim(&store, worker, ClaimBy::Ids(&ids(&tasks))).await;
    let reports: Vec<_> = claimed
        .iter()
        .enumerate()
        .map(|(n, task)| ProgressReport {
            id: task.id,
            run_lease: task.run_lease,
            progress: Some(Progress {
                fraction: 0.5,
                note: Some(if n == 4 { "\u{1f600}" } else { "half" }.into()),
            }),
            log: Vec::new(),
        })
        .collect();
    store.report_progress(&reports).await.unwrap();
    for (n, task) in claimed.iter().enumerate() {
        let task = store.task(&TenantId::default(), task.id).await.unwrap().unwrap();
        assert_eq!(task.progress.is_some(), n != 4, "report {n}");
    }
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_claimed_beside_those_that_can() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let tasks = [new_task(), new_task(), new_task()];
    store.enqueue(&tasks).await.unwrap();
    sqlx::query("update tasks set tenant = 'not a tenant' where id = $1")
        .bind(tasks[1].id.as_uuid())
        .execute(&mut database.connection().await)
        .await
        .unwrap();
    let worker = WorkerId::generate();
    let claimed = claim(&store, worker, ClaimBy::Ids(&ids(&tasks))).await;
    let claimed: Vec<_> = claimed.iter().map(|task| task.id).collect();
    assert_eq!(claimed, [tasks[0].id, tasks[2].id]);
    let again = claim(&store, worker, ClaimBy::Ids(&ids(&tasks))).await;
    assert_eq!(again, [], "it is not taken again and again");
}
