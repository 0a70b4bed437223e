//! An attempt ends.

use super::*;
use crate::ProgressReport;
use taskforge_domain::{EventKind, LogLevel, LogLine, Progress, TaskError};

pub async fn a_completed_task_has_its_result(world: World) {
    let claimed = world.running().await;
    assert_eq!(world.end(&claimed, Next::Complete).await, Commit::Committed);
    let task = world.get(claimed.id).await;
    let Outcome::Completed(result) = success() else { unreachable!() };
    assert_eq!(
        (task.state, task.result, task.error, task.worker, task.finished_at, task.attempt),
        (TaskState::Completed, Some(result), None, None, Some(at(2)), 1)
    );
}

pub async fn a_retry_waits_with_its_error(world: World) {
    let claimed = world.running().await;
    assert_eq!(world.end(&claimed, Next::RetryAt(at(50))).await, Commit::Committed);
    let task = world.get(claimed.id).await;
    let error = TaskError { kind: FailureKind::Retryable, message: "it did not work".into() };
    assert_eq!(
        (
            task.state,
            task.run_at,
            task.error,
            task.worker,
            task.started_at,
            task.finished_at,
            task.attempt
        ),
        (TaskState::Scheduled, at(50), Some(error.clone()), None, Some(at(1)), None, 1)
    );
    world.promote(at(50), 10).await;
    assert_eq!(world.claim(claimed.id).await.attempt, 2);
    let task = world.get(claimed.id).await;
    assert_eq!((task.state, task.error), (TaskState::Running, Some(error)));
}

pub async fn a_dead_letter_has_failed(world: World) {
    let claimed = world.running().await;
    assert_eq!(world.end(&claimed, Next::DeadLetter).await, Commit::Committed);
    let task = world.get(claimed.id).await;
    assert_eq!((task.state, task.finished_at, task.result), (TaskState::Failed, Some(at(2)), None));
    assert_eq!(task.error.unwrap().kind, FailureKind::Retryable);
}

pub async fn success_after_failure_clears_the_error(world: World) {
    let first = world.running().await;
    world.end(&first, Next::RetryAt(at(2))).await;
    world.promote(at(2), 10).await;
    let second = world.claim(first.id).await;
    world.end(&second, Next::Complete).await;
    let history = world.history(first.id).await;
    assert_eq!(
        (history.task.state, history.task.error, history.task.attempt),
        (TaskState::Completed, None, 2)
    );
    assert_eq!(history.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
}

pub async fn a_hand_back_does_not_count(world: World) {
    let first = world.running().await;
    world.end(&first, Next::RetryAt(at(2))).await;
    world.promote(at(2), 10).await;
    let second = world.claim(first.id).await;
    assert_eq!(world.end(&second, Next::HandBack).await, Commit::Committed);
    let history = world.history(first.id).await;
    assert_eq!(
        (history.task.state, history.task.attempt, history.task.worker),
        (TaskState::Pending, 1, None)
    );
    assert_eq!(history.task.error.unwrap().kind, FailureKind::Retryable, "of the attempt before");
    assert_eq!(history.attempts.len(), 1);
    let events: Vec<_> =
        history.events.iter().map(|event| (event.kind, event.run_lease, event.at)).collect();
    assert_eq!(events, [(EventKind::HandedBack, RunLease(2), at(2))]);
    let third = world.claim(first.id).await;
    assert_eq!((third.attempt, third.run_lease), (2, RunLease(3)));
}

pub async fn a_lost_lease_writes_nothing(world: World) {
    let first = world.running().await;
    assert!(world.resolve(first.id, first.run_lease, Next::HandBack).await);
    let second = world.claim(first.id).await;
    let unknown = ClaimedTask { id: TaskId::generate(), ..second.clone() };
    let future = ClaimedTask { run_lease: RunLease(99), ..second.clone() };
    let before = world.history(first.id).await;
    for lost in [&first, &unknown, &future] {
        for next in [
            Next::Complete,
            Next::RetryAt(at(9)),
            Next::DeadLetter,
            Next::HandBack,
            Next::Cancelled,
        ] {
            assert_eq!(
                world.end(lost, next).await,
                Commit::Stale,
                "{next:?} under {}",
                lost.run_lease
            );
        }
    }
    assert_eq!(world.history(first.id).await, before);
    assert_eq!(world.store.history(&tenant(), unknown.id).await.unwrap(), None);
    assert_eq!(world.end(&second, Next::Complete).await, Commit::Committed);
}

pub async fn a_task_cancelled_while_it_ran_keeps_the_attempt(world: World) {
    for next in [Next::Cancelled, Next::Complete, Next::RetryAt(at(9)), Next::DeadLetter] {
        let claimed = world.running().await;
        assert!(matches!(world.cancel(claimed.id).await, CancelOutcome::WasRunning(_)));
        let cancelled = world.get(claimed.id).await;
        assert_eq!(world.end(&claimed, next).await, Commit::Cancelled, "{next:?}");
        let history = world.history(claimed.id).await;
        assert_eq!(history.task, cancelled, "{next:?}");
        assert_eq!(history.task.result, None);
        assert_eq!(history.attempts, [ended(&claimed, world.worker, next, 2).attempt]);
    }
}

pub async fn a_task_cancelled_after_the_lease_lapsed_does_not(world: World) {
    let claimed = world.running().await;
    assert!(world.resolve(claimed.id, claimed.run_lease, Next::RetryAt(at(60))).await);
    world.cancel(claimed.id).await;
    let before = world.history(claimed.id).await;
    assert_eq!(before.task.run_lease, claimed.run_lease, "the number alone does not tell");
    assert_eq!(world.end(&claimed, Next::Complete).await, Commit::Stale);
    assert_eq!(world.history(claimed.id).await, before);
}

pub async fn a_zombie_of_before_an_operators_retry_is_fenced(world: World) {
    let zombie = world.running().await;
    world.cancel(zombie.id).await;
    world.retry(zombie.id).await;
    assert_eq!(world.end(&zombie, Next::Complete).await, Commit::Stale);
    let current = world.claim(zombie.id).await;
    assert_eq!(
        (current.attempt, zombie.attempt),
        (1, 1),
        "the attempt's number alone does not tell"
    );
    assert_eq!(world.end(&zombie, Next::Complete).await, Commit::Stale);
    assert_eq!(world.get(zombie.id).await.state, TaskState::Running);
    assert_eq!(world.end(&current, Next::Complete).await, Commit::Committed);
    assert_eq!(world.history(zombie.id).await.attempts.len(), 1);
}

pub async fn a_repeat_gets_the_first_answer(world: World) {
    for next in [Next::Complete, Next::RetryAt(at(9)), Next::DeadLetter] {
        let claimed = world.running().await;
        assert_eq!(world.end(&claimed, next).await, Commit::Committed);
        let history = world.history(claimed.id).await;
        assert_eq!(world.end(&claimed, next).await, Commit::Committed, "{next:?}");
        let end = ended(&claimed, world.worker, next, 2);
        assert_eq!(
            world.store.complete(&[end.clone(), end]).await.unwrap(),
            [Commit::Committed; 2]
        );
        assert_eq!(world.history(claimed.id).await, history);
    }
    let cancelled = world.running().await;
    world.cancel(cancelled.id).await;
    for _ in 0..2 {
        assert_eq!(world.end(&cancelled, Next::Complete).await, Commit::Cancelled);
    }
    let twice = world.running().await;
    let end = ended(&twice, world.worker, Next::Complete, 2);
    assert_eq!(world.store.complete(&[end.clone(), end]).await.unwrap(), [Commit::Committed; 2]);
}

pub async fn answers_come_in_order_and_good_ones_do_not_suffer_from_stale_ones(world: World) {
    let mut claimed = Vec::new();
    for _ in 0..9 {
        claimed.push(world.running().await);
    }
    let mut expected = Vec::new();
    for (n, task) in claimed.iter().enumerate() {
        expected.push([Commit::Committed, Commit::Cancelled, Commit::Stale][n % 3]);
        match n % 3 {
            0 => {}
            1 => assert!(matches!(world.cancel(task.id).await, CancelOutcome::WasRunning(_))),
            _ => assert!(world.resolve(task.id, task.run_lease, Next::DeadLetter).await),
        }
    }
    let ends: Vec<_> =
        claimed.iter().map(|task| ended(task, world.worker, Next::Complete, 2)).collect();
    assert_eq!(world.store.complete(&ends).await.unwrap(), expected);
    for (task, commit) in claimed.iter().zip(expected) {
        let history = world.history(task.id).await;
        let (state, attempts) = match commit {
            Commit::Committed => (TaskState::Completed, 1),
            Commit::Cancelled => (TaskState::Cancelled, 1),
            Commit::Stale => (TaskState::Failed, 0),
        };
        assert_eq!((history.task.state, history.attempts.len()), (state, attempts));
    }
    // An old lease and the one that holds, of one task, in one batch.
    let old = world.running().await;
    world.resolve(old.id, old.run_lease, Next::HandBack).await;
    let new = world.claim(old.id).await;
    let ends = [&old, &new, &old].map(|task| ended(task, world.worker, Next::Complete, 2));
    let commits = world.store.complete(&ends).await.unwrap();
    assert_eq!(commits, [Commit::Stale, Commit::Committed, Commit::Stale]);
}

pub async fn everything_about_an_attempt_reads_back(world: World) {
    let claimed = world.running().await;
    let mut end = ended(&claimed, world.worker, Next::RetryAt(at(9)), 7);
    end.attempt.outcome = Outcome::Failed(Failure {
        kind: FailureKind::Deadline,
        message: "zwölf \u{1F980} \"quoted\"\nlines".into(),
        retry_after: Some(Duration::from_millis(1500)),
    });
    end.attempt.logs = [LogLevel::Trace, LogLevel::Critical]
        .map(|level| LogLine { at: at(3), level, message: "a\tb\u{0}c".into() })
        .into();
    end.attempt.usage = Usage {
        fuel: i64::MAX.unsigned_abs(),
        peak_memory: 1 << 40,
        wall_micros: 5,
        host_calls: 6,
        http_requests: u32::MAX,
        http_bytes: 7,
    };
    world.complete(end.clone()).await;
    assert_eq!(world.history(claimed.id).await.attempts, [end.attempt]);

    // What the database cannot hold is cut to what it can, and is no reason to lose an attempt.
    let claimed = world.running().await;
    let mut end = ended(&claimed, world.worker, Next::DeadLetter, 2);
    end.attempt.outcome = Outcome::Failed(Failure::new(FailureKind::Trap, "before\0after"));
    end.attempt.usage.fuel = u64::MAX;
    assert_eq!(world.complete(end).await, Commit::Committed);
    let history = world.history(claimed.id).await;
    assert_eq!(history.attempts[0].usage.fuel, i64::MAX.unsigned_abs());
    let message = history.task.error.unwrap().message;
    assert!(message.starts_with("before") && message.ends_with("after"), "{message:?}");
}

pub async fn an_attempt_is_never_written_over(world: World) {
    let claimed = world.running().await;
    world.end(&claimed, Next::Complete).await;
    let history = world.history(claimed.id).await;
    let mut other = ended(&claimed, world.worker, Next::DeadLetter, 9);
    other.attempt.plugin_version = "6.6.6".into();
    world.complete(other).await;
    assert_eq!(world.history(claimed.id).await, history);
}

pub async fn an_outcome_that_contradicts_what_follows_is_refused(world: World) {
    let claimed = world.running().await;
    let before = world.history(claimed.id).await;
    let good = ended(&world.running().await, world.worker, Next::Complete, 2);
    for (next, outcome) in [
        (Next::Complete, failure(FailureKind::Trap)),
        (Next::DeadLetter, success()),
        (Next::RetryAt(at(9)), success()),
    ] {
        let mut end = ended(&claimed, world.worker, next, 2);
        end.attempt.outcome = outcome;
        let error = world.store.complete(&[good.clone(), end]).await.unwrap_err();
        assert!(error.to_string().contains(&claimed.id.to_string()), "{error}");
    }
    assert_eq!(world.history(claimed.id).await, before);
    assert_eq!(world.get(good.attempt.task).await.state, TaskState::Running, "all or nothing");
}

pub async fn a_false_alarm_of_a_cancel_loses_no_task(world: World) {
    let claimed = world.running().await;
    assert_eq!(world.end(&claimed, Next::Cancelled).await, Commit::Committed);
    let history = world.history(claimed.id).await;
    assert_eq!((history.task.state, history.task.attempt), (TaskState::Pending, 0));
    assert_eq!(history.attempts.len(), 1);
    assert_eq!(world.claim(claimed.id).await.attempt, 1);
}

pub async fn progress_is_shown_while_the_lease_holds(world: World) {
    let claimed = world.running().await;
    let other = world.add(new_task()).await;
    let report = |id, run_lease, fraction, note: Option<&str>| ProgressReport {
        id,
        run_lease,
        progress: Some(Progress { fraction, note: note.map(str::to_owned) }),
        log: Vec::new(),
    };
    let (id, lease) = (claimed.id, claimed.run_lease);
    let reports = [
        report(id, lease, 0.25, Some("a quarter")),
        report(id, lease, 0.5, Some("halb \u{1F980}")),
        report(other, RunLease(0), 0.5, None),
    ];
    world.store.report_progress(&reports).await.unwrap();
    assert_eq!(
        world.get(id).await.progress,
        Some(Progress { fraction: 0.5, note: Some("halb \u{1F980}".into()) })
    );
    assert_eq!(world.get(other).await.progress, None);

    let reports = [
        report(id, RunLease(lease.0 + 1), 0.9, None),
        report(TaskId::generate(), lease, 0.9, None),
    ];
    world.store.report_progress(&reports).await.unwrap();
    assert_eq!(world.get(id).await.progress.unwrap().fraction, 0.5);

    for (said, shown) in [(f64::NAN, 0.0), (f64::INFINITY, 1.0), (-3.0, 0.0), (1.0, 1.0)] {
        world.store.report_progress(&[report(id, lease, said, None)]).await.unwrap();
        assert_eq!(world.get(id).await.progress, Some(Progress { fraction: shown, note: None }));
    }
    world.end(&claimed, Next::RetryAt(at(2))).await;
    assert_eq!(world.get(id).await.progress, None);
}

pub async fn the_log_of_a_running_attempt_is_shown_until_it_ends(world: World) {
    let claimed = world.running().await;
    let (id, run_lease) = (claimed.id, claimed.run_lease);
    let line = |second, message: &str| LogLine {
        at: at(second),
        level: LogLevel::Warn,
        message: message.to_owned(),
    };
    let report = async |progress: Option<Progress>, log: Vec<LogLine>| {
        let report = ProgressReport { id, run_lease, progress, log };
        world.store.report_progress(&[report]).await.unwrap();
        let history = world.history(id).await;
        (history.task.progress, history.log)
    };
    let half = |note: Option<&str>| Some(Progress { fraction: 0.5, note: note.map(str::to_owned) });
    let lines = vec![line(1, "one \u{1F980} \"quoted\""), line(2, "\0 and \u{1}")];
    for progress in [None, half(None), half(Some("a note")), half(Some(r#"{"log":[not this"#))] {
        for log in [lines.clone(), Vec::new()] {
            if progress.is_some() || !log.is_empty() {
                assert_eq!(report(progress.clone(), log.clone()).await, (progress.clone(), log));
            }
        }
    }
    report(half(None), lines).await;
    world.end(&claimed, Next::Complete).await;
    let history = world.history(id).await;
    assert_eq!((history.task.progress, history.log), (None, Vec::new()));
}
