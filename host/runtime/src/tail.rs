//! The log of an attempt while it runs.

use std::sync::{Arc, OnceLock};

use taskforge_domain::LogLine;

use crate::host::SharedLog;

/// The log of one attempt while it runs. Empty before the attempt begins and after it has ended,
/// when the lines are in its result.
#[derive(Debug, Clone, Default)]
pub struct LogTail(Arc<OnceLock<SharedLog>>);

impl LogTail {
    /// How many lines there are. Grows until the attempt ends.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.get().map_or(0, |log| log.lock().len())
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The latest lines, oldest first, as many as take `max` bytes as they are stored. When earlier
    /// ones were left out, a line before them says so.
    #[must_use]
    pub fn latest(&self, max: u64) -> Vec<LogLine> {
        self.0.get().map_or_else(Vec::new, |log| log.lock().latest(max))
    }

    /// The attempt begins. A tail follows one attempt, the first.
    pub(crate) fn follow(&self, log: &SharedLog) {
        self.0.get_or_init(|| log.clone());
    }
}
