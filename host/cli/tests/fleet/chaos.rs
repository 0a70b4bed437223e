//! The kill matrix: what dies or breaks while a load runs, and that nothing is lost by it.
//!
//! Each scenario starts servers and processes of its own, enqueues a mixed load (quick, slow,
//! failing, retrying), breaks something in the middle of it, and waits until every acknowledged
//! task has ended. Then it counts: commits in the database, by a trigger that writes down each; and
//! runs of the handlers, by a server outside that each attempt tells of itself.
//!
//! | file | the concept |
//! |---|---|
//! | `load` | enqueues until told to stop, and remembers what was acknowledged |
//! | `result` | counts what was lost or ran twice, and measures the recovery |
//! | `stores` | the scenarios in which a database or Redis is at fault, or what stands before it |
//! | `embedded` | the scenario of the embedded database |
//! | `caps` | that a cap holds meanwhile |

mod caps;
mod embedded;
mod load;
mod result;
mod stores;

use std::{process::Command, time::Duration};

use taskforge_testing::{clock::HostClock, proxy::Proxy, wait::wait_until};
use tokio::sync::Mutex;

use self::{
    load::{Counter, Load},
    result::Hit,
};
use crate::{bed::Bed, node::Node};

/// Scenarios measure recovery, and must not share the processor.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How long things take: briefly for every test run, or as `docs/reliability.md` says.
#[derive(Clone, Copy)]
struct Scale {
    tasks: usize,
    /// Of the workers' leases.
    lease: &'static str,
    /// How long a server stays away.
    outage: Duration,
    /// Kills in a row, a second apart.
    kills: u32,
}

fn scale() -> Scale {
    if std::env::var("TASKFORGE_CHAOS").is_ok_and(|chaos| chaos == "full") {
        Scale { tasks: 20_000, lease: "10s", outage: Duration::from_secs(20), kills: 10 }
    } else {
        Scale { tasks: 1_000, lease: "2s", outage: Duration::from_secs(3), kills: 2 }
    }
}

/// A fleet under load.
struct Storm {
    bed: Bed,
    api: Option<Node>,
    workers: Vec<Node>,
    counter: Counter,
    lease: &'static str,
    /// What must outlast the load.
    keep: Vec<Box<dyn std::any::Any>>,
}

impl Storm {
    fn start_worker(&self) -> Node {
        Node::start(&mut self.worker_command())
    }

    fn worker_command(&self) -> Command {
        let mut command = self.bed.worker_command(&["--heartbeat-timeout", self.lease]);
        // Enough for the load and for what a fault leaves behind: the recovery is measured, not the
        // queue.
        command.env("TASKFORGE_CONCURRENCY", "256");
        command
    }
}

/// Runs a scenario: `fault` breaks something and puts it right again, and says when and what was
/// hit.
async fn storm(
    name: &str,
    lease: Option<&'static str>,
    fault: impl AsyncFnOnce(&mut Storm, Scale) -> Hit,
) {
    let fault = async |storm: &mut Storm, (): (), scale: Scale| fault(storm, scale).await;
    storm_on(|| (Bed::new(), ()), name, lease, fault).await;
}

/// The same on servers of the scenario's own. What else it has made of them is handed to `fault`.
async fn storm_on<T>(
    servers: impl FnOnce() -> (Bed, T),
    name: &str,
    lease: Option<&'static str>,
    fault: impl AsyncFnOnce(&mut Storm, T, Scale) -> Hit,
) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let scale = scale();
    let (bed, more) = servers();
    result::count_commits(&bed);
    let mut storm = Storm {
        api: Some(bed.start_api()),
        workers: Vec::new(),
        counter: Counter::start().await,
        lease: lease.unwrap_or(scale.lease),
        keep: Vec::new(),
        bed,
    };
    storm.workers = (0..2).map(|_| storm.start_worker()).collect();
    let load = Load::start(storm.bed.url("/tasks/batch"), &storm.counter, scale.tasks);
    wait_until("the load is under way", async || load.acknowledged() >= scale.tasks / 4).await;
    let hit = fault(&mut storm, more, scale).await;
    let recovery = hit.recovered(&storm.bed).await;
    let acknowledged = load.finish().await;
    let mut result = result::measure(&mut storm, &acknowledged).await;
    result.recovery = recovery;
    result.print(name);
    result.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_every_second() {
    storm("SIGKILL of a worker every second", None, kill_workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_every_second_with_a_short_lease() {
    storm("SIGKILL of a worker every second, --heartbeat-timeout 2s", Some("2s"), kill_workers)
        .await;
}

async fn kill_workers(storm: &mut Storm, scale: Scale) -> Hit {
    let mut hit = None;
    for _ in 0..scale.kills {
        let victim = storm.workers.remove(0);
        victim.kill();
        // Each round, because the last one lasts longest.
        hit = Some(Hit::now(&storm.bed));
        storm.workers.push(storm.start_worker());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    hit.expect("at least one kill")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_killed_in_mid_enqueue() {
    storm("SIGKILL of the API in mid-enqueue", None, async |storm, scale| {
        let mut hit = None;
        for _ in 0..scale.kills {
            storm.api.take().expect("it runs").kill();
            hit = Some(Hit::now(&storm.bed));
            storm.api = Some(storm.bed.start_api());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        hit.expect("at least one kill")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_flushed() {
    storm("Redis FLUSHALL", None, async |storm, _| {
        let hit = Hit::now(&storm.bed);
        for _ in 0..3 {
            let redis = storm.bed.redis.as_ref().expect("there is one");
            assert_eq!(redis.command("flushall"), "+OK");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away() {
    storm("Redis stopped", None, async |storm, scale| {
        let hit = Hit::now(&storm.bed);
        storm.bed.redis.as_mut().expect("there is one").stop();
        tokio::time::sleep(scale.outage).await;
        storm.bed.redis.as_mut().expect("there is one").resume();
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarted() {
    storm("PostgreSQL restarted (immediate)", None, async |storm, _| {
        let hit = Hit::now(&storm.bed);
        storm.bed.postgres.stop();
        storm.bed.postgres.resume();
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_database_connection_terminated() {
    storm("pg_terminate_backend of every connection", None, async |storm, scale| {
        let hit = Hit::now(&storm.bed);
        for _ in 0..scale.kills {
            storm.bed.sql(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_past_its_lease_and_continued() {
    storm(
        "SIGSTOP of a worker past its lease, then SIGCONT",
        None,
        async |storm, _| {
            let lease = humantime::parse_duration(storm.lease).unwrap();
            // Caught with tasks in its hands, or else this would show nothing.
            let holds = format!(
                "select count(*) from tasks join workers on workers.id = tasks.worker where state = 'running' and pid = {}",
                storm.workers[0].pid()
            );
            let hit = loop {
                storm.workers[0].signal("STOP");
                if storm.bed.count(&holds) > 0 {
                    break Hit::now(&storm.bed);
                }
                storm.workers[0].signal("CONT");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            tokio::time::sleep(lease + Duration::from_secs(3)).await;
            let held = "select count(*) from tasks join workers on workers.id = tasks.worker
                    where state = 'running' and lapsed_at is not null";
            assert_eq!(
                storm.bed.count(held),
                0,
                "its tasks were taken over while it stood still"
            );
            storm.workers[0].signal("CONT");
            hit
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_postgres() {
    storm("network cut between a worker and PostgreSQL", None, async |storm, _| {
        let proxy = Proxy::start(storm.bed.postgres.port()).await;
        let direct = storm.bed.database_url.clone();
        let port = storm.bed.postgres.port().to_string();
        storm.bed.database_url = direct.replace(&port, &proxy.port().to_string());
        let behind = storm.start_worker();
        storm.bed.database_url = direct;
        storm.workers.push(behind);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lease = humantime::parse_duration(storm.lease).unwrap();
        let hit = Hit::now(&storm.bed);
        proxy.cut();
        tokio::time::sleep(lease + Duration::from_secs(3)).await;
        proxy.mend();
        // The worker behind the proxy must find its way back while it is still there.
        let (_, port) = storm.workers[2].url.rsplit_once(':').unwrap();
        wait_until(&format!("the worker at {port} is ready again"), async || {
            storm.workers[2].readyz().await.is_some_and(|(status, _)| status == 200)
        })
        .await;
        let mut worker = storm.workers.pop().expect("it is the last");
        worker.signal("TERM");
        assert!(worker.wait_for_exit().await.success());
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_of_compiled_code_wiped() {
    storm("plugin cache wiped, worker restarted", None, async |storm, _| {
        let cache = storm.bed.data.path().join("a-cache-of-its-own");
        std::fs::create_dir_all(&cache).unwrap();
        // A worker whose cache is wiped below it, and that starts again without one.
        let start = |storm: &Storm| {
            let mut command = storm.worker_command();
            Node::start(command.env("TASKFORGE_CACHE_DIR", &cache))
        };
        let node = start(storm);
        std::fs::remove_dir_all(&cache).unwrap();
        let hit = Hit::now(&storm.bed);
        node.kill();
        let again = start(storm);
        storm.workers.push(again);
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_killed_at_once() {
    storm("all workers killed at once", None, async |storm, _| {
        for worker in storm.workers.drain(..) {
            worker.kill();
        }
        let hit = Hit::now(&storm.bed);
        storm.workers = (0..2).map(|_| storm.start_worker()).collect();
        hit
    })
    .await;
}

/// How far clocks are set: further than any lease, and than any delay of the load.
const STEP: i64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn clocks_set_forward_and_back() {
    let Some(clock) = HostClock::new() else {
        return;
    };
    let servers = || {
        let mut bed = Bed::new();
        bed.clock = Some(clock);
        (bed, ())
    };
    storm_on(
        servers,
        "the hosts' clocks set by an hour, forward and back",
        // So long that nobody is silent for it, however busy the machine is.
        Some("10s"),
        async |storm: &mut Storm, (): (), scale: Scale| {
            let lease = humantime::parse_duration(storm.lease).unwrap();
            let hit = Hit::now(&storm.bed);
            for seconds in [STEP, -STEP, 0] {
                storm.bed.clock.as_ref().expect("there is one").set(seconds);
                tokio::time::sleep((lease + lease / 2).max(scale.outage / 3)).await;
            }
            let lapsed = storm.bed.count("select count(*) from events where kind = 'lapsed'");
            assert_eq!(lapsed, 0, "nobody was silent");
            hit
        },
    )
    .await;
}
