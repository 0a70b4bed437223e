//! Commands that talk to a server.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use taskforge_domain::{FailureKind, Fingerprint, TaskState, TaskType, TenantId, Timestamp};

use crate::address;

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server's address; http:// may be left out [default: where the `taskforge dev` that runs
    /// on the data folder listens, or http://127.0.0.1:8000]
    #[arg(long, env = "TASKFORGE_SERVER", value_name = "URL", value_parser = address::server_url)]
    pub(crate) server: Option<reqwest::Url>,

    /// The server's key [default: for the `taskforge dev` that runs on the data folder, the one in
    /// it]
    #[arg(long, env = "TASKFORGE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    /// The data folder of `taskforge dev`, for its address and its key
    #[arg(long, env = "TASKFORGE_DATA_DIR", default_value = ".taskforge", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// Of commands that delete.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask; without a terminal to ask at, nothing is deleted unless this is said
    #[arg(long, short, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// Say how many would be deleted, and delete none
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Enqueue a task
    Submit(SubmitArgs),
    /// Show a task
    Get(TaskIdArgs),
    /// List tasks, newest first
    List(ListArgs),
    /// Wait until a task has ended and show it; exits with 3 unless it completed
    Wait(WaitArgs),
    /// Show what happened to a task
    Logs(TaskIdArgs),
    /// Call off a task that has not ended
    Cancel(TaskIdArgs),
    /// Run a failed or cancelled task again
    Retry(TaskIdArgs),
    /// Delete the oldest tasks that have ended
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// Name of the plugin that is to handle the task
    pub(crate) task_type: TaskType,
    /// Input as JSON; `-` reads standard input, `@FILE` a file
    #[arg(long, short, default_value = "{}", value_name = "JSON")]
    pub(crate) input: String,
    /// 1 (lowest) to 5 (highest)
    #[arg(long, short, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) priority: u8,
    /// Attempts after the first
    #[arg(long)]
    pub(crate) max_retries: Option<u32>,
    /// Run it this much later, such as 90s or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "run_at")]
    pub(crate) delay: Option<Duration>,
    /// Run it at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) run_at: Option<Timestamp>,
    /// Wait until it has ended; exits with 3 unless it completed
    #[arg(long, short)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TaskIdArgs {
    /// The task's id, or so much of its beginning that no other task has it
    #[arg(value_parser = id)]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The task's id, or so much of its beginning that no other task has it
    #[arg(value_parser = id)]
    pub(crate) id: String,
    /// Give up after this long; exits with 7 then
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only tasks in this state (repeatable)
    #[arg(long, value_name = "STATE")]
    pub(crate) status: Vec<TaskState>,
    /// Only tasks of this type (repeatable)
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) task_type: Vec<TaskType>,
    /// Only tasks whose last failure was of this kind (repeatable)
    #[arg(long, value_name = "KIND")]
    pub(crate) error_kind: Vec<FailureKind>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// How many; tasks that have not ended are left alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) first: u32,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first
    List(DlqListArgs),
    /// Group dead letters by what went wrong
    Groups(DlqGroupsArgs),
    /// Make dead letters pending again, with fresh attempts
    Requeue(DlqRequeueArgs),
    /// Delete dead letters with their logs
    Delete(DlqDeleteArgs),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct DlqFilterArgs {
    /// Only tasks of this type (repeatable)
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) task_type: Vec<TaskType>,
    /// Only tasks whose last failure was of this kind (repeatable)
    #[arg(long, value_name = "KIND")]
    pub(crate) error_kind: Vec<FailureKind>,
    /// Only tasks of this group: the fingerprint that `dlq groups` shows
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) group: Option<Fingerprint>,
    /// Only tasks that failed at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) failed_from: Option<Timestamp>,
    /// Only tasks that failed before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) failed_before: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct DlqListArgs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DlqGroupsArgs {
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DlqRequeueArgs {
    /// These tasks, by their ids or what is enough of them
    #[arg(value_name = "ID", value_parser = id, conflicts_with_all = ["task_type", "error_kind", "group", "failed_from", "failed_before", "all"])]
    pub(crate) ids: Vec<String>,
    /// All dead letters, when no filter is given
    #[arg(long)]
    pub(crate) all: bool,
    /// Give them this input instead of their own; `-` reads standard input, `@FILE` a file
    #[arg(long, short, value_name = "JSON")]
    pub(crate) input: Option<String>,
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DlqDeleteArgs {
    /// All dead letters, when no filter is given
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: DlqFilterArgs,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Show how many tasks wait, run and have failed, what is paused, capped and weighted
    List(QueueListArgs),
    /// Let tasks of a type wait; those that run go on
    Pause(QueueTypeArgs),
    /// Let tasks of a type run again
    Resume(QueueTypeArgs),
    /// Cap how many attempts of a type may run at once in the whole fleet
    Limit(QueueLimitArgs),
    /// Set a tenant's share of the fleet and its cap
    Tenant(QueueTenantArgs),
}

#[derive(Debug, Args)]
pub(crate) struct QueueListArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueueTypeArgs {
    /// The task type
    pub(crate) task_type: TaskType,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueueLimitArgs {
    /// The task type
    pub(crate) task_type: TaskType,
    /// How many at once; `none` lifts the cap
    #[arg(value_parser = cap, value_name = "N|none")]
    pub(crate) max_running: Cap,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueueTenantArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// Its share, 1 to 1000: a tenant of weight 3 is served three times as often as one of weight 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) weight: Option<u32>,
    /// How many attempts of it may run at once in the whole fleet; `none` lifts the cap
    #[arg(long, value_parser = cap, value_name = "N|none")]
    pub(crate) max_running: Option<Cap>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// A task's id, or its beginning.
fn id(text: &str) -> Result<String, String> {
    let digits = text.bytes().filter(|byte| *byte != b'-');
    let is_id = text.len() <= 36
        && digits.clone().count() > 0
        && digits.clone().all(|byte| byte.is_ascii_hexdigit());
    match is_id {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("is no id: hexadecimal digits, with or without dashes".to_owned()),
    }
}

/// A cap, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cap(pub(crate) Option<u32>);

fn cap(text: &str) -> Result<Cap, String> {
    match text {
        "none" => Ok(Cap(None)),
        _ => text
            .parse()
            .map(|cap| Cap(Some(cap)))
            .map_err(|_| "is neither a whole number nor `none`".to_owned()),
    }
}
