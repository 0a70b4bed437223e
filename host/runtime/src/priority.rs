//! Less of a processor for the calling thread.

use std::io;

use rustix::process::nice;

/// A tenth of the share of a thread that is not niced. With less, what runs under it would starve beside a busy neighbour until its time is
/// over. Slices are left as they are: to Linux a shorter slice is a nearer deadline, so whoever has one goes first.
pub(crate) const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread, and of the processes that it starts.
pub(crate) fn lower() -> io::Result<()> {
    nice(NICENESS)?;
    Ok(())
}
