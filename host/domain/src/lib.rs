//! What a task is.
//!
//! This room holds the words that every other room speaks, and the rules that no room may break:
//! ids, the states of a task and the moves between them, when a failed attempt is tried again, and
//! what a plugin may use. It does no I/O and never waits, and its rules know no clock but the time
//! that they are handed.
//!
//! | file | the concept |
//! |---|---|
//! | [`ids`] | newtypes for everything that has an identity |
//! | [`json`] | JSON text that is known to parse |
//! | [`state`] | the states of a task and the legal moves |
//! | [`task`] | a task, as requested, as claimed and as read back |
//! | [`outcome`] | how an attempt ended, and what it used |
//! | [`attempt`] | the record that stays of an attempt, and of what happened outside one |
//! | [`retry`] | backoff, and what follows an outcome |
//! | [`ageing`] | when a waiting task goes before more urgent ones |
//! | [`clock`] | the store's time, told by a clock that nobody sets |
//! | [`fingerprint`] | which failures are the same failure |
//! | [`policy`] | pauses, caps and shares, as operators set them |
//! | [`limits`] | what one attempt may use |
//! | [`ceilings`] | the most that limits may be on one host |
//! | [`grants`] | what a plugin may reach |
//! | [`settings`] | what an operator sets for one version of a plugin |
//! | [`plugin`] | what is known of a loaded plugin |
//! | [`registry`] | plugins as they are registered: versions, and which of them run |
//! | [`usage`] | what the attempts of a version used, added up |
//! | [`histogram`] | counts from which percentiles can be read |
//! | [`visible`](mod@visible) | text of strangers, made safe to look at |

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
pub use task::{ClaimedTask, Lane, NewTask, Priority, Progress, Task, TaskError};
pub use usage::VersionUsage;
pub use visible::{is_hidden, one_line, visible};
