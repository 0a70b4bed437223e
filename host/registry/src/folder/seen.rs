//! What is known of a component's file: whether it has changed, and whether it is still owed.

use std::time::{Duration, Instant};

use taskforge_domain::TaskType;

use crate::folder::{FolderError, beside::Stamps};

/// Between the first two tries of a file whose failure may pass, and the longest that it becomes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of a component's file.
#[derive(Default)]
pub(super) struct Seen {
    /// When and how large it, its settings and its signature were at the last look.
    stamp: Stamps,
    /// The same, when it was last tried.
    tried: Option<Stamps>,
    /// Of a file that was not taken.
    owed: Option<Owed>,
    /// The plugin that it is.
    pub(super) plugin: Option<TaskType>,
}

/// A file that was not taken. It is tried again when it, its settings or its signature change.
struct Owed {
    /// What it was tried for, and is tried for again, unless the component itself has changed.
    occasion: Occasion,
    /// When it is tried again although nothing has changed, and the pause before. `None`: it was
    /// refused for good.
    retry: Option<(Instant, Duration)>,
    /// A process that starts is not ready before it is taken: it is the database that could not
    /// take it. What failed here may fail for ever.
    is_waited_for: bool,
}

/// When a file's version becomes the one that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The process starts.
    Start,
    /// Somebody has just put it there.
    Change,
    /// It was not taken at the start, and somebody has changed what stands beside it since.
    Mended,
    /// Somebody has changed what stands beside it.
    Settings,
}

impl Seen {
    /// A file that is tried because it is there at the start.
    pub(super) fn at_start(&mut self, stamp: Stamps) -> Occasion {
        (self.stamp, self.tried) = (stamp, Some(stamp));
        Occasion::Start
    }

    /// What the file is to be tried for at this look, if it is.
    pub(super) fn occasion(&mut self, stamp: Stamps, now: Instant) -> Option<Occasion> {
        // A file that is still being written has changed since the last look.
        let is_still = std::mem::replace(&mut self.stamp, stamp) == stamp;
        let is_due = self.retry().is_some_and(|(at, _)| at <= now);
        if !is_still || self.tried == Some(stamp) && !is_due {
            return None;
        }
        let is_new = self.tried.is_none_or(|tried| tried.first() != stamp.first());
        let has_changed = self.tried != Some(stamp);
        self.tried = Some(stamp);
        Some(match &self.owed {
            _ if is_new => Occasion::Change,
            Some(owed) if has_changed && owed.occasion == Occasion::Start => Occasion::Mended,
            Some(owed) => owed.occasion,
            // No reason to run a version again that somebody has taken back.
            None => Occasion::Settings,
        })
    }

    /// The same of a file that nobody watches, which is tried as it was found.
    pub(super) fn occasion_of_retry(&mut self, now: Instant) -> Option<Occasion> {
        self.occasion(self.stamp, now)
    }

    /// The file was taken.
    pub(super) fn taken(&mut self, plugin: TaskType) {
        (self.plugin, self.owed) = (Some(plugin), None);
    }

    /// The file was not taken. `may_pass`: it is tried again by itself.
    pub(super) fn failed(
        &mut self,
        occasion: Occasion,
        error: &FolderError,
        may_pass: bool,
        now: Instant,
    ) {
        let pause = self.retry().map_or(FIRST_PAUSE, |(_, pause)| LONGEST_PAUSE.min(2 * pause));
        if let FolderError::NotActivated { plugin, .. } = error {
            self.plugin = Some(plugin.clone());
        }
        self.owed = Some(Owed {
            occasion,
            retry: may_pass.then(|| (now + pause, pause)),
            is_waited_for: matches!(occasion, Occasion::Start | Occasion::Mended)
                && error.is_of_the_moment(),
        });
    }

    /// Whether it is tried again by itself.
    pub(super) fn is_retried(&self) -> bool {
        self.retry().is_some()
    }

    /// Whether a process that starts is to wait for it.
    pub(super) fn is_waited_for(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.is_waited_for)
    }

    fn retry(&self) -> Option<(Instant, Duration)> {
        self.owed.as_ref().and_then(|owed| owed.retry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use taskforge_store::StoreError;

    use super::*;

    fn stamps(component: u64, settings: u64) -> Stamps {
        let stamp = |size| Some((SystemTime::UNIX_EPOCH, size));
        [stamp(component), stamp(settings), None]
    }

    fn away() -> FolderError {
        FolderError::Registry(StoreError::Unavailable(String::new()).into())
    }

    #[test]
    fn what_could_not_be_taken_at_the_start_is_tried_again_as_at_the_start() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let occasion = seen.at_start(stamps(1, 1));
        seen.failed(occasion, &away(), true, now);
        assert!(seen.is_waited_for() && seen.is_retried());
        assert_eq!(seen.occasion(stamps(1, 1), now), None, "not at once");
        let mut later = now;
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            let pause = Duration::from_millis(pause);
            assert_eq!(seen.occasion_of_retry(later + pause - Duration::from_millis(1)), None);
            later += pause;
            assert_eq!(seen.occasion_of_retry(later), Some(Occasion::Start));
            seen.failed(Occasion::Start, &away(), true, later);
        }
        seen.taken(TaskType::new("x").unwrap());
        assert!(!seen.is_waited_for() && !seen.is_retried());
        assert_eq!(seen.occasion(stamps(1, 1), later), None);
    }

    #[test]
    fn a_file_is_tried_when_it_was_left_alone_after_a_change() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.occasion(stamps(1, 1), now), None, "it may still be written");
        assert_eq!(seen.occasion(stamps(2, 1), now), None);
        assert_eq!(seen.occasion(stamps(2, 1), now), Some(Occasion::Change));
        seen.taken(TaskType::new("x").unwrap());
        assert_eq!(seen.occasion(stamps(2, 2), now), None);
        assert_eq!(seen.occasion(stamps(2, 2), now), Some(Occasion::Settings));
    }

    #[test]
    fn what_was_refused_for_good_is_tried_again_when_what_stands_beside_it_changes() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.occasion(stamps(1, 1), now);
        assert_eq!(seen.occasion(stamps(1, 1), now), Some(Occasion::Change));
        let twice = FolderError::Twice(TaskType::new("x").unwrap());
        seen.failed(Occasion::Change, &twice, false, now);
        let later = now + 2 * LONGEST_PAUSE;
        assert_eq!(seen.occasion(stamps(1, 1), later), None);
        assert!(!seen.is_waited_for() && !seen.is_retried());
        seen.occasion(stamps(1, 2), later);
        assert_eq!(seen.occasion(stamps(1, 2), later), Some(Occasion::Change));
    }
}
