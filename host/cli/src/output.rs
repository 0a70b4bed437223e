//! Tables for people, JSON for programs. The one place that prints, so the one place that keeps
//! what strangers wrote from acting on a terminal or fooling a reader ([`visible`]).

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;
use taskforge_domain::{one_line, visible};

/// Prints a line, or several. A closed pipe (`taskforge task list | head`) ends the output, not the
/// program.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{}", visible(text)) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// Prints a value as indented JSON. What a terminal would obey or not show is escaped in its
/// strings.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&indented(&serde_json::to_string(value)?));
    Ok(())
}

/// JSON text with one member or element a line. Only blanks change: a number stays as it was
/// written.
pub(crate) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut rest = json.chars().peekable();
    let line_end = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = rest.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = rest.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line_end(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line_end(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line_end(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

/// Prints what is for a program as it is: a script for a shell.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// Whether asides are left out.
static ONLY_JSON: AtomicBool = AtomicBool::new(false);

/// Leaves asides out from now on: under `--json` what a program reads on standard error is the
/// error alone.
pub(crate) fn leave_asides_out() {
    ONLY_JSON.store(true, Ordering::Relaxed);
}

/// Prints an error on standard error.
pub(crate) fn error(text: &str) {
    on_stderr(&format!("error: {text}"));
}

/// Prints a line that is not data, on standard error. Under `--json` there are none.
pub(crate) fn aside(text: &str) {
    if !ONLY_JSON.load(Ordering::Relaxed) {
        on_stderr(text);
    }
}

/// Prints what is always said, on standard error: an error as JSON, or a question to who sits at
/// the terminal.
pub(crate) fn on_stderr(text: &str) {
    let mut err = std::io::stderr().lock();
    if let Err(error) = writeln!(err, "{}", visible(text)) {
        tracing::debug!(%error, "standard error is closed");
    }
}

/// Whether a person watches standard error, where progress goes.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Rows under a head, in columns as wide as their widest cell. A cell stays on its line; on a
/// terminal a row does, too.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let terminal = console::Term::stdout();
    let room = terminal.is_term().then(|| terminal.size_checked()).flatten();
    for row in rows_of(head, rows, room.map(|(_, columns)| usize::from(columns))) {
        line(&row);
    }
}

/// Blanks between two columns.
const GAP: usize = 2;
/// The least width that a column is cut to.
const LEAST: usize = 8;

/// The lines of a table. Where they must fit into `room` columns, the widest cells are cut; those
/// of the first column, which are names and ids to be copied, stay whole.
fn rows_of(head: &[&str], rows: &[Vec<String>], room: Option<usize>) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let shown = |row: &Vec<String>| row.iter().map(|cell| one_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(&head).chain(rows).map(shown).collect();
    let mut widths = vec![0; head.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(console::measure_text_width(cell));
        }
    }
    if let Some(room) = room {
        let mut total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while total > room {
            let Some(widest) = widths.iter_mut().skip(1).max().filter(|width| **width > LEAST)
            else {
                break;
            };
            *widest -= 1;
            total -= 1;
        }
    }
    let written = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let cell = console::truncate_str(cell, *width, "…");
            let blanks = width.saturating_sub(console::measure_text_width(&cell));
            format!("{cell}{}", " ".repeat(blanks))
        });
        let cells: Vec<_> = cells.collect();
        cells.join(&" ".repeat(GAP)).trim_end().to_owned()
    });
    written.collect()
}

/// A value in a table: nothing is a dash, and a text has no quotes.
pub(crate) fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same, no longer than helps in a table: what a task failed with may be pages.
pub(crate) fn brief(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut line: String = text.chars().take(LONGEST + 1).collect();
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST - 1).chain(['…']).collect();
    }
    line
}

/// A time in a table, to the second.
pub(crate) fn time(value: &serde_json::Value) -> String {
    let text = cell(value);
    match text.split_once('.') {
        Some((seconds, _)) if text.ends_with('Z') => format!("{seconds}Z"),
        _ => text,
    }
}

/// Names and values, one pair a line, the values aligned. A value of several lines stays in its
/// column, so that none of its lines passes for another pair.
pub(crate) fn pairs(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let indent = format!("\n{:width$}  ", "");
    for (name, value) in pairs {
        let value = value.replace('\n', &indent);
        line(format!("{name:<width$}  {value}").trim_end());
    }
}

/// A number with its thousands grouped.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Microseconds for people.
pub(crate) fn micros(micros: u64) -> String {
    // Precision beyond three digits is noise in a time for people.
    #[allow(clippy::cast_precision_loss)]
    let micros = micros as f64;
    if micros < 1e3 {
        format!("{micros:.0} µs")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_its_numbers_stay_as_they_are() {
        let text =
            r#"{"n":12345678901234567890123,"a":[1.50,{"s":"a, \\\"b: {"}],"e":{}, "f":[ ]}"#;
        let indented = indented(text);
        assert_eq!(
            indented,
            "{\n  \"n\": 12345678901234567890123,\n  \"a\": [\n    1.50,\n    {\n      \"s\": \"a, \\\\\\\"b: {\"\n    }\n  ],\n  \"e\": {},\n  \"f\": []\n}"
        );
    }

    #[test]
    fn a_table_fits_where_it_must_and_keeps_its_first_column() {
        let id = "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11";
        let rows = vec![vec![id.to_owned(), "x".repeat(90), "日本語".repeat(10)]];
        let wide = rows_of(&["ID", "TEXT", "MORE"], &rows, None);
        assert!(wide[1].ends_with("日本語"), "{wide:?}");
        let narrow = rows_of(&["ID", "TEXT", "MORE"], &rows, Some(80));
        for row in &narrow {
            assert!(console::measure_text_width(row) <= 80, "{row}");
        }
        assert!(narrow[1].starts_with(id) && narrow[1].contains("x…"), "{narrow:?}");
        let least = rows_of(&["ID", "TEXT", "MORE"], &rows, Some(10));
        assert!(least[1].starts_with(id), "{least:?}");
    }

    #[test]
    fn a_long_text_is_cut_to_a_table_cell() {
        let cell = brief(&"x".repeat(200));
        assert!(cell.chars().count() == 100 && cell.ends_with('…'));
        assert_eq!(time(&serde_json::json!("2026-01-31T08:00:00.123456Z")), "2026-01-31T08:00:00Z");
        assert_eq!(time(&serde_json::Value::Null), "-");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn times_choose_their_unit() {
        assert_eq!(
            (micros(12), micros(1_500), micros(2_000_000)),
            ("12 µs".into(), "1.50 ms".into(), "2.00 s".into())
        );
    }
}
