//! Telling whoever watches the task how far it is.

/// Reports the share of the work that is done, from 0.0 to 1.0, and a short note (empty for none).
/// The latest report is shown while the task runs; the host may drop reports that come faster than
/// it writes them.
pub fn progress(fraction: f64, note: &str) {
    #[cfg(target_family = "wasm")]
    crate::__private::bindings::taskforge::plugin::progress::report(
        fraction,
        (!note.is_empty()).then_some(note),
    );
    #[cfg(not(target_family = "wasm"))]
    eprintln!("progress: {:.0} % {note}", fraction * 100.0);
}
