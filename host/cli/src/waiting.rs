//! Progress messages on standard error for a person who waits.
//!
//! On a terminal that is one line that changes; elsewhere it is a line for each change.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use taskforge_domain::one_line;

use crate::output;

/// The interval between lines that only say that it goes on, where no line can change.
const STILL: Duration = Duration::from_secs(10);

/// A wait. Its drop removes its line from a terminal.
pub(crate) struct Waiting {
    bar: Option<ProgressBar>,
    told: String,
    begun: Instant,
}

impl Waiting {
    /// Begins to wait for `what`, and says so.
    pub(crate) fn begin(what: &str) -> Self {
        let bar = output::is_watched().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; a mistake in it costs the looks, not the command.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>5}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let mut waiting = Self { bar, told: String::new(), begun: Instant::now() };
        waiting.say(what);
        waiting
    }

    /// Reports progress, unless it is the same as before.
    pub(crate) fn say(&mut self, what: &str) {
        let what = one_line(what);
        if self.told == what {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(what.clone().into_owned()),
            None => output::aside(&what),
        }
        self.told = what.into_owned();
    }

    /// Waits for something without progress.
    pub(crate) async fn until<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        loop {
            match tokio::time::timeout(STILL, done.as_mut()).await {
                Ok(value) => return value,
                Err(_) if self.bar.is_none() => {
                    let seconds = self.begun.elapsed().as_secs();
                    output::aside(&format!("{} ({seconds} s so far)", self.told));
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
