//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process opens besides connections of clients and of plugins: connections to the database
/// and to Redis, files of the store and the cache, compilers.
const OTHER: u64 = 256;
/// Fewer, and the API would serve nobody.
const LEAST: u64 = 16;

/// Raises the limit on open files as far as this user may, and returns it. Systems set it low for
/// programs that could not live with a high one.
pub(crate) fn raise() -> Option<u64> {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    let most = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, most) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit on open files cannot be raised");
            current
        }
    }
}

/// How many connections of clients there may be at once, of those that were asked for: at most half
/// of what may be open, because plugins open connections too.
pub(crate) fn connections(asked: u32) -> usize {
    let most = raise().map_or(u64::MAX, share);
    let connections = u64::from(asked).min(most);
    if connections < u64::from(asked) {
        tracing::warn!(
            asked,
            connections,
            "fewer connections than asked for: the limit on open files is too low (ulimit -Hn, LimitNOFILE)"
        );
    }
    usize::try_from(connections).unwrap_or(usize::MAX)
}

fn share(open_files: u64) -> u64 {
    (open_files.saturating_sub(OTHER) / 2).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_everything_else() {
        assert_eq!(share(1024), 384);
        assert_eq!(share(1 << 20), 524_160);
        assert_eq!(share(64), LEAST);
    }
}
