//! Hints, and what the tests do with them.

use std::time::Duration;

use taskforge_broker::{Broker, Popped, QueuedTask, Want, queue::AGEING_AFTER};
use taskforge_domain::{Lane, LaneLimits, Priority, TaskId, TaskType, TenantId};
use uuid::{NoContext, Timestamp, Uuid};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(600);

pub fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

pub fn kinds(names: &[&str]) -> Vec<TaskType> {
    names.iter().map(|name| kind(name)).collect()
}

pub fn lane(tenant: &str, task_type: &str, priority: u8) -> Lane {
    Lane {
        tenant: TenantId::new(tenant).unwrap(),
        task_type: kind(task_type),
        priority: Priority::new(priority).unwrap(),
    }
}

pub fn hint(tenant: &str, task_type: &str, priority: u8) -> QueuedTask {
    QueuedTask { id: TaskId::generate(), lane: lane(tenant, task_type, priority) }
}

pub fn hints(tenant: &str, task_type: &str, priority: u8, count: usize) -> Vec<QueuedTask> {
    (0..count).map(|_| hint(tenant, task_type, priority)).collect()
}

/// A hint of a task that has long been overdue.
pub fn overdue(hint: QueuedTask) -> QueuedTask {
    let seconds = hint.id.as_uuid().get_timestamp().unwrap().to_unix().0;
    let then = Timestamp::from_unix(NoContext, seconds - 10 * AGEING_AFTER.as_secs(), 0);
    QueuedTask { id: TaskId::from_uuid(Uuid::new_v7(then)), ..hint }
}

pub async fn pop(broker: &dyn Broker, types: &[&str], max: usize) -> Popped {
    pop_within(broker, types, LaneLimits::none(), max).await
}

/// At most so many of some lanes.
pub async fn pop_within(
    broker: &dyn Broker,
    types: &[&str],
    lanes: &LaneLimits,
    max: usize,
) -> Popped {
    let want = Want { types: &kinds(types), lanes, max, wait: Duration::ZERO };
    broker.pop(want).await.unwrap()
}

/// What is there now.
pub async fn take(broker: &dyn Broker, types: &[&str], max: usize) -> Vec<QueuedTask> {
    pop(broker, types, max).await.hints
}
