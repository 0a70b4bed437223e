//! The rules of [`queue`](crate::queue) as Lua scripts, their arguments and answers.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use redis::{Script, ScriptInvocation};
use taskforge_domain::{Clock, Lane, Priority, QueuePolicy, TaskId, TaskType, TenantId};
use uuid::Uuid;

use super::RedisConfig;
use crate::{
    BrokerError, BrokerResult, Popped, QueuedTask, ShortLane, Want,
    local::millis_of,
    queue::{AGED_SHARE, ASIDE, ASIDE_STEP, ASIDE_STEPS, MAX_COUNTERS, TURN, millis},
};

/// The scripts, each with the prelude before it. The server caches them by hash; a script's text is
/// sent only when the server does not know it.
#[derive(Debug)]
pub(super) struct Scripts {
    base: String,
    capacity: usize,
    ageing_after: u64,
    clock: Clock,
    push: Script,
    pop: Script,
    short_lanes: Script,
    refill: Script,
    set_policy: Script,
    completeness: Script,
    hello: Script,
    erase: Script,
}

/// Lanes in one answer of `short_lanes`: more than a sweeper fills in a tick.
const MAX_SHORT_LANES: usize = 256;

/// The error code of a script that found another fleet's queues.
pub(super) const OTHER_FLEET: &str = "OTHERFLEET";

impl Scripts {
    pub(super) fn new(config: &RedisConfig) -> Self {
        let fleet = config.fleet.map_or_else(String::new, |fleet| fleet.to_string());
        let script = |body: &str| {
            Script::new(&format!(
                "local TURN, ASIDE, ASIDE_STEP, ASIDE_STEPS = {TURN}, {}, {}, {ASIDE_STEPS}\n\
                 local FLEET, OTHER_FLEET = '{fleet}', '{OTHER_FLEET}'\n\
                 {}{body}",
                millis(ASIDE),
                millis(ASIDE_STEP),
                include_str!("prelude.lua")
            ))
        };
        Self {
            base: format!("{{{}}}", config.prefix),
            capacity: config.lane_capacity.max(1),
            ageing_after: millis(config.ageing_after),
            clock: config.clock.clone(),
            push: script(include_str!("push.lua")),
            pop: script(include_str!("pop.lua")),
            short_lanes: script(include_str!("short_lanes.lua")),
            refill: script(include_str!("refill.lua")),
            set_policy: script(include_str!("set_policy.lua")),
            completeness: script(include_str!("completeness.lua")),
            hello: script(include_str!("hello.lua")),
            erase: script(include_str!("erase.lua")),
        }
    }

    /// The full name of a key or channel.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.base)
    }

    pub(super) fn push(&self, hints: &[QueuedTask]) -> ScriptInvocation<'_> {
        self.push_until(hints, 0)
    }

    pub(super) fn set_aside(&self, hints: &[QueuedTask]) -> ScriptInvocation<'_> {
        self.push_until(hints, millis_of(&self.clock) + millis(ASIDE))
    }

    /// Pushes hints and puts their lanes aside until then; 0: not.
    fn push_until(&self, hints: &[QueuedTask], aside_until: u64) -> ScriptInvocation<'_> {
        let mut lanes: BTreeMap<&Lane, Vec<u8>> = BTreeMap::new();
        for hint in hints {
            lanes.entry(&hint.lane).or_default().extend_from_slice(hint.id.as_uuid().as_bytes());
        }
        let mut call = self.push.key(&self.base);
        call.arg(self.capacity).arg(aside_until);
        for (lane, ids) in lanes {
            call.arg(lane.priority.get())
                .arg(lane.task_type.as_str())
                .arg(lane.tenant.as_str())
                .arg(ids);
        }
        call
    }

    pub(super) fn pop(&self, want: &Want<'_>) -> ScriptInvocation<'_> {
        let mut call = self.pop.key(&self.base);
        call.arg(millis_of(&self.clock))
            .arg(want.max)
            .arg(self.ageing_after)
            .arg(AGED_SHARE)
            .arg(name_of(want.types))
            .arg(MAX_COUNTERS)
            .arg(u8::from(!want.lanes.takes_others()))
            .arg(want.types.len());
        for name in want.types {
            call.arg(name.as_str());
        }
        for (task_type, tenant, most) in want.lanes.iter() {
            call.arg(format!("{task_type}:{tenant}")).arg(most.min(want.max));
        }
        call
    }

    pub(super) fn short_lanes(&self) -> ScriptInvocation<'_> {
        let mut call = self.short_lanes.key(&self.base);
        call.arg(self.capacity).arg(MAX_SHORT_LANES);
        call
    }

    pub(super) fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> ScriptInvocation<'_> {
        let after = after.map_or_else(Vec::new, |id| id.as_uuid().as_bytes().to_vec());
        let ids: Vec<u8> = tasks.iter().flat_map(|id| *id.as_uuid().as_bytes()).collect();
        let mut call = self.refill.key(&self.base);
        call.arg(self.capacity)
            .arg(lane.priority.get())
            .arg(lane.task_type.as_str())
            .arg(lane.tenant.as_str())
            .arg(after)
            .arg(u8::from(is_all))
            .arg(ids);
        call
    }

    pub(super) fn set_policy(&self, policy: &QueuePolicy) -> ScriptInvocation<'_> {
        let mut call = self.set_policy.key(&self.base);
        for (name, rule) in &policy.types {
            if rule.paused {
                call.arg(format!("paused:{name}")).arg(1);
            }
        }
        for (name, rule) in &policy.tenants {
            call.arg(format!("cost:{name}")).arg(TURN / u64::from(rule.weight.get()));
        }
        call
    }

    pub(super) fn hello(&self) -> ScriptInvocation<'_> {
        self.hello.key(&self.base)
    }

    pub(super) fn erase(&self) -> ScriptInvocation<'_> {
        self.erase.key(&self.base)
    }

    pub(super) fn completeness(&self, ask: &str, rebuild: &str) -> ScriptInvocation<'_> {
        let mut call = self.completeness.key(&self.base);
        call.arg(ask).arg(rebuild);
        call
    }
}

/// A name for a set of types, whatever their order. A collision makes two sets share a count of
/// pops, and builds that hash differently keep separate ones; neither does harm.
fn name_of(types: &[TaskType]) -> u64 {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    types.iter().fold(0, |name: u64, kind| name.wrapping_add(hasher.hash_one(kind)))
}

/// What `pop.lua` answers.
pub(super) type PopAnswer = (bool, u64, Vec<String>, Vec<(Vec<u8>, usize)>);

/// The hints, and the time until the next lane comes back from aside.
pub(super) fn popped(
    (look_in_store, back_in, names, taken): PopAnswer,
) -> BrokerResult<(Popped, Option<Duration>)> {
    let lanes = names.iter().map(|name| lane_of(name)).collect::<BrokerResult<Vec<_>>>()?;
    let hints = taken.iter().map(|(id, number)| {
        let lane = number.checked_sub(1).and_then(|at| lanes.get(at));
        let lane = lane.ok_or_else(|| nonsense("a lane's number"))?.clone();
        let id = TaskId::from_uuid(Uuid::from_slice(id).map_err(|_| nonsense("a task id"))?);
        Ok(QueuedTask { id, lane })
    });
    let popped = Popped { hints: hints.collect::<BrokerResult<_>>()?, look_in_store };
    Ok((popped, (back_in > 0).then(|| Duration::from_millis(back_in))))
}

/// What `short_lanes.lua` answers: a lane's name, the least unknown id, the number of hints.
pub(super) type ShortAnswer = Vec<(String, Vec<u8>, usize)>;

pub(super) fn short_lanes(lanes: &ShortAnswer, capacity: usize) -> BrokerResult<Vec<ShortLane>> {
    lanes
        .iter()
        .map(|(name, from, len)| {
            Ok(ShortLane {
                lane: lane_of(name)?,
                after: after(from)?,
                room: capacity.saturating_sub(*len),
            })
        })
        .collect()
}

/// The id before the least unknown one. That is an id, or the successor of one, which is written as
/// the id and one byte more.
fn after(from: &[u8]) -> BrokerResult<Option<TaskId>> {
    let (id, rest) = from.split_first_chunk::<16>().ok_or_else(|| nonsense("a task id"))?;
    let id = u128::from_be_bytes(*id);
    let after = if rest.is_empty() { id.checked_sub(1) } else { Some(id) };
    Ok(after.map(|id| TaskId::from_uuid(Uuid::from_u128(id))))
}

fn lane_of(name: &str) -> BrokerResult<Lane> {
    let mut parts = name.splitn(3, ':');
    let (level, task_type, tenant) = (parts.next(), parts.next(), parts.next());
    let lane = || {
        Some(Lane {
            priority: Priority::new(level?.parse().ok()?).ok()?,
            task_type: TaskType::new(task_type?).ok()?,
            tenant: TenantId::new(tenant?).ok()?,
        })
    };
    lane().ok_or_else(|| nonsense("a lane"))
}

/// Another program writes under our prefix.
fn nonsense(what: &str) -> BrokerError {
    BrokerError(format!("Redis holds something that is not {what}"))
}
