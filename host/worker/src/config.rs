//! The knobs of a worker and of the sweeper, each with the reason for its default.

use std::time::Duration;

use crate::admission::permits;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Attempts at the same time. Far more than cores, because handlers wait (for HTTP, for mail).
    /// Each may use as much memory as its plugin's limit. A quarter as many more are an overflow for
    /// lanes that others would keep out. While attempts are quick, up to eight times as many tasks
    /// are in flight (claimed and waiting for a permit, or ended and waiting for their commit),
    /// because batches decide the throughput then.
    pub concurrency: usize,
    /// Instances that the sandbox has for this worker: [`permits`](crate::permits()) of the above,
    /// unless there is no room for so many.
    pub instances: usize,
    /// How often the worker's lease is renewed. One row a second, however many tasks it holds.
    pub heartbeat_interval: Duration,
    /// How old the last renewal may be before the lease has lapsed. Ten missed beats: a pause that
    /// long is a dead or stopped process. Each worker brings its own to the fleet. With less than
    /// five beats in it, it beats more often than [`Self::heartbeat_interval`].
    pub heartbeat_timeout: Duration,
    /// How long running attempts may go on after a request to stop; what is left then goes back to
    /// the queue uncounted.
    pub drain_grace: Duration,
    /// How long one wait for hints lasts before the loop looks around. An idle worker takes tasks
    /// of a plugin that is new after that at the latest: until then it waits for the types that it
    /// served before.
    pub hint_wait: Duration,
    /// How often it is written what running attempts say: reports of progress, the latest lines of
    /// the log.
    pub progress_interval: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 256,
            instances: permits(256),
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(30),
            hint_wait: Duration::from_secs(1),
            progress_interval: Duration::from_millis(500),
        }
    }
}

/// How the sweeper works.
#[derive(Debug, Clone)]
pub struct SweeperConfig {
    /// Time between two ticks. Bounds how late a scheduled task or a retry starts.
    pub interval: Duration,
    /// How long one sweeper leads without saying so again, which it does five times in that time.
    /// Bounds how long a fleet whose leader died has none.
    pub term: Duration,
    /// How often lapsed workers are looked for.
    pub lapse_interval: Duration,
    /// Tasks that one statement of a tick may touch.
    pub page: u32,
    /// How long a tick may go on with each kind of work, so that a backlog of one kind does not
    /// hold up the others.
    pub budget: Duration,
    /// How often all pending tasks are held against the broker's queues, some pages a tick, for
    /// hints that were lost one by one.
    pub audit_interval: Duration,
    /// How often the store makes room for tasks to come and forgets old ones.
    pub upkeep_interval: Duration,
    /// How long finished tasks are kept.
    pub retention: Duration,
}

impl Default for SweeperConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(200),
            term: Duration::from_secs(5),
            lapse_interval: Duration::from_millis(500),
            page: 1_000,
            budget: Duration::from_millis(50),
            audit_interval: Duration::from_secs(30),
            upkeep_interval: Duration::from_secs(60),
            retention: Duration::from_secs(30 * 24 * 3600),
        }
    }
}
