//! How many file descriptors outgoing connections may take.
//!
//! A process without free descriptors accepts no connection and reaches no database. So guests get
//! a part that leaves enough for everything else.

use rustix::process::{Resource, getrlimit};

/// The most that outgoing connections ever get.
const MOST: usize = 8192;

/// What a process without a limit is taken to have.
const PLENTY: u64 = 1 << 20;

/// Descriptors for outgoing HTTP connections: half of what this process may open now
/// (`RLIMIT_NOFILE`), at most 8,192. Read when a runtime is configured, so a process raises its
/// limit before that.
#[must_use]
pub fn outgoing() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(PLENTY);
    usize::try_from(limit / 2).unwrap_or(MOST).min(MOST)
}

/// How they are divided; together never more than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Division {
    /// Requests under way. Each has one connection.
    pub(crate) requests: usize,
    /// Connections that are being made, also for requests that have found another one meanwhile.
    /// Each may try two addresses at once.
    pub(crate) connecting: usize,
    /// Clients, each with [`IDLE_CONNECTIONS`] idle connections.
    pub(crate) clients: usize,
}

/// Idle connections that one client keeps.
pub(crate) const IDLE_CONNECTIONS: usize = 4;

/// Idle connections of the process. Each keeps a read buffer of up to 160 KiB, for which no attempt
/// pays: together 80 MiB at most.
const MOST_IDLE: usize = 512;

/// Addresses that are tried at once: one of each family.
const TRIES: usize = 2;

impl Division {
    pub(crate) fn of(descriptors: usize) -> Self {
        let descriptors = descriptors.max(16);
        Self {
            requests: descriptors / 2,
            connecting: descriptors / 4 / TRIES,
            clients: (descriptors / 4).min(MOST_IDLE) / IDLE_CONNECTIONS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_never_more_than_the_whole() {
        for descriptors in [16, 17, 100, 512, 1000, MOST] {
            let Division { requests, connecting, clients } = Division::of(descriptors);
            assert!(requests + connecting * TRIES + clients * IDLE_CONNECTIONS <= descriptors);
            assert!(requests > 0 && connecting > 0 && clients > 0);
            assert!(clients * IDLE_CONNECTIONS <= MOST_IDLE);
        }
    }
}
