//! Streams, pollables and errors of `wasi:io`, and functions that make them elsewhere in WASI: each
//! handle is charged for, and no call moves more than a chunk.

use wasmtime::{
    bail,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::{
    cli::WasiCliView as _,
    clocks::WasiClocksView as _,
    p2::{
        DynInputStream, DynOutputStream, DynPollable, Network, StreamError, StreamResult,
        bindings::{
            cli::{stderr, stdin, stdout},
            clocks::monotonic_clock,
            io::{error, poll, streams},
            sockets::{instance_network, network},
        },
    },
    sockets::WasiSocketsView as _,
};

use super::{HostState, handles::HANDLE};

/// How many pollables one `poll` may wait for. Each call makes a future for each.
const POLLED: usize = 20_000;

/// What one read returns at most, in bytes. A stream may return less than was asked for.
const READ: u64 = 256 << 10;

impl streams::Host for HostState {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<streams::StreamError> {
        let charge = self.budget.charge("the stream's error", HANDLE)?;
        let converted = streams::Host::convert_stream_error(&mut self.table, error)?;
        if let streams::StreamError::LastOperationFailed(error) = &converted {
            self.handles.keep(error, charge);
        }
        Ok(converted)
    }
}

impl streams::HostInputStream for HostState {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        streams::HostInputStream::read(&mut self.table, stream, len.min(READ))
    }

    async fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        streams::HostInputStream::blocking_read(&mut self.table, stream, len.min(READ)).await
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        streams::HostInputStream::skip(&mut self.table, stream, len.min(READ))
    }

    async fn blocking_skip(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        streams::HostInputStream::blocking_skip(&mut self.table, stream, len.min(READ)).await
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the pollable", HANDLE, |state| {
            streams::HostInputStream::subscribe(&mut state.table, stream)
        })
    }

    async fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        let handle = stream.rep();
        streams::HostInputStream::drop(&mut self.table, stream).await?;
        self.handles.release(handle);
        Ok(())
    }
}

// The streams bound writes themselves: each refuses more than it has announced.
impl streams::HostOutputStream for HostState {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        streams::HostOutputStream::check_write(&mut self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        streams::HostOutputStream::write(&mut self.table, stream, bytes)
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        streams::HostOutputStream::blocking_write_and_flush(&mut self.table, stream, bytes).await
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        streams::HostOutputStream::blocking_write_zeroes_and_flush(&mut self.table, stream, len)
            .await
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        streams::HostOutputStream::write_zeroes(&mut self.table, stream, len)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        streams::HostOutputStream::flush(&mut self.table, stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        streams::HostOutputStream::blocking_flush(&mut self.table, stream).await
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        streams::HostOutputStream::splice(&mut self.table, to, from, len.min(READ))
    }

    async fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        streams::HostOutputStream::blocking_splice(&mut self.table, to, from, len.min(READ)).await
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the pollable", HANDLE, |state| {
            streams::HostOutputStream::subscribe(&mut state.table, stream)
        })
    }

    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        let handle = stream.rep();
        streams::HostOutputStream::drop(&mut self.table, stream).await?;
        self.handles.release(handle);
        Ok(())
    }
}

impl poll::Host for HostState {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let count = pollables.len();
        if count > POLLED {
            bail!("{count} pollables were polled at once; {POLLED} is the limit");
        }
        poll::Host::poll(&mut self.table, pollables).await
    }
}

impl poll::HostPollable for HostState {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::block(&mut self.table, pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll::HostPollable::ready(&mut self.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        let handle = pollable.rep();
        poll::HostPollable::drop(&mut self.table, pollable)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl error::Host for HostState {}

impl error::HostError for HostState {
    fn to_debug_string(&mut self, error: Resource<error::Error>) -> wasmtime::Result<String> {
        error::HostError::to_debug_string(&mut self.table, error)
    }

    fn drop(&mut self, error: Resource<error::Error>) -> wasmtime::Result<()> {
        let handle = error.rep();
        error::HostError::drop(&mut self.table, error)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl stdin::Host for HostState {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        self.making("the standard input", HANDLE, |state| stdin::Host::get_stdin(&mut state.cli()))
    }
}

impl stdout::Host for HostState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.making("the standard output", HANDLE, |state| {
            stdout::Host::get_stdout(&mut state.cli())
        })
    }
}

impl stderr::Host for HostState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.making("the standard error", HANDLE, |state| {
            stderr::Host::get_stderr(&mut state.cli())
        })
    }
}

/// A timer is two entries of the table.
const TIMER: u64 = 2 * HANDLE;

impl monotonic_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::now(&mut self.clocks())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::resolution(&mut self.clocks())
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the timer", TIMER, |state| {
            monotonic_clock::Host::subscribe_instant(&mut state.clocks(), when)
        })
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the timer", TIMER, |state| {
            monotonic_clock::Host::subscribe_duration(&mut state.clocks(), duration)
        })
    }
}

impl instance_network::Host for HostState {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        self.making("the network", HANDLE, |state| {
            instance_network::Host::instance_network(&mut state.sockets())
        })
    }
}

impl network::Host for HostState {
    fn convert_error_code(
        &mut self,
        error: wasmtime_wasi::p2::SocketError,
    ) -> wasmtime::Result<network::ErrorCode> {
        network::Host::convert_error_code(&mut self.sockets(), error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<error::Error>,
    ) -> wasmtime::Result<Option<network::ErrorCode>> {
        network::Host::network_error_code(&mut self.sockets(), error)
    }
}

impl network::HostNetwork for HostState {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        let handle = network.rep();
        network::HostNetwork::drop(&mut self.sockets(), network)?;
        self.handles.release(handle);
        Ok(())
    }
}

/// Links these functions instead of WASI's own. The views of `wasi:cli`, clocks and sockets count
/// the calls themselves.
pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type Own = HasSelf<HostState>;
    let options = wasmtime_wasi::p2::bindings::LinkOptions::default();
    linker.allow_shadowing(true);
    error::add_to_linker::<_, Own>(linker, HostState::counted)?;
    poll::add_to_linker::<_, Own>(linker, HostState::counted)?;
    streams::add_to_linker::<_, Own>(linker, HostState::counted)?;
    stdin::add_to_linker::<_, Own>(linker, |state| state)?;
    stdout::add_to_linker::<_, Own>(linker, |state| state)?;
    stderr::add_to_linker::<_, Own>(linker, |state| state)?;
    monotonic_clock::add_to_linker::<_, Own>(linker, |state| state)?;
    instance_network::add_to_linker::<_, Own>(linker, |state| state)?;
    network::add_to_linker::<_, Own>(linker, &(&options).into(), |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}
