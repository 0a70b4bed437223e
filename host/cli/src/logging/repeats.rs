//! Limits repeated log lines of lasting faults.
//!
//! A process retries for ever: five times a second, or once for each task or request, in a dozen
//! places. Each place logs why it failed; this filter decides how often the line is written.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::LevelFilter,
    layer::{Context, Filter},
};

/// The pause before a line is first repeated, and the longest pause.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A fault is over when it was not seen for this long.
const OVER: Duration = Duration::from_secs(60);
/// Texts of one place that are distinguished. Later ones count as the same.
const MAX_TEXTS: usize = 8;

/// The fields that distinguish faults. The others, such as an id of a task, may be
/// different each time.
const TOLD_APART: [&str; 8] =
    ["message", "error", "part", "plugin", "task.type", "tenant.id", "path", "file"];

/// Passes a warning or an error that has a field `error` when it is new, and while it lasts again
/// after 5 s, 10 s, 20 s and so on, up to 10 min. New is another place, another message, another
/// error or another of what the fault is about ([`TOLD_APART`]). All other events pass.
#[derive(Default)]
pub(super) struct Repeats(Mutex<HashMap<Identifier, Fault>>);

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.fields().field("error").is_none() {
            return true;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        faults.entry(metadata.callsite()).or_default().is_due(text.0, Instant::now())
    }

    /// All levels. Without this hint that of the filter beside it would be lost, and events of all
    /// levels would be made for it to refuse.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// What of an event is compared.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if TOLD_APART.contains(&field.name()) {
            // Writing to a string cannot fail.
            writeln!(self.0, "{}={value:?}", field.name()).ok();
        }
    }
}

/// What one place says.
#[derive(Default)]
struct Fault {
    said: BTreeSet<String>,
    pause: Duration,
    next: Option<Instant>,
    seen: Option<Instant>,
}

impl Fault {
    fn is_due(&mut self, text: String, now: Instant) -> bool {
        if self.seen.is_some_and(|seen| now.duration_since(seen) > OVER) {
            *self = Self::default();
        }
        self.seen = Some(now);
        let is_new = self.said.len() < MAX_TEXTS && self.said.insert(text);
        let is_time = self.next.is_none_or(|next| now >= next);
        if is_time {
            self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
            self.next = Some(now + self.pause);
        }
        is_new || is_time
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{filter::FilterExt as _, prelude::*};

    use super::{super::tests::Written, *};

    /// Says the same as `text` five times a second for `seconds`; in which of them it is due.
    fn due(fault: &mut Fault, begin: Instant, seconds: u32, text: &str) -> Vec<u32> {
        (0..5 * seconds)
            .filter(|n| fault.is_due(text.to_owned(), begin + Duration::from_millis(200) * *n))
            .map(|n| n / 5)
            .collect()
    }

    #[test]
    fn a_fault_that_lasts_is_due_at_once_and_then_ever_more_rarely() {
        let (mut fault, begin) = (Fault::default(), Instant::now());
        let said = due(&mut fault, begin, 3_600, "gone");
        assert_eq!(said[..6], [0, 5, 15, 35, 75, 155]);
        assert!(said.len() < 15, "{said:?}");
        // It was over, and is back.
        let later = begin + Duration::from_secs(3_600) + OVER * 2;
        assert_eq!(due(&mut fault, later, 6, "gone"), [0, 5]);
    }

    #[test]
    fn another_text_is_due_at_once_but_not_any_number_of_them() {
        let (mut fault, now) = (Fault::default(), Instant::now());
        let mut is_due = |text: &str| fault.is_due(text.to_owned(), now);
        assert!(is_due("refused") && is_due("no route"));
        assert!(!is_due("refused") && !is_due("no route"));
        let many = (0..100).filter(|n| is_due(&format!("port {n}")));
        assert_eq!(many.count(), MAX_TEXTS - 2);
    }

    #[test]
    fn the_same_error_of_another_part_is_another_fault() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .with_filter(LevelFilter::INFO.and(Repeats::default()));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..20 {
                let part = ["store", "broker"][n % 2];
                tracing::warn!(part, error = "silent", "not there");
                tracing::warn!(task.type = %part, error = "silent", "not run");
            }
        });
        let text = written.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(["not there", "not run"].map(count), [2, 2], "{text}");
    }

    #[test]
    fn the_filter_beside_it_decides_which_levels_are_looked_at() {
        let both = Filter::<tracing_subscriber::Registry>::max_level_hint(
            &LevelFilter::INFO.and(Repeats::default()),
        );
        assert_eq!(both, Some(LevelFilter::INFO));
    }

    #[test]
    fn only_warnings_with_a_reason_are_limited() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .with_filter(LevelFilter::INFO.and(Repeats::default()));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..20 {
                tracing::warn!(error = %"refused", task.id = n, "not stored");
                tracing::warn!(error = "silent", task.id = n, "not told");
                tracing::warn!(error = %format!("file {}", n % 2), "not read");
                tracing::warn!(n, "without a reason");
                tracing::info!(error = %"none", "only told");
            }
        });
        let text = written.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        let counts =
            ["not stored", "not told", "not read", "without a reason", "only told"].map(count);
        assert_eq!(counts, [1, 1, 2, 20, 20], "{text}");
    }
}
