//! Counts, and says how long the recovery took.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use taskforge_testing::wait::wait_until;

use super::{Storm, load::Expected};
use crate::bed::Bed;

/// A moment at which something broke, and the tasks that were under way then.
pub(super) struct Hit {
    at: Instant,
    tasks: Vec<String>,
}

impl Hit {
    /// The tasks that run are those that are hit.
    pub(super) fn now(bed: &Bed) -> Self {
        let at = Instant::now();
        let tasks = bed.sql("select id from tasks where state = 'running'");
        Self { at, tasks: tasks.lines().map(str::to_owned).collect() }
    }

    /// How long it took from that moment until each of those tasks had ended.
    pub(super) async fn recovered(self, bed: &Bed) -> Recovery {
        let array = self.tasks.join(",");
        let left = format!(
            "select count(*) from tasks where id = any('{{{array}}}'::uuid[]) and state in ('scheduled', 'pending', 'running')"
        );
        let deadline = Instant::now() + Duration::from_secs(120);
        while bed.count(&left) > 0 {
            assert!(Instant::now() < deadline, "tasks that were hit have not ended within 2 min");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Recovery { took: self.at.elapsed(), tasks: self.tasks.len() }
    }
}

/// How a fleet came out of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recovery {
    took: Duration,
    tasks: usize,
}

/// Writes down each time that a task reaches a terminal state, whatever its row says afterwards.
pub(super) fn count_commits(bed: &Bed) {
    bed.sql(
        "create table chaos_commits (task uuid not null, state text not null);
         create function chaos_commit() returns trigger language plpgsql as $$
         begin
             insert into chaos_commits values (new.id, new.state);
             return null;
         end $$;
         create trigger chaos_commit after update on tasks for each row
         when (old.state is distinct from new.state and new.state in ('completed', 'failed', 'cancelled'))
         execute function chaos_commit()",
    );
}

/// The counts of one row.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) recovery: Recovery,
    acknowledged: usize,
    /// Acknowledged ids that the store does not know, or that have not ended as they must.
    lost: Vec<String>,
    /// Tasks that reached a terminal state more than once, or have more than one attempt that moved
    /// them there.
    doubled: Vec<String>,
    /// Tasks that ran more often than attempts and lapses account for.
    unaccounted: Vec<String>,
    /// Tasks whose number of attempts is not that of the attempts on record, or whose lapses are
    /// not those of their history.
    miscounted: Vec<String>,
    lapses: u64,
    runs: usize,
    counted: usize,
    leaks: Vec<String>,
}

/// Waits until every task has ended, and counts.
pub(super) async fn measure(
    storm: &mut Storm,
    acknowledged: &HashMap<String, Expected>,
) -> Outcome {
    let bed = &storm.bed;
    let open = "select count(*) from tasks where state in ('scheduled', 'pending', 'running')";
    let deadline = Instant::now() + Duration::from_secs(180);
    while bed.count(open) > 0 {
        let left =
            || bed.sql("select state, task_type, count(*) from tasks group by 1, 2 order by 1, 2");
        assert!(Instant::now() < deadline, "tasks have not ended within 3 min:\n{}", left());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let states: HashMap<String, String> = pairs(&bed.sql("select id, state from tasks"));
    let lost = acknowledged.iter().filter(|(id, expected)| {
        let state = states.get(*id).map(String::as_str);
        state != Some(expected.as_str())
    });
    let mut doubled: HashSet<String> = lines(&bed.sql(
        "select task from chaos_commits group by task having count(*) > 1
         union select task_id from attempts where output is not null group by task_id having count(*) > 1",
    ));
    // Each completed task has the one attempt that completed it.
    doubled.extend(lines(&bed.sql(
        "select id from tasks where state = 'completed'
         and (select count(*) from attempts where task_id = id and output is not null) <> 1",
    )));
    doubled.extend(lines(
        &bed.sql("select id from tasks where id not in (select task from chaos_commits)"),
    ));
    let runs = storm.counter.runs();
    let accounted: HashMap<String, usize> = pairs(&bed.sql(
        "select id, (select count(*) from attempts where task_id = id)
                  + (select count(*) from events where task_id = id and kind in ('lapsed', 'handed_back'))
         from tasks where task_type = 'hostile'",
    ))
    .into_iter()
    .map(|(id, count)| (id, count.parse().unwrap()))
    .collect();
    let unaccounted = accounted.iter().filter(|(id, accounted)| {
        let runs = runs.get(*id).copied().unwrap_or_default();
        runs == 0 || runs > **accounted
    });
    Outcome {
        acknowledged: acknowledged.len(),
        lost: lost
            .map(|(id, expected)| format!("{id} {expected:?} {:?}", states.get(id)))
            .collect(),
        doubled: doubled.into_iter().collect(),
        unaccounted: unaccounted
            .map(|(id, accounted)| {
                format!("{id}: {:?} runs, {accounted} accounted for", runs.get(id))
            })
            .collect(),
        miscounted: lines(&bed.sql(
            "select id from tasks
             where attempt <> (select count(*) from attempts where task_id = id)
                or lapses <> (select count(*) from events where task_id = id and kind = 'lapsed')",
        ))
        .into_iter()
        .collect(),
        lapses: bed.count("select count(*) from events where kind = 'lapsed'"),
        runs: runs.values().sum(),
        counted: accounted.len(),
        leaks: leaks(storm).await,
        ..Outcome::default()
    }
}

/// What a fleet at rest must not hold.
async fn leaks(storm: &mut Storm) -> Vec<String> {
    let bed = &storm.bed;
    let mut leaks = Vec::new();
    let processes = storm.workers.len() as u64 + 1;
    wait_until("only the workers that run are registered as alive", async || {
        bed.count("select count(*) from workers where lapsed_at is null")
            == storm.workers.len() as u64
    })
    .await;
    // Twelve for the store, two for notices, one for a worker's heartbeat.
    let allowed = processes * 15;
    let connections =
        bed.count("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()");
    if connections > allowed {
        leaks.push(format!("{connections} database connections of {processes} processes"));
    }
    for node in storm.workers.iter_mut().chain(&mut storm.api) {
        if !node.is_alive() {
            leaks.push("a process is gone".to_owned());
            continue;
        }
        let descriptors = node.descriptors();
        if descriptors > 200 {
            leaks.push(format!("{descriptors} descriptors in one process"));
        }
        if node.readyz().await.is_none_or(|(status, _)| status != 200) {
            leaks.push(format!("{} is not ready", node.url));
        }
    }
    leaks
}

impl Outcome {
    pub(super) fn print(&self, name: &str) {
        println!(
            "CHAOS | {name} | {} | {} | {} | {:.1} s ({} tasks) | {} | {:.3} |",
            self.acknowledged,
            self.lost.len(),
            self.doubled.len(),
            self.recovery.took.as_secs_f64(),
            self.recovery.tasks,
            self.lapses,
            self.runs as f64 / self.counted.max(1) as f64,
        );
    }

    pub(super) fn check(&self) {
        let first = |ids: &[String]| ids.iter().take(5).cloned().collect::<Vec<_>>();
        assert!(self.lost.is_empty(), "{} lost: {:?}", self.lost.len(), first(&self.lost));
        assert!(
            self.doubled.is_empty(),
            "{} committed twice: {:?}",
            self.doubled.len(),
            first(&self.doubled)
        );
        assert!(
            self.unaccounted.is_empty(),
            "{} ran unaccounted: {:?}",
            self.unaccounted.len(),
            first(&self.unaccounted)
        );
        assert!(
            self.miscounted.is_empty(),
            "{} counted wrongly: {:?}",
            self.miscounted.len(),
            first(&self.miscounted)
        );
        assert!(self.leaks.is_empty(), "{:?}", self.leaks);
        // No more than what the leases and the retries allow on a machine that does nothing else;
        // the measured figures are far lower.
        assert!(
            self.recovery.took < Duration::from_secs(60),
            "recovery took {:?}",
            self.recovery.took
        );
    }
}

fn lines(text: &str) -> HashSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn pairs(text: &str) -> HashMap<String, String> {
    text.lines()
        .map(|line| {
            let (id, value) = line.split_once('|').unwrap();
            (id.to_owned(), value.to_owned())
        })
        .collect()
}
