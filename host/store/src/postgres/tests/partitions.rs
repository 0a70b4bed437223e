//! Partitions are made, left behind and dropped.

use sqlx::PgConnection;
use taskforge_domain::TaskState;
use uuid::Uuid;

use super::*;
use crate::{StoreError, Term, Upkeep};

const DAY: Duration = Duration::from_secs(24 * 3600);
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

async fn partition_of(connection: &mut PgConnection, id: TaskId) -> String {
    sqlx::query_scalar("select tableoid::regclass::text from tasks where id = $1")
        .bind(id.as_uuid())
        .fetch_one(connection)
        .await
        .unwrap()
}

async fn partitions(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from pg_inherits where inhparent in ('tasks'::regclass, 'attempts'::regclass, 'events'::regclass)")
        .fetch_one(connection)
        .await
        .unwrap()
}

async fn lead(store: &PostgresStore) -> Term {
    let now = Timestamp::now();
    store.lead(WorkerId::generate(), now, DAY).await.unwrap().unwrap()
}

fn after(days: u32) -> Timestamp {
    Timestamp::now() + DAY * days
}

/// A task with the id that it would have got at that time.
fn task_of(time: Timestamp) -> NewTask {
    let millis = u128::try_from(time.as_millisecond()).unwrap();
    let random = TaskId::generate().as_uuid().as_u128() & ((1 << 80) - 1);
    NewTask {
        id: TaskId::from_uuid(Uuid::from_u128((millis << 80) | random)),
        created_at: time,
        ..new_task()
    }
}

async fn state(store: &PostgresStore, id: TaskId) -> Option<TaskState> {
    let task = store.task(&TenantId::default(), id).await.unwrap();
    task.map(|task| task.state)
}

#[tokio::test]
async fn weeks_to_come_are_made_ahead_and_take_what_waits_for_them() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let mut connection = database.connection().await;
    let (now, early) = (new_task(), task_of(after(60)));
    store.enqueue(&[now.clone(), early.clone()]).await.unwrap();
    assert_ne!(partition_of(&mut connection, now.id).await, "tasks_default");
    assert_eq!(partition_of(&mut connection, early.id).await, "tasks_default");
    let claimed = claim(&store, WorkerId::generate(), ClaimBy::Ids(&[early.id])).await;
    store.complete(&completions(&claimed, WorkerId::generate())).await.unwrap();
    let history = store.history(&TenantId::default(), early.id).await.unwrap();

    let term = lead(&store).await;
    let first = store.upkeep(Some(term), Timestamp::now(), RETENTION).await.unwrap();
    assert_eq!(first.partitions_dropped, 0);
    let done = store.upkeep(Some(term), after(59), RETENTION).await.unwrap();
    assert!(done.partitions_made >= 2, "{done:?}");
    assert_ne!(partition_of(&mut connection, early.id).await, "tasks_default");
    assert_eq!(store.history(&TenantId::default(), early.id).await.unwrap(), history);
    let again = store.upkeep(Some(term), after(59), Duration::MAX).await.unwrap();
    assert_eq!(again, Upkeep::default(), "there is nothing more to do");
}

#[tokio::test]
async fn an_old_week_is_dropped_and_what_has_not_ended_is_kept() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let mut connection = database.connection().await;
    let worker = WorkerId::generate();
    let tasks = new_tasks(6);
    store.enqueue(&tasks).await.unwrap();
    let claimed = claim(&store, worker, ClaimBy::Ids(&ids(&tasks)[..4])).await;
    let mut ends = completions(&claimed[..3], worker);
    // One that ended long after it was made.
    ends[2].attempt.finished_at = after(60);
    store.complete(&ends).await.unwrap();
    store.cancel(&TenantId::default(), tasks[4].id, Timestamp::now()).await.unwrap();
    let (running, waiting) = (tasks[3].id, tasks[5].id);
    let kept = store.history(&TenantId::default(), tasks[2].id).await.unwrap().unwrap();
    let before = partitions(&mut connection).await;

    let term = lead(&store).await;
    let mut sum = Upkeep::default();
    for _ in 0..10 {
        let done = store.upkeep(Some(term), after(61), RETENTION).await.unwrap();
        sum.partitions_made += done.partitions_made;
        sum.partitions_dropped += done.partitions_dropped;
        sum.tasks_moved += done.tasks_moved;
        sum.tasks_deleted += done.tasks_deleted;
    }
    assert!(sum.partitions_dropped >= 1);
    assert_eq!((sum.tasks_moved, sum.tasks_deleted), (3, 0));
    let change = i64::from(sum.partitions_made) - i64::from(sum.partitions_dropped);
    assert_eq!(partitions(&mut connection).await, before + 3 * change);
    for gone in [0, 1, 4] {
        assert_eq!(store.history(&TenantId::default(), tasks[gone].id).await.unwrap(), None);
    }
    let orphans: i64 = sqlx::query_scalar(
        "select (select count(*) from attempts) + (select count(*) from events)",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(orphans, 1, "the attempt of the task that ended late");
    assert_eq!(store.history(&TenantId::default(), kept.task.id).await.unwrap().unwrap(), kept);
    for id in [running, waiting] {
        assert_eq!(partition_of(&mut connection, id).await, "tasks_default");
    }
    assert_eq!(state(&store, running).await, Some(TaskState::Running));

    // They live on, and are forgotten in their turn.
    let last = claim(&store, worker, ClaimBy::Ids(&[waiting])).await;
    let mut ends = completions(&[&claimed[3..], &last].concat(), worker);
    for end in &mut ends {
        end.attempt.finished_at = after(62);
    }
    assert_eq!(store.complete(&ends).await.unwrap(), [crate::Commit::Committed; 2]);
    let done = store.upkeep(Some(term), after(91), RETENTION).await.unwrap();
    assert_eq!(done.tasks_deleted, 1, "the one that ended on day 60");
    let done = store.upkeep(Some(term), after(93), RETENTION).await.unwrap();
    assert_eq!(done.tasks_deleted, 2);
    let rows: i64 = sqlx::query_scalar(
        "select (select count(*) from tasks) + (select count(*) from attempts) + (select count(*) from events)",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_short_retention_is_kept_task_by_task() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let worker = WorkerId::generate();
    let tasks = new_tasks(3);
    store.enqueue(&tasks).await.unwrap();
    let claimed = claim(&store, worker, ClaimBy::Ids(&ids(&tasks)[..2])).await;
    let mut ends = completions(&claimed, worker);
    ends[1].attempt.finished_at = Timestamp::now() + Duration::from_secs(3600);
    store.complete(&ends).await.unwrap();
    let term = lead(&store).await;
    let soon = Timestamp::now() + Duration::from_secs(3700);
    let done = store.upkeep(Some(term), soon, Duration::from_secs(3600)).await.unwrap();
    // Early in a week the partition of the week before is there too, empty, and goes.
    assert_eq!(done.tasks_deleted, 1);
    let states = [
        state(&store, tasks[0].id).await,
        state(&store, tasks[1].id).await,
        state(&store, tasks[2].id).await,
    ];
    assert_eq!(states, [None, Some(TaskState::Completed), Some(TaskState::Pending)]);
}

/// Whoever changes partitions gives way: nobody should wait behind it.
#[tokio::test]
async fn upkeep_does_not_wait_for_a_transaction_that_is_left_open() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let term = lead(&store).await;
    let mut other = database.connection().await;
    sqlx::raw_sql("begin; select count(*) from tasks").execute(&mut other).await.unwrap();
    let done = eventually(store.upkeep(Some(term), after(59), RETENTION)).await.unwrap();
    assert_eq!(done, Upkeep::default());
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    let done = store.upkeep(Some(term), after(59), RETENTION).await.unwrap();
    assert!(done.partitions_made > 0, "{done:?}");
}

#[tokio::test]
async fn a_stale_leader_changes_no_partition() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let term = lead(&store).await;
    store.resign(term).await.unwrap();
    lead(&store).await;
    let mut connection = database.connection().await;
    let before = partitions(&mut connection).await;
    let stale = store.upkeep(Some(term), after(200), RETENTION).await;
    assert_eq!(stale, Err(StoreError::Deposed));
    assert_eq!(partitions(&mut connection).await, before);
}

/// Takes the partition of this week away, as if it had not been made in time.
async fn without_this_week(connection: &mut PgConnection) {
    sqlx::raw_sql(
        "do $$ begin
             perform taskforge_drop_partition(week, '{}') from unnest(array[
                 date_trunc('week', now(), 'UTC'), date_trunc('week', now(), 'UTC') + interval '7 days',
                 date_trunc('week', now(), 'UTC') + interval '14 days']) as week
             where to_regclass('tasks_' || to_char(week at time zone 'UTC', 'YYYYMMDD')) is not null;
         end $$",
    )
    .execute(connection)
    .await
    .unwrap();
}

/// Completed tasks with their attempts and events, made within the last minutes.
async fn fill(connection: &mut PgConnection, count: i64) {
    sqlx::query(
        "with made as (
             insert into tasks (id, tenant, task_type, state, priority, max_retries, retry_base_ms, retry_cap_ms,
                                created_at, run_at, finished_at, run_lease, attempt, input)
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 1 - n / 1000), 12, '0')
                        || '7000' || to_hex((random() * 4000000000)::bigint | 2147483648) || lpad(to_hex(n), 8, '0'))::uuid,
                    'default', 'work', 'completed', 3, 3, 1000, 1000, 0, 0, 1, 1, 1, repeat('x', 100)
             from generate_series(1, $1) as n returning id
         ), events as (
             insert into events (task_id, at, kind, run_lease, detail) select id, 0, 'requeued', 1, '' from made
         )
         insert into attempts (task_id, run_lease, number, moved_task, worker, plugin_version, plugin_digest,
                               started_at, finished_at, fuel, peak_memory, wall_micros, host_calls,
                               http_requests, http_bytes, output)
         select id, 1, 1, true, gen_random_uuid(), '1.0.0', decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, 0, 0, 0, 0, '1'
         from made",
    )
    .bind(count)
    .execute(connection)
    .await
    .unwrap();
}

async fn in_default(connection: &mut PgConnection) -> (i64, i64, i64) {
    sqlx::query_as(
        "select (select count(*) from tasks_default), (select count(*) from attempts_default),
                (select count(*) from events_default)",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_come_late_take_in_what_waits_while_more_comes() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let mut connection = database.connection().await;
    without_this_week(&mut connection).await;
    // One of a clock that is wrong, which is for no week yet.
    let stray = task_of(after(300));
    store.enqueue(std::slice::from_ref(&stray)).await.unwrap();
    let many = 40_000;
    fill(&mut connection, many).await;
    let (late, ..) = in_default(&mut connection).await;
    assert_eq!(late, many + 1);

    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let enqueueing: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let task = new_task();
                    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
                    made.push(task.id);
                }
                made
            })
        })
        .collect();
    let term = lead(&store).await;
    // It gives way to others that are quicker, and is repeated.
    let mut made = 0;
    for _ in 0..100 {
        let done = store.upkeep(Some(term), Timestamp::now(), RETENTION).await.unwrap();
        made += done.partitions_made;
        if made > 0 {
            break;
        }
    }
    assert!(made >= 3, "{made} weeks");
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut ids = Vec::new();
    for enqueueing in enqueueing {
        ids.extend(enqueueing.await.unwrap());
    }
    assert_eq!(in_default(&mut connection).await, (1, 0, 0), "the stray");
    assert_eq!(partition_of(&mut connection, stray.id).await, "tasks_default");
    let found: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from tasks), (select count(*) from attempts), (select count(*) from events)",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let enqueued = i64::try_from(ids.len()).unwrap();
    assert_eq!(found, (many + 1 + enqueued, many, many));
    // Both sides of the change are in one week's partition, and it works as any other.
    let claimed = claim(&store, WorkerId::generate(), ClaimBy::Ids(&ids)).await;
    assert_eq!(claimed.len(), ids.len());
    let week = partition_of(&mut connection, ids[0]).await;
    assert_eq!(partition_of(&mut connection, *ids.last().unwrap()).await, week);
    assert_ne!(week, "tasks_default");
    let again = store.upkeep(Some(term), Timestamp::now(), Duration::MAX).await.unwrap();
    assert_eq!(again, Upkeep::default(), "there is nothing more to do");
    // In time it goes, and takes along what has ended.
    for days in [40, 41, 42] {
        store.upkeep(Some(term), after(days), RETENTION).await.unwrap();
    }
    let left: i64 = sqlx::query_scalar("select count(*) from tasks where finished_at is not null")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(state(&store, ids[0]).await, Some(TaskState::Running));
}

#[tokio::test]
async fn several_weeks_that_come_late_are_made_as_one() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let mut connection = database.connection().await;
    // Nobody saw to it for five weeks.
    let tasks: Vec<_> = (0..40).map(|day| task_of(after(day))).collect();
    store.enqueue(&tasks).await.unwrap();
    let waiting = in_default(&mut connection).await.0;
    assert!(waiting >= 14, "{waiting}");
    let term = lead(&store).await;
    let done = store.upkeep(Some(term), after(38), RETENTION).await.unwrap();
    assert!(done.partitions_made >= 2, "{done:?}");
    assert_eq!(in_default(&mut connection).await, (0, 0, 0));
    let claimed = claim(&store, WorkerId::generate(), ClaimBy::Ids(&ids(&tasks))).await;
    assert_eq!(claimed.len(), 40);
    let again = store.upkeep(Some(term), after(38), Duration::MAX).await.unwrap();
    assert_eq!(again, Upkeep::default());
}

#[tokio::test]
async fn weeks_that_come_late_on_both_sides_of_one_that_is_there_are_made() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let mut connection = database.connection().await;
    // In the middle of a week, counted from this one.
    let today = Timestamp::now().as_second() / 86_400;
    let middle_of = |week: i64| after(u32::try_from(3 - (today + 3) % 7 + 7 * week).unwrap());
    let tasks: Vec<_> = [4, 4, 6, 6].map(|week| task_of(middle_of(week))).into();
    store.enqueue(&tasks).await.unwrap();
    assert_eq!(in_default(&mut connection).await.0, 4);
    let between = middle_of(5).as_microsecond();
    let made: i32 = sqlx::query_scalar(
        "select taskforge_make_partitions(to_timestamp($1::bigint / 1e6), to_timestamp($1::bigint / 1e6))",
    )
    .bind(between)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(made, 1, "of the week between, in which nothing waits");
    assert_eq!(in_default(&mut connection).await.0, 4);
    let term = lead(&store).await;
    let done = store.upkeep(Some(term), middle_of(4), RETENTION).await.unwrap();
    assert!(done.partitions_made >= 2, "{done:?}");
    assert_eq!(in_default(&mut connection).await, (0, 0, 0));
    let mut weeks = Vec::new();
    for task in &tasks {
        weeks.push(partition_of(&mut connection, task.id).await);
    }
    assert_ne!(weeks[0], weeks[2]);
    assert!(!weeks.iter().any(|week| week == "tasks_default"), "{weeks:?}");
    let claimed = claim(&store, WorkerId::generate(), ClaimBy::Ids(&ids(&tasks))).await;
    assert_eq!(claimed.len(), 4);
}
