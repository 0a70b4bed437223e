//! The knobs of a worker and of the sweeper, each with the reason for its default.

use std::time::Duration;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Attempts at the same time. Far more than cores, because handlers wait (for HTTP, for mail) and because the number of slots is
    /// also the largest batch that a claim or a commit can have, which decides the throughput of quick tasks: on two cores and SQLite
    /// 128 slots drained 9,500 fibonacci tasks a second, 256 about 12,000, 512 little more. Each may hold as much memory as its plugin's limit.
    pub concurrency: usize,
    /// How often the worker's lease is renewed. One row a second, however many tasks it holds.
    pub heartbeat_interval: Duration,
    /// How old the last renewal may be before the lease has lapsed. Ten missed beats: a pause that long is a dead or stopped process.
    pub heartbeat_timeout: Duration,
    /// How long running attempts may go on after a request to stop; what is left then goes back to the queue uncounted.
    pub drain_grace: Duration,
    /// How long one wait for hints lasts before the loop looks around.
    pub hint_wait: Duration,
    /// How often progress reports are written.
    pub progress_interval: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 256,
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(30),
            hint_wait: Duration::from_secs(5),
            progress_interval: Duration::from_millis(500),
        }
    }
}

/// How the sweeper works.
#[derive(Debug, Clone)]
pub struct SweeperConfig {
    /// Time between two ticks. Bounds how late a scheduled task or a retry starts.
    pub interval: Duration,
    /// The same as the workers' [`WorkerConfig::heartbeat_timeout`].
    pub heartbeat_timeout: Duration,
    /// Tasks that one statement of a tick may touch.
    pub page: u32,
    /// Pages that a tick may do of each kind of work, so that a backlog cannot turn a tick into a long transaction.
    pub pages_per_tick: u32,
    /// How often all pending tasks are held against the broker's queues, a page a tick, for hints that were lost one by one.
    pub audit_interval: Duration,
}

impl Default for SweeperConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(200),
            heartbeat_timeout: WorkerConfig::default().heartbeat_timeout,
            page: 1_000,
            pages_per_tick: 10,
            audit_interval: Duration::from_secs(30),
        }
    }
}
