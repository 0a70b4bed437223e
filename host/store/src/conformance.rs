//! The rules that every database must keep, as tests.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes one test of each rule, named after it, for a database given by an async
//! function (as a path from the crate's root) that opens an empty store:
//!
//! ```ignore
//! async fn open() -> Fixture { ... }
//! taskforge_store::conformance_suite!(crate::open);
//! ```
//!
//! The rules inject every time that they hand to the store, and never sleep.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "these are tests; they are compiled outside cfg(test) for other crates' tests. Each rule's name is its documentation"
)]

pub mod claim;
pub mod complete;
pub mod enqueue;
pub mod list;
pub mod operate;
pub mod state;
pub mod storm;
pub mod sweep;

use std::{any::Any, sync::Arc, time::Duration};

use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, Json, LogLevel, LogLine, NewTask, Next, Outcome,
    RunLease, Task, TaskId, TaskState, TaskType, TenantId, Timestamp, Usage, WorkerId,
};

use crate::{
    CancelOutcome, ClaimBy, ClaimRequest, Commit, Completion, RetryOutcome, Store, Story, Verdict,
    WorkerRecord,
};

/// An empty store, and what must stay alive with it.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its folder, server or container.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A second, counted from the beginning of the test's time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// How old a heartbeat may be.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn tenant() -> TenantId {
    TenantId::default()
}

pub(crate) fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

pub(crate) fn json(value: serde_json::Value) -> Json {
    Json::from(value)
}

/// A task of type `work`, created at second 0.
pub(crate) fn new_task() -> NewTask {
    NewTask::new(tenant(), kind("work"), json(serde_json::json!({"n": 10})), at(0))
}

pub(crate) fn failure(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure::new(kind, "it did not work"))
}

pub(crate) fn success() -> Outcome {
    Outcome::Completed(json(serde_json::json!({"result": 55})))
}

/// The end of a claimed task's attempt at second `end`, with an outcome that fits what follows.
pub(crate) fn ended(task: &ClaimedTask, worker: WorkerId, next: Next, end: i64) -> Completion {
    let outcome = match next {
        Next::Complete => success(),
        Next::RetryAt(_) | Next::DeadLetter => failure(FailureKind::Retryable),
        Next::HandBack | Next::Cancelled => failure(FailureKind::Cancelled),
    };
    let attempt = Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.2.3".into(),
        plugin_digest: Digest::from_bytes([0xab; 32]),
        started_at: task.started_at,
        finished_at: at(end),
        outcome,
        usage: Usage {
            fuel: 1,
            peak_memory: 2,
            wall_micros: 3,
            host_calls: 4,
            http_requests: 5,
            http_bytes: 6,
        },
        logs: vec![LogLine {
            at: at(end),
            level: LogLevel::Info,
            message: "hello".into(),
        }],
    };
    Completion { attempt, next }
}

/// The store under test, with the steps that most rules begin with.
pub struct World {
    pub(crate) store: Arc<dyn Store>,
    /// A registered worker whose last heartbeat was at second 0.
    pub(crate) worker: WorkerId,
    _keep: Box<dyn Any + Send + Sync>,
}

impl World {
    /// Begins a rule.
    pub async fn begin(fixture: Fixture) -> Self {
        let world = Self {
            store: fixture.store,
            worker: WorkerId::generate(),
            _keep: fixture.keep,
        };
        world.register(world.worker, 0).await;
        world
    }

    pub(crate) async fn register(&self, worker: WorkerId, now: i64) {
        let record = WorkerRecord {
            id: worker,
            host: "here".into(),
            pid: 1,
            started_at: at(now),
        };
        self.store.register_worker(&record, at(now)).await.unwrap();
    }

    pub(crate) async fn add(&self, task: NewTask) -> TaskId {
        self.store.enqueue(std::slice::from_ref(&task)).await.unwrap();
        task.id
    }

    pub(crate) async fn add_many(&self, count: usize) -> Vec<TaskId> {
        let tasks: Vec<_> = (0..count).map(|_| new_task()).collect();
        self.store.enqueue(&tasks).await.unwrap();
        tasks.iter().map(|task| task.id).collect()
    }

    pub(crate) async fn claim_as(&self, worker: WorkerId, ids: &[TaskId], now: i64) -> Vec<ClaimedTask> {
        self.store
            .claim(ClaimRequest {
                worker,
                by: ClaimBy::Ids(ids),
                now: at(now),
            })
            .await
            .unwrap()
    }

    pub(crate) async fn claim_order(&self, types: &[&str], limit: u32) -> Vec<TaskId> {
        let types: Vec<_> = types.iter().map(|name| kind(name)).collect();
        let by = ClaimBy::Order { types: &types, limit };
        let claimed = self
            .store
            .claim(ClaimRequest {
                worker: self.worker,
                by,
                now: at(1),
            })
            .await
            .unwrap();
        claimed.into_iter().map(|task| task.id).collect()
    }

    /// Claims one pending task at second 1.
    pub(crate) async fn claim(&self, id: TaskId) -> ClaimedTask {
        self.claim_as(self.worker, &[id], 1)
            .await
            .pop()
            .expect("the task is pending")
    }

    /// A fresh task that runs since second 1.
    pub(crate) async fn running(&self) -> ClaimedTask {
        let id = self.add(new_task()).await;
        self.claim(id).await
    }

    pub(crate) async fn end(&self, task: &ClaimedTask, next: Next) -> Commit {
        self.complete(ended(task, self.worker, next, 2)).await
    }

    pub(crate) async fn complete(&self, completion: Completion) -> Commit {
        let commits = self.store.complete(&[completion]).await.unwrap();
        assert_eq!(commits.len(), 1);
        commits[0]
    }

    pub(crate) async fn get(&self, id: TaskId) -> Task {
        self.store
            .task(&tenant(), id)
            .await
            .unwrap()
            .expect("the task is there")
    }

    pub(crate) async fn story(&self, id: TaskId) -> Story {
        self.store
            .story(&tenant(), id)
            .await
            .unwrap()
            .expect("the task is there")
    }

    pub(crate) async fn cancel(&self, id: TaskId) -> CancelOutcome {
        self.store.cancel(&tenant(), id, at(3)).await.unwrap()
    }

    pub(crate) async fn retry(&self, id: TaskId) -> RetryOutcome {
        self.store.retry(&tenant(), id, at(4)).await.unwrap()
    }

    pub(crate) async fn resolve(&self, id: TaskId, run_lease: RunLease, next: Next) -> bool {
        let verdict = Verdict {
            id,
            run_lease,
            next,
            detail: "its worker fell silent".into(),
        };
        self.store.resolve_lapsed(&[verdict], at(5)).await.unwrap() == [id]
    }

    /// A task in the given state, reached by the shortest way.
    pub(crate) async fn task_in(&self, state: TaskState) -> Task {
        let id = match state {
            TaskState::Scheduled => {
                self.add(NewTask {
                    run_at: Some(at(100)),
                    ..new_task()
                })
                .await
            }
            TaskState::Pending => self.add(new_task()).await,
            TaskState::Running => self.running().await.id,
            TaskState::Completed | TaskState::Failed => {
                let next = if state == TaskState::Failed {
                    Next::DeadLetter
                } else {
                    Next::Complete
                };
                let task = self.running().await;
                assert_eq!(self.end(&task, next).await, Commit::Committed);
                task.id
            }
            TaskState::Cancelled => {
                let id = self.add(new_task()).await;
                self.cancel(id).await;
                id
            }
        };
        let task = self.get(id).await;
        assert_eq!(task.state, state);
        task
    }
}

/// Makes a test of every rule for the store that `$open` (an async function that gives a [`Fixture`]) opens.
#[macro_export]
macro_rules! conformance_suite {
    ($open:path) => {
        $crate::conformance_rules! { $open;
            enqueue: what_goes_in_comes_out, a_repeat_changes_nothing, an_id_twice_in_a_batch_is_one_task,
                a_megabyte_of_input_survives, json_text_is_kept_as_it_is, ten_thousand_tasks_go_in_at_once,
                a_task_for_later_waits_for_its_time, nothing_is_nothing;
            claim: a_claim_gives_a_lease, a_claim_takes_nothing_but_pending_tasks, leases_grow_and_never_return,
                without_hints_the_most_urgent_goes_first_and_the_oldest_of_those, without_hints_only_served_types_are_taken,
                two_claimers_never_get_the_same_task, a_lapsed_worker_gets_nothing, claims_come_in_the_order_asked_for;
            complete: a_completed_task_has_its_result, a_retry_waits_with_its_error, a_dead_letter_has_failed,
                success_after_failure_clears_the_error, a_hand_back_does_not_count, a_lost_lease_writes_nothing,
                a_task_cancelled_while_it_ran_keeps_the_attempt, a_task_cancelled_after_the_lease_lapsed_does_not,
                a_zombie_of_before_an_operators_retry_is_fenced, a_repeat_gets_the_first_answer,
                answers_come_in_order_and_good_ones_do_not_suffer_from_stale_ones, everything_about_an_attempt_reads_back,
                an_attempt_is_never_written_over, an_outcome_that_contradicts_what_follows_is_refused,
                a_false_alarm_of_a_cancel_loses_no_task, progress_is_shown_while_the_lease_holds;
            operate: a_waiting_task_can_be_cancelled, a_running_task_can_be_cancelled, what_has_ended_cannot_be_cancelled,
                a_dead_letter_can_be_run_again, a_cancelled_task_can_be_run_again, only_failed_and_cancelled_tasks_can_be_run_again,
                prune_takes_the_oldest_first_with_all_that_hangs_by_them, prune_never_takes_what_has_not_ended, prune_keeps_to_its_filter;
            sweep: a_task_is_due_at_its_time_and_not_before, due_tasks_come_in_the_order_of_their_times,
                the_next_due_time_is_known, a_heartbeat_renews_the_lease, a_worker_that_the_sweeper_found_silent_stays_lapsed,
                a_heartbeat_that_comes_too_late_is_refused_for_good, tasks_of_silent_workers_are_found,
                tasks_of_a_worker_that_left_are_found_at_once, a_lapse_counts_as_an_attempt, a_lapse_can_end_in_a_dead_letter,
                a_lapse_can_be_handed_back, a_verdict_on_another_lease_changes_nothing, a_verdict_that_is_none_is_refused,
                lost_leases_are_told, pending_tasks_come_page_by_page, a_store_that_works_says_so;
            list: lists_are_newest_first, pages_neither_repeat_nor_skip, filters_narrow, filters_combine,
                a_state_filter_finds_all_tasks_of_its_states, a_task_of_another_tenant_is_not_there, counts_are_by_type_and_state;
            state: no_operation_takes_an_illegal_arrow;
            storm: in_a_storm_nothing_is_lost_or_doubled;
        }
    };
}

/// The loop inside [`conformance_suite!`](crate::conformance_suite).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_rules {
    ($open:path; $($group:ident: $($rule:ident),+;)+) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let world = $crate::conformance::World::begin($open().await).await;
                let rule = $crate::conformance::$group::$rule(world);
                // A store that breaks a rule may leave a test waiting for what never comes.
                let deadline = ::std::time::Duration::from_secs(120);
                ::tokio::time::timeout(deadline, rule).await.expect("the rule takes too long");
            })+
        })+
    };
}
