//! A connection that gives up on a client who does not speak or does not read, and that closes so
//! that its client can read the last answer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use crate::http::connection_permits::ConnectionState;

/// How long, and for how many bytes, a client is still read after the last answer was sent. Closing
/// a socket that holds unread bytes resets the connection, and a reset throws away the answer at
/// the client. So what is read here is dropped: the largest component that a client would send, or
/// what comes in the time. A client that falls silent has heard, or will not.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_SILENCE: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 128 << 20;
/// Bytes that are dropped at a time.
const PIECE: usize = 16 << 10;

/// The times that a client has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From the moment the connection is open until its first byte.
    pub(crate) first_byte: Duration,
    /// For an answer to be taken. The clock starts when a write first has to wait for the client,
    /// and stops only when everything that was to be written has been taken: a client that takes a
    /// byte now and then is still out of time.
    pub(crate) write: Duration,
}

/// A socket with these times.
pub(crate) struct Socket {
    io: TokioIo<TcpStream>,
    connection: Arc<ConnectionState>,
    write_timeout: Duration,
    /// While nothing was read.
    first_byte: Option<Pin<Box<Sleep>>>,
    /// While a write waits for the client.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Once everything was written.
    lingering: Option<Lingering>,
}

struct Lingering {
    until: Pin<Box<Sleep>>,
    end: Instant,
    left: usize,
}

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        connection: Arc<ConnectionState>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            io: TokioIo::new(stream),
            connection,
            write_timeout: timeouts.write,
            first_byte: Some(Box::pin(tokio::time::sleep(timeouts.first_byte))),
            deadline: None,
            lingering: None,
        }
    }

    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.connection.writes();
        if self.deadline.is_none() && written.is_ready() {
            return written;
        }
        let end = Instant::now() + self.write_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(late("the client does not read its answer"))),
            Poll::Pending => written,
        }
    }

    /// Drops what the client still sends, until it closes, or has sent or taken too much.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: Box::pin(tokio::time::sleep(LINGER_SILENCE)),
            end: Instant::now() + LINGER,
            left: LINGER_BYTES,
        });
        loop {
            if lingering.until.as_mut().poll(cx).is_ready() || lingering.left == 0 {
                return Poll::Ready(());
            }
            let mut space = [0; PIECE];
            let mut dropped = ReadBuf::new(&mut space);
            let read = Pin::new(&mut self.io).poll_read(cx, dropped.unfilled());
            if ready!(read).is_err() || dropped.filled().is_empty() {
                return Poll::Ready(());
            }
            lingering.left = lingering.left.saturating_sub(dropped.filled().len());
            let silent = Instant::now() + LINGER_SILENCE;
            lingering.until.as_mut().reset(lingering.end.min(silent));
        }
    }
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.first_byte = None;
            self.connection.heard();
        } else if let Some(first_byte) = &mut self.first_byte
            && first_byte.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(late("the client says nothing")));
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when its own buffer is empty, so by then the client has taken the whole
    /// answer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.deadline = None;
        self.connection.wrote();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Says that nothing more comes; after a request that was not read to its end, also waits until
    /// the client has stopped sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if !self.connection.is_read_out() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
