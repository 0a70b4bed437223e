//! How far a lane that has overflowed knows the store.

use taskforge_domain::TaskId;
use uuid::Uuid;

/// Of a lane that has overflowed, every pending task with an id below `from` is queued (or was
/// taken), and no other is.
///
/// So what was pushed can be taken or dropped at a glance, and nothing that is dropped needs to be
/// remembered: its id is not below `from`, where the next refill begins. With one exception: a
/// refill is under way, its page was read before a push, and the push is dropped before the page
/// comes in. The page cannot be trusted from that id on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    from: TaskId,
    /// The least id that was dropped since the last refill was asked for.
    dropped: Option<TaskId>,
}

impl Short {
    /// Nothing from this id on is known.
    pub(super) const fn new(from: TaskId) -> Self {
        Self { from, dropped: None }
    }

    /// All up to and including this id is known.
    pub(super) fn after(last: TaskId) -> Self {
        Self::new(next(last))
    }

    /// Whether all ids up to this one are known too, so that it overtakes nobody.
    pub(super) fn knows(&self, id: TaskId) -> bool {
        id < self.from
    }

    /// Whether a pushed hint may come in. If not, it is remembered.
    pub(super) fn admits(&mut self, id: TaskId) -> bool {
        if self.knows(id) {
            return true;
        }
        self.dropped = Some(self.dropped.map_or(id, |dropped| dropped.min(id)));
        false
    }

    /// This id was known, and had to go.
    pub(super) fn lower(&mut self, id: TaskId) {
        self.from = self.from.min(id);
    }

    /// Nothing is known.
    pub(super) const fn forget(self) -> Self {
        Self { from: TaskId::from_uuid(Uuid::nil()), ..self }
    }

    /// Begins a refill: tasks behind this id are wanted.
    pub(super) fn ask(&mut self) -> Option<TaskId> {
        self.dropped = None;
        self.from
            .as_uuid()
            .as_u128()
            .checked_sub(1)
            .map(|id| TaskId::from_uuid(Uuid::from_u128(id)))
    }

    /// All tasks behind `after` up to `last` came in, or all that there are. `None`: the lane knows
    /// all now.
    pub(super) fn refilled(
        self,
        after: Option<TaskId>,
        last: Option<TaskId>,
        is_all: bool,
    ) -> Option<Self> {
        if after.is_some_and(|after| !self.knows(after)) {
            // Between what is known and what came in there is a gap.
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
