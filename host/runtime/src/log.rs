//! An attempt's log: what the handler prints and logs, cut at a limit, and what the host adds.

use taskforge_domain::{Failure, FailureKind, LogLevel, LogLine, Timestamp};

use crate::{
    budget::{Budget, Charge},
    words::{Report, Words},
};

/// Lines that the host itself may add. They do not count towards the handler's limit, so that its
/// output cannot crowd out the reason of a failure.
const MAX_NOTES: usize = 50;

/// The longest line that the host adds, in bytes.
const NOTE_LENGTH: usize = 2000;

/// What a line costs besides its text, in bytes: time, level and punctuation as they are stored.
pub(crate) const LINE: u64 =
    r#"{"at":"2026-01-01T00:00:00.000000000Z","level":"critical","message":""},"#.len() as u64;

/// Lines of a logged message that are searched for a report.
const REPORT: usize = 100;

/// The log's memory is charged in steps of so many bytes, which spares a charge at each line.
const STEP: u64 = 4 << 10;

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

/// Collects lines. Once the limit is reached, more lines cost no memory and next to no time.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Vec<LogLine>,
    limit: u64,
    // Bytes as they will be stored, which is as JSON, so that no text makes the row larger than the
    // limit.
    kept: u64,
    dropped: u64,
    notes: usize,
    open: [Vec<u8>; 2],
    words: [Words; 2],
    /// The stream that was written to last.
    wrote_last: Stream,
    refusal: Option<Failure>,
    charge: Charge,
}

impl Log {
    /// A log that keeps `limit` bytes, as they are stored: each line counts [`LINE`] besides its
    /// text. Its memory is charged to the budget; without room there it is full.
    pub(crate) fn new(limit: u64, budget: &Budget) -> Self {
        let open = [Vec::new(), Vec::new()];
        Self {
            lines: Vec::new(),
            limit,
            kept: 0,
            dropped: 0,
            notes: 0,
            open,
            words: Default::default(),
            wrote_last: Stream::Stdout,
            refusal: None,
            charge: Charge::empty(budget),
        }
    }

    /// Takes what the handler wrote to one of its streams.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        self.words[stream as usize].write(bytes);
        self.wrote_last = stream;
        while !bytes.is_empty() {
            if self.is_full() {
                self.dropped += bytes.len() as u64;
                return;
            }
            let end = memchr_newline(bytes);
            self.extend(stream, &bytes[..end.unwrap_or(bytes.len())]);
            let Some(end) = end else { return };
            self.end_line(stream);
            bytes = &bytes[end + 1..];
        }
    }

    /// Takes a message of the handler's own logger; each of its lines becomes a line.
    pub(crate) fn message(&mut self, level: LogLevel, context: &str, message: &str) {
        if matches!(level, LogLevel::Error | LogLevel::Critical) {
            for line in message.lines().take(REPORT) {
                self.words[Stream::Stderr as usize].logged(line);
            }
        }
        let mut rest = message;
        while !rest.is_empty() {
            if self.is_full() {
                self.dropped += rest.len() as u64;
                return;
            }
            let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = next;
            let whole = line.strip_suffix('\r').unwrap_or(line);
            // Before it is copied: it may be as long as a host call can carry.
            let line = cut(whole, usize::try_from(self.room()).unwrap_or(usize::MAX));
            self.dropped += (whole.len() - line.len()) as u64;
            if context.is_empty() {
                self.push(level, line);
            } else {
                self.push(level, &format!("{context}: {line}"));
            }
        }
    }

    /// Adds a line of the host.
    pub(crate) fn note(&mut self, level: LogLevel, text: &str) {
        if self.notes < MAX_NOTES {
            self.notes += 1;
            self.line(level, cut(text, NOTE_LENGTH).to_owned());
        }
    }

    /// Notes a refusal of the host, and keeps the latest one as a reason why the handler may end.
    pub(crate) fn refuse(&mut self, kind: FailureKind, text: String) {
        self.note(LogLevel::Error, &text);
        self.refusal = Some(Failure::new(kind, text));
    }

    /// The latest refusal.
    pub(crate) const fn refusal(&self) -> Option<&Failure> {
        self.refusal.as_ref()
    }

    /// Searches the end of a command's standard output for the reason why it ended.
    pub(crate) fn printed(&mut self, bytes: &[u8]) {
        self.words[Stream::Stdout as usize].write(bytes);
        self.wrote_last = Stream::Stdout;
    }

    /// What the handler wrote about its end: a report of an exception, and the last line of
    /// standard error. Some languages, such as TinyGo, report on standard output, where all other
    /// lines are data. Such a report counts unless standard error has something later.
    pub(crate) fn last_words(&mut self) -> (Option<&Report>, Option<&str>) {
        let [stdout, stderr] = &mut self.words;
        let (report, last) = stderr.end();
        let printed = stdout.end().0;
        let printed = printed.filter(|_| self.wrote_last == Stream::Stdout || last.is_none());
        (report.or(printed), last)
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
            let marker =
                format!("[log cut at {} bytes; {} more were dropped]", self.limit, self.dropped);
            self.line(LogLevel::Warn, marker);
        }
        std::mem::take(&mut self.lines)
    }

    /// How many lines there are.
    pub(crate) const fn len(&self) -> usize {
        self.lines.len()
    }

    /// The latest lines, oldest first, as many as take `max` bytes as they are stored. When earlier
    /// ones were left out, a line before them says so.
    pub(crate) fn latest(&self, max: u64) -> Vec<LogLine> {
        let mut room = max;
        let mut latest = Vec::new();
        for line in self.lines.iter().rev() {
            let Some(left) = room.checked_sub(LINE) else { break };
            let (message, size) = cut_stored(&line.message, left);
            latest.push(LogLine { message: message.to_owned(), ..*line });
            room = left - size;
        }
        let earlier = self.lines.len() - latest.len();
        if let Some(first) = latest.last().filter(|_| earlier > 0) {
            latest.push(LogLine {
                at: first.at,
                level: LogLevel::Info,
                message: format!("[{earlier} earlier lines are shown when the attempt has ended]"),
            });
        }
        latest.reverse();
        latest
    }

    /// Whether no line fits any more.
    const fn is_full(&self) -> bool {
        self.kept.saturating_add(LINE) > self.limit
    }

    /// The most bytes that the text of the next line may have.
    fn room(&self) -> u64 {
        let open: usize = self.open.iter().map(Vec::len).sum();
        self.limit.saturating_sub(self.kept + LINE + open as u64)
    }

    fn extend(&mut self, stream: Stream, bytes: &[u8]) {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let fits = bytes.len().min(room);
        if !self.pay(fits as u64) {
            self.dropped += bytes.len() as u64;
            return;
        }
        self.open[stream as usize].extend_from_slice(&bytes[..fits]);
        self.dropped += (bytes.len() - fits) as u64;
    }

    fn end_line(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.open[stream as usize]);
        // Only what is kept: of bytes that are no text, each becomes three.
        let (mut text, mut rest) = (String::new(), bytes.utf8_chunks());
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        while text.len() <= room
            && let Some(chunk) = rest.next()
        {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let left: usize = rest.map(|chunk| chunk.valid().len() + chunk.invalid().len()).sum();
        self.dropped += left as u64;
        self.push(stream.level(), &text);
    }

    fn push(&mut self, level: LogLevel, text: &str) {
        let (kept, size) = cut_stored(text, self.room());
        if self.is_full() || !self.pay(LINE + size) {
            self.dropped += text.len() as u64 + 1;
            return;
        }
        self.dropped += (text.len() - kept.len()) as u64;
        self.kept += LINE + size;
        self.line(level, kept.to_owned());
    }

    /// Charges for memory that is about to be taken: twice, because a vector may grow to double of
    /// what it needs. Without room in the budget the log is full from then on.
    fn pay(&mut self, bytes: u64) -> bool {
        let open: usize = self.open.iter().map(Vec::len).sum();
        let due = (self.kept + open as u64).saturating_add(bytes).saturating_mul(2);
        if due > self.charge.bytes() {
            let steps = due.div_ceil(STEP).saturating_mul(STEP);
            if self.charge.resize("the log", steps).is_err() {
                self.limit = self.limit.min(self.kept);
                return false;
            }
        }
        true
    }

    fn line(&mut self, level: LogLevel, message: String) {
        self.lines.push(LogLine { at: Timestamp::now(), level, message });
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// The longest prefix of at most `max` bytes that ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The longest prefix that takes at most `max` bytes as part of a JSON string, and what it takes.
fn cut_stored(text: &str, max: u64) -> (&str, u64) {
    let mut size = 0;
    for (at, character) in text.char_indices() {
        let more = match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => character.len_utf8() as u64,
        };
        if size + more > max {
            return (&text[..at], size);
        }
        size += more;
    }
    (text, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with room for one line of so many bytes.
    fn log(text: u64) -> Log {
        Log::new(LINE + text, &Budget::new(1 << 20))
    }

    fn messages(log: &mut Log) -> Vec<String> {
        log.finish().into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn bytes_become_lines_however_they_arrive() {
        let mut log = log(1000);
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"other\n");
        log.write(Stream::Stdout, b"o\n\nlast");
        assert_eq!(messages(&mut log), ["one", "other", "two", "", "last"]);
    }

    #[test]
    fn a_log_is_cut_at_its_limit_and_says_so() {
        let mut log = log(10);
        log.write(Stream::Stdout, b"12345678901234567890\nmore\n");
        log.write(Stream::Stderr, &[b'x'; 1000]);
        log.message(LogLevel::Info, "", "and more");
        assert_eq!(
            messages(&mut log),
            ["1234567890", &format!("[log cut at {} bytes; 1023 more were dropped]", LINE + 10)]
        );
    }

    #[test]
    fn last_words_are_heard_however_full_the_log_is() {
        let mut log = log(10);
        log.write(Stream::Stdout, &[b'x'; 1000]);
        log.write(Stream::Stderr, b"panicked at src/lib.rs:3:5:\noops\n");
        let (report, _) = log.last_words();
        let panic = Report::Panic("oops (src/lib.rs:3:5)".to_owned());
        assert_eq!(report, Some(&panic));
    }

    #[test]
    fn of_standard_output_only_a_report_counts() {
        let mut log = log(1000);
        log.write(Stream::Stderr, b"starting\n");
        log.write(Stream::Stdout, b"42\n");
        assert_eq!(log.last_words(), (None, Some("starting")));
        log.write(Stream::Stdout, b"panic: boom\n");
        let exception = |said: &str| Report::Exception(said.to_owned());
        assert_eq!(log.last_words().0, Some(&exception("panic: boom")));
        log.write(Stream::Stderr, b"ledger locked\n");
        assert_eq!(log.last_words(), (None, Some("ledger locked")));
        log.write(Stream::Stderr, b"fatal error: out of memory\n");
        assert_eq!(log.last_words().0, Some(&exception("fatal error: out of memory")));
    }

    #[test]
    fn what_is_stored_is_no_larger_than_the_limit_whatever_it_is_made_of() {
        let limit = 64 << 10;
        let stored = |write: &dyn Fn(&mut Log)| {
            let mut log = Log::new(limit, &Budget::new(1 << 20));
            write(&mut log);
            log.flush();
            // The marker comes on top.
            log.dropped = 0;
            let lines = log.finish();
            (serde_json::to_string(&lines).unwrap().len() as u64, lines.len())
        };
        let empty = [b'\n'; 64 << 10];
        let (size, lines) = stored(&|log| log.write(Stream::Stdout, &empty));
        assert!(size <= limit && lines == 910, "{lines} empty lines take {size} bytes");
        let (size, _) =
            stored(&|log| log.message(LogLevel::Critical, "", &"\u{1}\"\n".repeat(64 << 10)));
        assert!((limit / 2..=limit).contains(&size), "{size} bytes of escapes");
        let (size, _) = stored(&|log| log.write(Stream::Stderr, &[0xff; 64 << 10]));
        assert!((limit / 2..=limit).contains(&size), "{size} bytes that are not UTF-8");
        let (size, _) =
            stored(&|log| log.message(LogLevel::Info, "\u{2}", &"\u{1}".repeat(1 << 20)));
        assert!((limit / 2..=limit).contains(&size), "{size} bytes in one line");
    }

    #[test]
    fn a_log_is_on_the_bill_and_full_without_room_there() {
        let budget = Budget::new(0);
        let mut log = Log::new(1 << 30, &budget);
        let line = [vec![b'x'; 1000], vec![b'\n']].concat();
        for _ in 0..10_000 {
            log.write(Stream::Stdout, &line);
        }
        assert!(budget.peak() <= crate::budget::RESERVE, "{}", budget.peak());
        let kept: usize = log.lines.iter().map(|line| line.message.len()).sum();
        assert!(kept as u64 > crate::budget::RESERVE / 3, "{kept} bytes were kept");
        let lines = messages(&mut log);
        assert!(lines.last().unwrap().contains("more were dropped"), "{lines:?}");
        drop(log);
        assert_eq!(budget.room(), crate::budget::RESERVE);
    }

    #[test]
    fn the_latest_lines_are_those_that_fit() {
        let mut log = log(3 * LINE + 100);
        log.write(Stream::Stdout, b"one\ntwo\nthree\nbegun");
        let latest = |max| -> Vec<String> {
            let lines = log.latest(max).into_iter();
            lines.map(|line| line.message).collect()
        };
        assert_eq!(latest(1 << 10), ["one", "two", "three"]);
        let earlier =
            |count| format!("[{count} earlier lines are shown when the attempt has ended]");
        assert_eq!(latest(2 * LINE + 8), [earlier(1).as_str(), "two", "three"]);
        assert_eq!(latest(LINE + 2), [earlier(2).as_str(), "th"]);
        assert_eq!(latest(LINE - 1), Vec::<String>::new());
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let mut log = log(4);
        log.message(LogLevel::Info, "", "aéé");
        assert_eq!(messages(&mut log)[0], "aé");
    }

    #[test]
    fn the_hosts_notes_outlive_a_flood() {
        let mut log = Log::new(0, &Budget::new(0));
        log.write(Stream::Stdout, b"flood\n");
        log.refuse(FailureKind::CapabilityDenied, "no".to_owned());
        log.refuse(FailureKind::HostCallLimit, "neither".to_owned());
        assert_eq!(log.refusal().unwrap().message, "neither");
        assert_eq!(&messages(&mut log)[..2], ["no", "neither"]);
    }
}
