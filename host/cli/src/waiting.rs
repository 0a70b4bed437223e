//! What a person who waits is told, on standard error: at once what is waited for, and then how it
//! goes.
//!
//! On a terminal that is one line that changes; elsewhere it is a line for each change.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use taskforge_domain::one_line;

use crate::output;

/// Between two lines that only say that it goes on, where no line can change.
const STILL: Duration = Duration::from_secs(10);

/// Something that is waited for. When it is dropped, nothing is left of it on a terminal.
pub(crate) struct Waiting {
    bar: Option<ProgressBar>,
    told: String,
    begun: Instant,
}

impl Waiting {
    /// Says what is waited for.
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

    /// Says how it goes, unless that was just said.
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

    /// Waits for what does not say how it goes.
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
