//! Host functions that need no grant: logging and progress.

use taskforge_domain::{LogLevel, Progress};

use super::HostState;
use crate::{
    contract::{logging, progress},
    log::cut,
};

/// The longest note of a progress report that is passed on, in bytes.
const NOTE: usize = 500;

impl logging::Host for HostState {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        };
        self.log.lock().message(level, cut(&context, NOTE), &message);
    }
}

impl progress::Host for HostState {
    fn report(&mut self, fraction: f64, note: Option<String>) {
        if let Some(report) = &self.attempt.progress {
            let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
            let note = note.map(|note| cut(&note, NOTE).to_owned());
            report(Progress { fraction, note });
        }
    }
}
