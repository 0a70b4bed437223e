//! Log lines, on standard error: standard output is for data.
//!
//! A field may carry what a stranger wrote, so each line is made safe to look at where it is
//! written: whatever field it is, nothing in it acts on a terminal or begins a line of its own.
//! Colours would be lost among what is escaped, so there are none. A fault that lasts is not said
//! again and again.

mod repeats;

use std::io::{self, Write};

use taskforge_domain::one_line;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::FilterExt as _, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::repeats::Repeats;
use crate::args::{LogFormat, LoggingArgs};

/// A server says what it does.
const SERVER_FILTER: &str =
    "warn,taskforge=info,taskforge_worker=info,taskforge_api=info,taskforge_registry=info";
/// A command for a person is quiet unless something is wrong.
const COMMAND_FILTER: &str = "warn";

/// Starts logging for the process.
pub(crate) fn init(args: &LoggingArgs, is_server: bool) {
    let default = || EnvFilter::new(if is_server { SERVER_FILTER } else { COMMAND_FILTER });
    let (filter, problem) = match args.log.as_deref().map(EnvFilter::try_new) {
        None => (default(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (default(), Some(error)),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Lines(io::stderr()));
    let lines = match args.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(filter.and(Repeats::default()));
    tracing_subscriber::registry().with(lines).init();
    if let Some(error) = problem {
        tracing::warn!(%error, "the log filter cannot be read; using the default");
    }
}

/// Writes lines, of which it is given one at a time, with its end.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        self.0.write_all(format!("{}\n", one_line(text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_stranger_wrote_stays_on_its_line_and_is_harmless() {
        let wild = "a\u{1b}[2J\nERROR fake \u{202e}\u{2028}\u{9b}31m\r";
        for is_json in [false, true] {
            let written = Written::default();
            let writer = written.clone();
            let lines = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || Lines(writer.clone()));
            let log = || {
                let _span = tracing::info_span!("attempt", name = %wild).entered();
                tracing::warn!(error = %wild, quoted = ?wild, "{wild}");
            };
            match is_json {
                false => tracing::subscriber::with_default(lines.finish(), log),
                true => tracing::subscriber::with_default(lines.json().finish(), log),
            }
            let text = written.text();
            assert_eq!(text.lines().count(), 1, "{text}");
            let hidden = |c| taskforge_domain::is_hidden(c) && c != '\n';
            assert!(!text.contains(hidden), "{text:?}");
            assert!(text.contains("fake"), "{text}");
            if is_json {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
    }
}
