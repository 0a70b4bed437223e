//! Tables for people, JSON for programs. The one place that prints, so the one place that keeps what
//! strangers wrote from acting on a terminal or fooling a reader ([`visible`]).

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use taskforge_domain::{one_line, visible};

/// Prints a line, or several. A closed pipe (`taskforge task list | head`) ends the output, not the program.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{}", visible(text)) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// Prints a value as indented JSON. What a terminal would obey or not show is escaped in its strings.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints an error on standard error.
pub(crate) fn error(text: &str) {
    aside(&format!("error: {text}"));
}

/// Prints a line that is not data, on standard error.
pub(crate) fn aside(text: &str) {
    let mut err = std::io::stderr().lock();
    if let Err(error) = writeln!(err, "{}", visible(text)) {
        tracing::debug!(%error, "standard error is closed");
    }
}

/// Whether a person watches standard error, where progress goes.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Rows under a head, in columns as wide as their widest cell. A cell stays on its line.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let shown = |row: &Vec<String>| row.iter().map(|cell| one_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line(padded.join("  ").trim_end());
    };
    print(head.to_vec());
    for row in &rows {
        print(row.iter().map(String::as_str).collect());
    }
}

/// Names and values, one pair a line, the values aligned. A value of several lines stays in its
/// column, so that none of its lines passes for another pair.
pub(crate) fn pairs(pairs: &[(&str, String)]) {
    let width = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
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
