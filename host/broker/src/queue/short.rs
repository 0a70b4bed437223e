//! Which pending tasks a lane that has overflowed knows.

use taskforge_domain::TaskId;
use uuid::Uuid;

/// Of a lane that has overflowed, every pending task with an id below `from` is queued (or was
/// taken), and no other is.
///
/// So one comparison decides whether a pushed hint is taken or dropped, and a dropped one needs no
/// memory: its id is not below `from`, where the next refill begins. The exception is a hint that
/// is dropped while a refill is under way, after the refill's page was read: from that id on the
/// page cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    from: TaskId,
    /// The least id that was dropped since the last refill began.
    dropped: Option<TaskId>,
}

impl Short {
    /// Nothing from this id on is known.
    pub(super) const fn new(from: TaskId) -> Self {
        Self { from, dropped: None }
    }

    /// All ids up to and including this one are known.
    pub(super) fn after(last: TaskId) -> Self {
        Self::new(next(last))
    }

    /// Whether all ids up to this one are known, so that its hint overtakes no task.
    pub(super) fn knows(&self, id: TaskId) -> bool {
        id < self.from
    }

    /// Whether a pushed hint is taken. If not, its id is remembered.
    pub(super) fn admits(&mut self, id: TaskId) -> bool {
        if self.knows(id) {
            return true;
        }
        self.dropped = Some(self.dropped.map_or(id, |dropped| dropped.min(id)));
        false
    }

    /// The hint of this id was queued and had to be dropped.
    pub(super) fn lower(&mut self, id: TaskId) {
        self.from = self.from.min(id);
    }

    /// Nothing is known.
    pub(super) const fn forget(self) -> Self {
        Self { from: TaskId::from_uuid(Uuid::nil()), ..self }
    }

    /// Begins a refill, with the tasks that follow the answer.
    pub(super) fn begin_refill(&mut self) -> Option<TaskId> {
        self.dropped = None;
        self.from
            .as_uuid()
            .as_u128()
            .checked_sub(1)
            .map(|id| TaskId::from_uuid(Uuid::from_u128(id)))
    }

    /// The tasks after `after` and up to `last` were added, or all that there are. `None`: the lane
    /// knows every pending task now.
    pub(super) fn refilled(
        self,
        after: Option<TaskId>,
        last: Option<TaskId>,
        is_all: bool,
    ) -> Option<Self> {
        if after.is_some_and(|after| !self.knows(after)) {
            // There is a gap between what is known and these tasks.
            return Some(self);
        }
        let reached = match last.or(after) {
            _ if is_all => None,
            Some(last) => Some(next(last).max(self.from)),
            None => Some(self.from),
        };
        match (reached, self.dropped) {
            (Some(from), Some(dropped)) if from <= dropped => Some(Self { from, ..self }),
            (_, Some(dropped)) => Some(Self::new(dropped.min(reached.unwrap_or(dropped)))),
            (reached, None) => reached.map(Self::new),
        }
    }
}

fn next(id: TaskId) -> TaskId {
    TaskId::from_uuid(Uuid::from_u128(id.as_uuid().as_u128().saturating_add(1)))
}
