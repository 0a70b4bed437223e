//! Segments that are sent at once, and a peer that is gone without a word.
//!
//! sqlx 0.9.0 leaves Nagle's algorithm on (its main branch does not any more). A batch that goes
//! out as more than one TLS record then waits 40 ms for the acknowledgement of the record before,
//! which is ten times what the database needs for it. The option can only be set on the socket,
//! which sqlx does not show; so it is looked for among those of this process.
//!
//! The same sockets are told to give up a peer that acknowledges nothing: a machine that lost its
//! power, or a network that was cut, would otherwise be waited for as long as a statement may take,
//! and an idle connection for hours.

use std::{
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

/// How long a peer may acknowledge nothing. Longer than a network's hiccup, about as long as a
/// worker's lease.
const SILENCE: Duration = Duration::from_secs(8);

/// Sets these options on every connection of this process to a server's port. Where the system does
/// not list a process's descriptors, nothing happens: batches over TLS are slower, and lost peers
/// are noticed later.
pub(super) fn set(port: u16) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let descriptors = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for descriptor in descriptors {
        if let Err(error) = set_one(descriptor, port) {
            // Most descriptors are no sockets.
            tracing::trace!(%error, descriptor, "not a connection");
        }
    }
}

#[allow(unsafe_code, reason = "borrows a descriptor by its number, which nothing safe can do")]
fn set_one(descriptor: RawFd, port: u16) -> std::io::Result<()> {
    // SAFETY: the borrow ends with this function, and only its peer is asked for and an option set.
    // Should the descriptor be closed meanwhile, those calls fail; should it have become another
    // connection to the same port, that one gets the option, which is as well.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let socket = SockRef::from(&borrowed);
    let is_ours = socket.peer_addr()?.as_socket().is_some_and(|peer| peer.port() == port);
    if is_ours && !socket.tcp_nodelay()? {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        let probes =
            TcpKeepalive::new().with_time(SILENCE / 2).with_interval(SILENCE / 8).with_retries(4);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_to_the_port_gets_the_option_and_no_other() {
        let (server, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (ours, theirs) = (
            TcpStream::connect(server.local_addr().unwrap()).unwrap(),
            TcpStream::connect(other.local_addr().unwrap()).unwrap(),
        );
        set(server.local_addr().unwrap().port());
        assert!(ours.nodelay().unwrap());
        assert_eq!(SockRef::from(&ours).tcp_user_timeout().unwrap(), Some(SILENCE));
        assert!(!theirs.nodelay().unwrap());
    }
}
