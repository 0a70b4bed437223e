//! When an old task goes before more urgent ones.
//!
//! A task is *overdue* once [`AGEING_AFTER`] has passed since it was made. Of the tasks that a
//! broker or a store gives out for the same types, every [`AGED_SHARE`]th comes from the priority
//! of the oldest overdue one instead of the highest. So no priority starves under an endless stream
//! of a higher one, and any number of old unimportant tasks takes no more than that share from the
//! urgent ones. All brokers and both stores keep this rule.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use crate::{TaskId, TaskType};

/// How long a task waits before it is overdue: longer than a burst, and short for a person who
/// waits.
pub const AGEING_AFTER: Duration = Duration::from_secs(30);

/// One task in this many is an overdue one, while there are any.
pub const AGED_SHARE: u32 = 4;

/// Whether a task is overdue, by the time in its id (UUIDv7: the first 48 bits are milliseconds
/// since 1970).
#[must_use]
pub fn is_overdue(task: TaskId, now: Timestamp) -> bool {
    let made = u64::try_from(task.as_uuid().as_u128() >> 80).unwrap_or(u64::MAX);
    let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
    u128::from(now.saturating_sub(made)) >= AGEING_AFTER.as_millis()
}

/// How many sets of types are distinguished. A fleet has a few; the bound is for a process that
/// reloads plugins for months.
const MAX_SETS: usize = 256;

/// Counts the tasks that were given out, for a store that gives out many at once. Workers that
/// serve different types do not use up each other's share.
#[derive(Debug, Default)]
pub struct AgeingTurns(HashMap<Vec<TaskType>, u32>);

impl AgeingTurns {
    /// How many of the next `limit` tasks of these types are for overdue ones.
    #[must_use]
    pub fn of_next(&self, types: &[TaskType], limit: usize) -> usize {
        let given = self.0.get(&key(types)).copied().unwrap_or(0) as usize;
        given.saturating_add(limit) / AGED_SHARE as usize
    }

    /// Counts tasks of these types that were given out.
    pub fn given(&mut self, types: &[TaskType], count: usize) {
        if self.0.len() >= MAX_SETS {
            self.0.clear();
        }
        let given = self.0.entry(key(types)).or_default();
        let rest = count % AGED_SHARE as usize;
        *given = (*given + u32::try_from(rest).unwrap_or(0)) % AGED_SHARE;
    }
}

fn key(types: &[TaskType]) -> Vec<TaskType> {
    let mut key = types.to_vec();
    key.sort_unstable();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_overdue_half_a_minute_after_it_was_made() {
        let made = Timestamp::from_second(1_700_000_000).unwrap();
        let id = uuid::Uuid::from_u128(1_700_000_000_000 << 80);
        let (task, wait) = (TaskId::from_uuid(id), AGEING_AFTER);
        assert!(!is_overdue(task, made));
        assert!(!is_overdue(task, made + wait - Duration::from_millis(1)));
        assert!(is_overdue(task, made + wait));
    }

    #[test]
    fn every_fourth_is_for_the_overdue_however_many_are_given_at_once() {
        let types = [TaskType::new("a").unwrap(), TaskType::new("b").unwrap()];
        let turned = [types[1].clone(), types[0].clone()];
        let mut turns = AgeingTurns::default();
        let (mut all, mut aged) = (0, 0);
        for limit in [1, 1, 1, 1, 7, 2, 64, 3, 5] {
            aged += turns.of_next(&types, limit);
            turns.given(&turned, limit);
            all += limit;
            assert_eq!(aged, all / 4, "of {all}");
        }
        let others = [TaskType::new("c").unwrap()];
        assert_eq!(turns.of_next(&others, 3), 0, "a count of their own");
    }
}
