//! What the guest's language wrote to standard error about the end of the program.
//!
//! Each language reports in its own form: a line that names the exception, between a trace and text
//! that differs from run to run. That line becomes the error's message, by which dead letters are
//! grouped. Lines are read as they come, so that neither a long trace nor a full log hides them.

use crate::{ending::MESSAGE, log::cut};

/// After this many lines that are no trace a report no longer counts as the end. Fewer may be the
/// rest of its message.
const LATER: u32 = 20;

/// Lines that a message may have after its first and before a trace. More were logged before.
const MORE: u32 = 5;

/// What a guest wrote to standard error that may say why it ended.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The line that has no end yet, cut to what is kept.
    open: Vec<u8>,
    /// The last line that is not indented and belongs to no trace.
    last: Option<String>,
    /// The last line that is not indented and begins with an error's name, and how many came after
    /// it without a trace. These may be the rest of its message.
    named: Option<(String, u32)>,
    /// The last report, and how many lines came after it.
    report: Option<(Report, u32)>,
    awaiting: Awaiting,
}

/// A report of the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// A Rust panic: its message and place.
    Panic(String),
    /// The line that another language names the exception in.
    Exception(String),
}

/// What the lines so far announce for the next one.
#[derive(Debug, Default)]
enum Awaiting {
    #[default]
    Nothing,
    /// The message of a Rust panic at this place.
    PanicMessage(String),
    /// Python's frames, which are indented, and then the exception. In a group all lines begin with
    /// a bar. One that is `ignored` does not end the program.
    PythonException { grouped: bool, ignored: bool },
    /// An exception that Python ignores, in a finalizer or at its end; frames may come before it.
    Ignored,
    /// The exception's message.
    Exception,
    /// The `what()` of a C++ exception whose type was named.
    What(String),
    /// A trace, to the end.
    Trace,
}

/// Lines that begin a trace to the end of what is written.
const TRACES: [&str; 11] = [
    "stack backtrace:",
    "Stack backtrace:",
    "stack traceback:",
    "Stack trace:",
    "Stack:",
    "Caused by:",
    "CallStack (from HasCallStack):",
    "HasCallStack backtrace:",
    "Current thread 0x",
    "Thread 0x",
    "Extension modules:",
];

/// The shortest of these lines, in bytes.
const SHORTEST: usize = 6;

/// The beginnings of lines that are reports by themselves.
const NAMED: [&str; 5] =
    ["panic: ", "fatal error: ", "Fatal Python error: ", "libc++abi: ", "Uncaught "];

/// Lines that carry no information.
const NOISE: [&str; 6] = [
    "note: run with `RUST_BACKTRACE",
    "[signal ",
    "exit status ",
    "Redirecting call to abort()",
    "--- End of ",
    "Unable to dump stack trace",
];

impl Words {
    /// Reads what the guest wrote to standard error. Keeps no more than a message needs.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line);
            self.end_line();
            bytes = &rest[1..];
        }
        self.extend(bytes);
    }

    /// Reads a line that the guest logged; only a report counts there.
    pub(crate) fn logged(&mut self, line: &str) {
        let (last, named) = (self.last.take(), self.named.take());
        self.line(cut(line, MESSAGE));
        (self.last, self.named) = (last, named);
    }

    /// What the guest wrote about its end: a report, and its last line.
    pub(crate) fn end(&mut self) -> (Option<&Report>, Option<&str>) {
        if !self.open.is_empty() {
            self.end_line();
        }
        match std::mem::take(&mut self.awaiting) {
            Awaiting::PanicMessage(place) => self.report(Report::Panic(at("", &place))),
            Awaiting::What(name) => self.report(Report::Exception(name)),
            _ => {}
        }
        let report = self.report.as_ref().filter(|(_, later)| *later <= LATER);
        (report.map(|(report, _)| report), self.last.as_deref())
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MESSAGE.saturating_sub(self.open.len());
        self.open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        if self.open.is_empty() {
            return self.blank();
        }
        let line = std::mem::take(&mut self.open);
        self.line(&String::from_utf8_lossy(&line));
        // Keeps the buffer for the next line.
        self.open = line;
        self.open.clear();
    }

    /// An empty line, which ends a trace. A flood may have millions.
    fn blank(&mut self) {
        match &self.awaiting {
            Awaiting::PanicMessage(place) => {
                let report = Report::Panic(at("", place));
                self.report(report);
            }
            Awaiting::Trace => self.awaiting = Awaiting::Nothing,
            _ => {}
        }
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return self.blank();
        }
        if self.continues(line) || line.len() >= SHORTEST && self.begins(line) {
            return;
        }
        if matches!(self.awaiting, Awaiting::Trace) {
            return;
        }
        if line.starts_with(char::is_whitespace) {
            // A frame of a trace that no line announced.
            if line.trim_start().starts_with("at ") {
                self.trace_begins();
            }
            return;
        }
        if let Some((_, later)) = &mut self.report {
            *later = later.saturating_add(1);
        }
        if names_an_error(line) {
            self.named = Some((line.to_owned(), 0));
        } else if let Some((_, later)) = &mut self.named {
            *later = later.saturating_add(1);
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.push_str(line);
    }

    /// A trace begins: the message is the first of the lines before it.
    fn trace_begins(&mut self) {
        if let Some((named, ..=MORE)) = self.named.take() {
            self.last = Some(named);
        }
    }

    /// Whether the line is what the lines before it announced.
    fn continues(&mut self, line: &str) -> bool {
        match std::mem::take(&mut self.awaiting) {
            Awaiting::PanicMessage(place) => {
                let said =
                    if NOISE.iter().any(|noise| line.starts_with(noise)) { "" } else { line };
                self.report(Report::Panic(at(said, &place)));
                true
            }
            Awaiting::Ignored => {
                // Without frames this line is the exception.
                if let Some(grouped) = traceback(line) {
                    self.awaiting = Awaiting::PythonException { grouped, ignored: true };
                }
                true
            }
            Awaiting::PythonException { grouped, ignored } => {
                let text = match (grouped, line.strip_prefix("  | ")) {
                    (true, Some(text)) => text,
                    (true, None) => " ",
                    (false, _) => line,
                };
                // Without memory to print it with, Python dumps the exception's object.
                let dumped = text.strip_prefix("object type name: ");
                if dumped.is_none()
                    && (text.starts_with("object ") || text.starts_with(char::is_whitespace))
                {
                    self.awaiting = Awaiting::PythonException { grouped, ignored };
                } else if !ignored {
                    self.report(Report::Exception(dumped.unwrap_or(text).to_owned()));
                }
                true
            }
            Awaiting::Exception => {
                self.report(Report::Exception(line.trim_start().to_owned()));
                true
            }
            Awaiting::What(name) => {
                let what = line.trim_start().strip_prefix("what():");
                let text =
                    what.map_or(name.clone(), |what| format!("{name}: {}", what.trim_start()));
                self.report(Report::Exception(text));
                what.is_some()
            }
            trace @ Awaiting::Trace => {
                self.awaiting = trace;
                false
            }
            Awaiting::Nothing => false,
        }
    }

    /// Whether the line begins a report or a trace, or says nothing of its own.
    fn begins(&mut self, line: &str) -> bool {
        if NOISE.iter().any(|noise| line.starts_with(noise)) {
            return true;
        }
        if TRACES.iter().any(|trace| line.starts_with(trace)) || is_goroutine(line) {
            self.trace_begins();
            self.awaiting = Awaiting::Trace;
            return true;
        }
        if let Some((_, place)) = line.split_once("panicked at ") {
            match old_panic(place) {
                Some(report) => self.report(report),
                None => {
                    self.awaiting = Awaiting::PanicMessage(place.trim_end_matches(':').to_owned());
                }
            }
            return true;
        }
        if let Some(grouped) = traceback(line) {
            self.awaiting = Awaiting::PythonException { grouped, ignored: false };
            return true;
        }
        if line.starts_with("Exception ignored ") {
            self.awaiting = Awaiting::Ignored;
            return true;
        }
        if line == "Unhandled exception:" {
            self.awaiting = Awaiting::Exception;
            return true;
        }
        if let Some(name) = line.strip_prefix("terminate called after throwing an instance of ") {
            self.awaiting = Awaiting::What(name.trim_matches('\'').to_owned());
            return true;
        }
        // Go indents a panic during a panic.
        let whole = line.strip_prefix('\t').unwrap_or(line);
        let named = NAMED.iter().any(|name| whole.starts_with(name));
        let named = named
            || line.contains("Fatal error: ")
            || (line.starts_with("thread ") && line.contains(" panic: "));
        if named {
            self.report(Report::Exception(whole.to_owned()));
        }
        named
    }

    fn report(&mut self, report: Report) {
        self.awaiting = Awaiting::Nothing;
        self.named = None;
        // Right after an exception, or the rest of its dump, it is the interpreter's own shell,
        // written in Rust, that gives up because of it.
        if matches!(
            (&self.report, &report),
            (Some((Report::Exception(_), 0..=2)), Report::Panic(_))
        ) {
            return;
        }
        self.report = Some((report, 0));
    }
}

/// Whether a line begins Python's frames, and whether those of a group.
fn traceback(line: &str) -> Option<bool> {
    match line {
        "Traceback (most recent call last):" => Some(false),
        "  + Exception Group Traceback (most recent call last):" => Some(true),
        _ => None,
    }
}

/// Whether a line begins one of Go's traces: `goroutine 1 [running]:`.
fn is_goroutine(line: &str) -> bool {
    let state = line
        .strip_prefix("goroutine ")
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    state.is_some_and(|rest| rest.contains(" [") && rest.ends_with("]:"))
}

/// Whether a line begins as reports of errors do, with the name of a class: `TypeError: boom`.
fn names_an_error(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    name.ends_with("Error") || name.ends_with("Exception")
}

/// A panic's message and place.
fn at(said: &str, place: &str) -> String {
    format!("{said} ({place})").trim_start().to_owned()
}

/// Before Rust 1.73 a panic was one line: `'message', src/lib.rs:1:2`.
fn old_panic(place: &str) -> Option<Report> {
    let (said, place) = place.strip_prefix('\'')?.rsplit_once("', ")?;
    Some(Report::Panic(at(said, place)))
}

#[cfg(test)]
mod tests;
