//! Files of older versions open, and lose nothing.

use sqlx::sqlite::SqliteConnectOptions;
use taskforge_domain::{FailureKind, Fingerprint, LaneLimits, QueuePolicy, TaskState};

use super::*;
use crate::ClaimBy;

/// One task in each state, as the first version wrote them, and the worker of the one that runs.
const OLD_ROWS: &str = "
    insert into tasks (id, tenant, task_type, state, priority, attempt, run_lease, max_retries, retry_base_ms, retry_cap_ms,
                       created_at, run_at, started_at, finished_at, worker, error_kind, error_message)
    values (randomblob(16), 'default', 'work', 'scheduled', 3, 1, 1, 3, 1000, 1000, 0, 60000000, 1, null, null, 'trap', 'old'),
           (randomblob(16), 'default', 'work', 'pending', 3, 0, 0, 3, 1000, 1000, 0, 0, null, null, null, null, null),
           (randomblob(16), 'default', 'work', 'running', 3, 1, 1, 3, 1000, 1000, 0, 0, 1, null, zeroblob(16), null, null),
           (randomblob(16), 'default', 'work', 'completed', 3, 1, 1, 3, 1000, 1000, 0, 0, 1, 2, null, null, null),
           (randomblob(16), 'default', 'work', 'failed', 3, 1, 1, 3, 1000, 1000, 0, 0, 1, 2, null, 'trap', 'old'),
           (randomblob(16), 'default', 'work', 'failed', 3, 1, 1, 3, 1000, 1000, 0, 0, 1, 3, null, 'deadline', 'older'),
           (randomblob(16), 'default', 'work', 'cancelled', 3, 0, 0, 3, 1000, 1000, 0, 0, null, 2, null, null, null);
    insert into task_inputs (task_id, input) select id, '1' from tasks;
    insert into workers (id, host, pid, started_at, heartbeat_at) values (zeroblob(16), 'here', 1, 0, 0);";

async fn old_file(path: &Path) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    open::MIGRATIONS.run_to(1, &mut old).await.unwrap();
    sqlx::raw_sql(OLD_ROWS).execute(&mut old).await.unwrap();
    old.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_version_opens_and_has_all_its_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taskforge.db");
    old_file(&path).await;
    let store = SqliteStore::open(&path).await.unwrap();
    let (tenant, now) = (TenantId::default(), Timestamp::UNIX_EPOCH);
    let page = Page { after: None, limit: 100 };
    let tasks = store.tasks(&tenant, &TaskFilter::default(), page).await.unwrap();
    let mut states: Vec<_> = tasks.iter().map(|task| task.state.as_str()).collect();
    states.sort_unstable();
    assert_eq!(
        states,
        ["cancelled", "completed", "failed", "failed", "pending", "running", "scheduled"]
    );

    // What failed before had no fingerprint: it is grouped by its kind alone.
    let unknown = Fingerprint::from_i64(0);
    let groups = store.dead_letters(&tenant, &TaskFilter::default(), 10).await.unwrap();
    let mut seen: Vec<_> =
        groups.iter().map(|group| (group.kind.as_str(), group.fingerprint, group.count)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("deadline", unknown, 1), ("trap", unknown, 1)]);
    let filter = TaskFilter {
        fingerprints: vec![unknown],
        error_kinds: vec![FailureKind::Trap],
        ..TaskFilter::default()
    };
    let moved = store.requeue(&tenant, &filter, 10, None, now).await.unwrap();
    assert_eq!(moved.len(), 1);

    // Its worker has the lease that all had.
    let later = now + Duration::from_secs(10);
    let term = store.lead(WorkerId::generate(), later, Duration::from_secs(5)).await;
    let term = term.unwrap().unwrap();
    assert!(store.lapsed(term, later, 10).await.unwrap().is_empty());
    let later = later + Duration::from_secs(1);
    assert_eq!(store.lapsed(term, later, 10).await.unwrap().len(), 1);

    let types = [moved[0].lane.task_type.clone()];
    let by = ClaimBy::Order {
        types: &types,
        lanes: LaneLimits::none(),
        limit: 10,
        policy: &QueuePolicy::default(),
    };
    let request = ClaimRequest { worker: WorkerId::generate(), by, now };
    assert_eq!(store.claim(request).await.unwrap().tasks.len(), 2);
    let running = TaskFilter { states: vec![TaskState::Running], ..TaskFilter::default() };
    assert_eq!(store.tasks(&tenant, &running, page).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_rules_of_the_new_columns_hold_in_an_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taskforge.db");
    old_file(&path).await;
    let store = SqliteStore::open(&path).await.unwrap();
    let mut writer = store.shared.writer.turn().await.unwrap().take().await.unwrap();
    for sql in [
        "update tasks set error_fingerprint = 1 where error_kind is null",
        "update tasks set error_fingerprint = null where error_kind is not null",
        "update workers set lease_ms = -1",
        "update leadership set one = 2",
        "insert into type_policies (task_type, paused) values ('x', 2)",
        "insert into tenant_policies (tenant, weight) values ('x', 0)",
        "insert into registry_revision (one, revision) values (2, 1)",
        "insert into plugins (name, revision, phase, paused, retired) values ('x', 1, 1, 0, 0)",
        "insert into plugins (name, revision, phase, stable, paused, retired) values ('x', 1, 0, zeroblob(16), 0, 0)",
        "insert into plugins (name, revision, phase, since, canary, canary_percent, canary_min_attempts, canary_failure_margin,
                              canary_latency_factor, paused, retired)
         values ('x', 1, 1, 1, zeroblob(16), 1, 1, 0.0, 1.0, 0, 0)",
        "insert into plugins (name, revision, phase, since, stable, canary_percent, paused, retired)
         values ('x', 1, 1, 1, zeroblob(16), 1, 0, 0)",
        "insert into plugin_components (digest, bytes) values (x'', x'')",
        "insert into plugin_usage (version, phase, metric, bucket, count, max) values (zeroblob(16), 0, 'failed', 1, 1, 0)",
        "insert into plugin_usage (version, phase, metric, bucket, count, max) values (zeroblob(16), 0, 'luck', 0, 1, 0)",
        "insert into plugin_events (plugin, at, kind, who, detail) values ('x', 0, 'forgotten', 'me', '')",
        "insert into plugin_holdings (tenant, plugin, bytes, keys) values ('a', 'x', -1, 0)",
    ] {
        let error = StoreError::from(sqlx::query(sql).execute(&mut writer).await.expect_err(sql));
        assert!(matches!(error, StoreError::Refused(_)), "{sql}: {error}");
    }
    let check: String =
        sqlx::query_scalar("pragma integrity_check").fetch_one(&mut writer).await.unwrap();
    assert_eq!(check, "ok");
}

/// Its leader died with its process; whoever has the file now need not wait for it.
#[tokio::test]
async fn who_opens_a_file_finds_no_leader() {
    let (folder, store) = fresh().await;
    let (now, ttl) = (Timestamp::now(), Duration::from_secs(3600));
    let first = store.lead(WorkerId::generate(), now, ttl).await.unwrap().unwrap();
    store.close().await.unwrap();
    let store = SqliteStore::open(&folder.path().join("data/taskforge.db")).await.unwrap();
    let late = store.promote_due(first, now, 1).await;
    assert_eq!(late, Err(StoreError::Deposed));
    let second = store.lead(WorkerId::generate(), now, ttl).await.unwrap();
    assert_eq!(second, Some(Term(first.0 + 1)));
}
