//! Standard output and error become log lines; a command's standard output is its output.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use super::SharedLog;
use crate::{
    budget::{Budget, Charge},
    log::Stream,
};

/// What one write may carry, in bytes; as much as guests' libraries send at once.
const CHUNK: usize = 64 << 10;

/// Refuses more than the stream has announced, as the interface demands.
fn chunk(bytes: &[u8]) -> StreamResult<()> {
    if bytes.len() > CHUNK {
        return Err(StreamError::trap("a write of more than the stream was ready for"));
    }
    Ok(())
}

/// One of the two streams. Always ready, because the log keeps or drops what comes.
#[derive(Debug, Clone)]
pub(super) struct Output {
    log: SharedLog,
    stream: Stream,
}

impl Output {
    pub(super) const fn stdout(log: SharedLog) -> Self {
        Self { log, stream: Stream::Stdout }
    }

    pub(super) const fn stderr(log: SharedLog) -> Self {
        Self { log, stream: Stream::Stderr }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        chunk(&bytes)?;
        self.log.lock().write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.log.lock().write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A command wrote more than its output may have.
#[derive(Debug, thiserror::Error)]
#[error("the limit of {0} bytes of output")]
pub(crate) struct OutputLimit(pub(crate) u64);

/// A command's standard output, kept up to the limit. More than that ends the command.
#[derive(Debug, Clone)]
pub(crate) struct Captured {
    kept: Arc<Mutex<Kept>>,
    limit: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    charge: Charge,
}

impl Captured {
    pub(super) fn new(limit: u64, budget: &Budget) -> Self {
        let kept = Kept { bytes: Vec::new(), charge: Charge::empty(budget) };
        Self { kept: Arc::new(Mutex::new(kept)), limit }
    }

    /// What was written so far.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut kept = self.lock();
        kept.charge.clear();
        std::mem::take(&mut kept.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        let mut kept = self.lock();
        let Kept { bytes: held, charge } = &mut *kept;
        if (held.len() + bytes.len()) as u64 > self.limit {
            return Err(OutputLimit(self.limit).into());
        }
        charge.buffer("the output", held, bytes.len())?;
        held.extend_from_slice(bytes);
        Ok(())
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Captured {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        chunk(&bytes)?;
        self.keep(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for Captured {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let kept = self.keep(bytes).map_err(|full| io::Error::other(full.to_string()));
        Poll::Ready(kept.map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_to_its_limit_and_not_a_byte_further() {
        let captured = Captured::new(5, &Budget::new(0));
        captured.keep(b"123").unwrap();
        assert!(captured.keep(b"456").is_err());
        captured.keep(b"45").unwrap();
        assert!(captured.keep(b"6").is_err());
        assert_eq!(captured.take(), b"12345");
    }
}
