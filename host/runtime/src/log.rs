//! An attempt's log: what the handler prints and logs, cut at a limit, and what the host has to add.

use taskforge_domain::{Failure, FailureKind, LogLevel, LogLine, Timestamp};

/// Lines that the host itself may add. They do not count against the handler's limit, so that a handler cannot drown
/// the reason why it failed.
const MAX_NOTES: usize = 50;

/// The longest line that the host adds, in bytes.
const NOTE_LENGTH: usize = 2000;

/// Where a handler's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn level(self) -> LogLevel {
        match self {
            Self::Stdout => LogLevel::Info,
            Self::Stderr => LogLevel::Warn,
        }
    }
}

/// Collects lines. Once the limit is reached, taking more costs no memory and next to no time.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Vec<LogLine>,
    limit: u64,
    kept: u64,
    dropped: u64,
    notes: usize,
    open: [Vec<u8>; 2],
    last_error: Option<usize>,
    refusal: Option<Failure>,
}

impl Log {
    /// A log that keeps `limit` bytes of text; each line counts one byte for its end.
    pub(crate) const fn new(limit: u64) -> Self {
        let open = [Vec::new(), Vec::new()];
        Self {
            lines: Vec::new(),
            limit,
            kept: 0,
            dropped: 0,
            notes: 0,
            open,
            last_error: None,
            refusal: None,
        }
    }

    /// Takes what the handler wrote to one of its streams.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        while let Some(end) = memchr_newline(bytes) {
            if self.room() == 0 {
                break;
            }
            self.extend(stream, &bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end_line(stream);
        }
        self.extend(stream, bytes);
    }

    /// Takes a message of the handler's own logger; each of its lines becomes a line.
    pub(crate) fn message(&mut self, level: LogLevel, context: &str, message: &str) {
        for line in message.lines() {
            if self.room() == 0 {
                self.dropped += line.len() as u64 + 1;
                continue;
            }
            let text = if context.is_empty() {
                line.to_owned()
            } else {
                format!("{context}: {line}")
            };
            self.push(level, &text);
        }
    }

    /// Adds a line of the host's own.
    pub(crate) fn note(&mut self, level: LogLevel, text: &str) {
        if self.notes < MAX_NOTES {
            self.notes += 1;
            self.line(level, cut(text, NOTE_LENGTH).to_owned());
        }
    }

    /// Notes that the host refused something, and keeps the first refusal as the reason why the handler may give up.
    pub(crate) fn refuse(&mut self, kind: FailureKind, text: String) {
        self.note(LogLevel::Error, &text);
        self.refusal.get_or_insert_with(|| Failure::new(kind, text));
    }

    /// The first thing that the host refused.
    pub(crate) const fn refusal(&self) -> Option<&Failure> {
        self.refusal.as_ref()
    }

    /// What a Rust panic said, if the handler's last words were one.
    pub(crate) fn panic_message(&self) -> Option<String> {
        let panicked = self
            .lines
            .iter()
            .rposition(|line| line.message.contains(" panicked at "))?;
        let place = self.lines[panicked]
            .message
            .split(" panicked at ")
            .nth(1)?
            .trim_end_matches(':');
        let said = self
            .lines
            .get(panicked + 1)
            .map_or("", |line| line.message.as_str());
        Some(format!("{said} ({place})"))
    }

    /// The last line of standard error. `None` when there was none, and when some of the log was dropped: then it may not be the last.
    pub(crate) fn last_error_line(&self) -> Option<&str> {
        let line = self.last_error.filter(|_| self.dropped == 0)?;
        self.lines.get(line).map(|line| line.message.as_str())
    }

    /// Ends lines that have no line break yet.
    pub(crate) fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.open[stream as usize].is_empty() {
                self.end_line(stream);
            }
        }
    }

    /// All lines, oldest first, and a marker if some were dropped.
    pub(crate) fn finish(&mut self) -> Vec<LogLine> {
        self.flush();
        if self.dropped > 0 {
            let marker = format!(
                "[log cut at {} bytes; {} more were dropped]",
                self.limit, self.dropped
            );
            self.line(LogLevel::Warn, marker);
        }
        std::mem::take(&mut self.lines)
    }

    fn room(&self) -> u64 {
        let open: usize = self.open.iter().map(Vec::len).sum();
        self.limit.saturating_sub(self.kept + open as u64)
    }

    fn extend(&mut self, stream: Stream, bytes: &[u8]) {
        let fits = bytes
            .len()
            .min(usize::try_from(self.room()).unwrap_or(usize::MAX));
        self.open[stream as usize].extend_from_slice(&bytes[..fits]);
        self.dropped += (bytes.len() - fits) as u64;
    }

    fn end_line(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.open[stream as usize]);
        if stream == Stream::Stderr {
            self.last_error = Some(self.lines.len());
        }
        self.push(stream.level(), &String::from_utf8_lossy(&bytes));
    }

    fn push(&mut self, level: LogLevel, text: &str) {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let kept = cut(text, room);
        self.dropped += (text.len() - kept.len()) as u64;
        self.kept += kept.len() as u64 + 1;
        self.line(level, kept.to_owned());
    }

    fn line(&mut self, level: LogLevel, message: String) {
        self.lines.push(LogLine {
            at: Timestamp::now(),
            level,
            message,
        });
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// The longest prefix of at most `max` bytes that ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(log: &mut Log) -> Vec<String> {
        log.finish().into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn bytes_become_lines_however_they_arrive() {
        let mut log = Log::new(1000);
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"other\n");
        log.write(Stream::Stdout, b"o\n\nlast");
        assert_eq!(messages(&mut log), ["one", "other", "two", "", "last"]);
    }

    #[test]
    fn a_log_is_cut_at_its_limit_and_says_so() {
        let mut log = Log::new(10);
        log.write(Stream::Stdout, b"12345678901234567890\nmore\n");
        log.write(Stream::Stderr, &[b'x'; 1000]);
        log.message(LogLevel::Info, "", "and more");
        assert_eq!(
            messages(&mut log),
            ["1234567890", "[log cut at 10 bytes; 1024 more were dropped]"]
        );
    }

    #[test]
    fn the_last_line_of_standard_error_is_known_while_the_log_is_whole() {
        let mut log = Log::new(20);
        assert_eq!(log.last_error_line(), None);
        log.write(Stream::Stderr, b"one\ntwo\n");
        log.write(Stream::Stdout, b"out\n");
        assert_eq!(log.last_error_line(), Some("two"));
        log.write(Stream::Stderr, b"more than fits into what is left\n");
        assert_eq!(log.last_error_line(), None);
    }

    #[test]
    fn empty_lines_count_too() {
        let mut log = Log::new(10);
        for _ in 0..100 {
            log.write(Stream::Stdout, &[b'\n'; 100]);
        }
        assert_eq!(log.finish().len(), 11);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let mut log = Log::new(4);
        log.message(LogLevel::Info, "", "aéé");
        assert_eq!(messages(&mut log)[0], "aé");
    }

    #[test]
    fn the_hosts_notes_outlive_a_flood() {
        let mut log = Log::new(0);
        log.write(Stream::Stdout, b"flood\n");
        log.refuse(FailureKind::CapabilityDenied, "no".to_owned());
        log.refuse(FailureKind::HostCallLimit, "neither".to_owned());
        assert_eq!(log.refusal().unwrap().message, "no");
        assert_eq!(&messages(&mut log)[..2], ["no", "neither"]);
    }

    #[test]
    fn a_panics_words_are_found() {
        let mut log = Log::new(1000);
        log.write(
            Stream::Stderr,
            b"thread '<unnamed>' (1) panicked at src/lib.rs:3:5:\noops\nnote: run with\n",
        );
        assert_eq!(log.panic_message().unwrap(), "oops (src/lib.rs:3:5)");
    }
}
