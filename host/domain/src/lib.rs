//! The types and rules that all crates share: ids, the states of a task and their transitions, when
//! a failed attempt is tried again, and what a plugin may use.
//!
//! It does no I/O and never waits, and its rules know no time but the one that they are given.
//!
//! | file | the concept |
//! |---|---|
//! | [`ids`] | newtypes for everything that has an identity |
//! | [`json`] | JSON text that is known to parse |
//! | [`state`] | the states of a task and their legal transitions |
//! | [`task`] | a task, as requested, as claimed and as read back |
//! | [`outcome`] | how an attempt ended, and what it used |
//! | [`attempt`] | the record of an attempt, and of events outside one |
//! | [`retry`] | backoff, and what follows an outcome |
//! | [`ageing`] | when an old task goes before more urgent ones |
//! | [`clock`] | the store's time, measured by a monotonic clock |
//! | [`fingerprint`] | which failures are the same failure |
//! | [`policy`] | pauses, caps and shares, as operators set them |
//! | [`limits`] | what one attempt may use |
//! | [`ceilings`] | the most that limits may be on one host |
//! | [`grants`] | what a plugin may reach |
//! | [`settings`] | what an operator sets for one version of a plugin |
//! | [`plugin`] | the description of a plugin |
//! | [`registry`] | registered plugins: versions, and which of them run |
//! | [`usage`] | the total usage of a version's attempts |
//! | [`histogram`] | counts from which percentiles can be read |
//! | [`visible`](mod@visible) | text of strangers, escaped for people |

pub mod ageing;
pub mod attempt;
pub mod ceilings;
pub mod clock;
pub mod fingerprint;
pub mod grants;
pub mod histogram;
pub mod ids;
pub mod json;
pub mod lane_limits;
pub mod limits;
pub mod outcome;
pub mod plugin;
pub mod policy;
pub mod registry;
pub mod retry;
pub mod settings;
pub mod state;
pub mod task;
pub mod usage;
pub mod visible;

pub use ageing::{AGED_SHARE, AGEING_AFTER, AgeingTurns, is_overdue};
pub use attempt::{Attempt, Event, EventKind, LogLevel, LogLine};
pub use ceilings::AboveCeiling;
pub use clock::Clock;
pub use fingerprint::Fingerprint;
pub use grants::{
    DomainPattern, Excess, Grants, HostPattern, HostRule, HttpGrant, InvalidGrant, KeyValueGrant,
    MailGrant, parse_network,
};
pub use histogram::Histogram;
pub use ids::{
    Digest, FleetId, RunLease, SecretName, TaskId, TaskType, TenantId, VersionId, VersionNumber,
    WorkerId,
};
pub use jiff::Timestamp;
pub use json::Json;
pub use lane_limits::LaneLimits;
pub use limits::Limits;
pub use outcome::{Failure, FailureKind, Outcome, Usage};
pub use plugin::{Manifest, PluginInfo, Shape};
pub use policy::{QueuePolicy, TenantPolicy, TypePolicy, Weight};
pub use registry::{
    Canary, CanaryGuard, PluginEvent, PluginEventKind, PluginVersion, RegisteredPlugin, Revision,
    Rollout, VersionState,
};
pub use retry::{Next, RetryPolicy};
pub use settings::PluginSettings;
pub use state::TaskState;
pub use task::{ClaimedTask, Lane, NewTask, Priority, Progress, QueuedTask, Task, TaskError};
pub use usage::VersionUsage;
pub use visible::{is_hidden, one_line, visible};
