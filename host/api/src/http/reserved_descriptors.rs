//! Descriptors that the accept loop reserves for when the process has no others.

use std::{fs::File, io};

/// How many. Enough for probes and for an operator while everything else is used up.
const RESERVED: usize = 8;

/// Open files that stand for connections to come. When the process has run out of descriptors, one
/// is closed and a connection accepted in its place; they are opened again as others are closed.
#[derive(Debug, Default)]
pub(crate) struct ReservedDescriptors(Vec<File>);

impl ReservedDescriptors {
    pub(crate) fn fill(&mut self) {
        while self.0.len() < RESERVED {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                // There is none to reserve now, or no such file on this system.
                Err(_) => return,
            }
        }
    }

    /// Closes one, so that one connection can be accepted.
    pub(crate) fn release(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

/// Whether the process, or the system, has no descriptors left (EMFILE, ENFILE).
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
