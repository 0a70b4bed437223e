//! The host functions, and the state of an attempt that they work on.

mod calls;
mod capabilities;
mod config;
mod handles;
mod http;
mod io;
mod keyvalue;
mod mail;
mod network;
mod stdio;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taskforge_domain::{PluginInfo, Progress, TaskId, TenantId};
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p2::pipe::MemoryInputPipe};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView};

pub(crate) use calls::{CARGO, Calls, HostCallLimit, Switch};
pub(crate) use config::Values;
pub(crate) use handles::headers;
pub use keyvalue::{Bucket, Cas};
pub(crate) use stdio::{Captured, OutputLimit};

use crate::{
    KeyValue,
    budget::{Budget, Charge, OverBudget},
    contract::{self, logging, progress},
    egress::{Egress, Outbound},
    limiter::MemoryLimiter,
    log::Log,
    mailer::Admission,
};

/// The size of one header map, in bytes of host memory.
const MAX_FIELDS: usize = 64 << 10;

/// The random bytes that one call returns at most.
const MAX_RANDOM: u64 = 64 << 10;

/// An attempt's log. Streams and requests that outlive a call share it.
#[derive(Debug, Clone)]
pub(crate) struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    pub(crate) fn new(limit: u64, budget: &Budget) -> Self {
        Self(Arc::new(Mutex::new(Log::new(limit, budget))))
    }

    /// Never held across an await. Nothing panics under it, and if something did, the lines would
    /// still be whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a handler's progress reports go.
pub(crate) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// The identity of an attempt, and the services that it may use.
pub(crate) struct Attempt {
    pub(crate) plugin: Arc<PluginInfo>,
    pub(crate) tenant: TenantId,
    pub(crate) task: TaskId,
    pub(crate) progress: Option<OnProgress>,
    pub(crate) mail: Arc<Admission>,
    pub(crate) egress: Arc<Egress>,
    pub(crate) config: Arc<Values>,
    pub(crate) key_value: Option<Arc<dyn KeyValue>>,
}

/// Everything that host functions reach through the store.
pub(crate) struct HostState {
    pub(crate) budget: Budget,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) calls: Calls,
    pub(crate) log: SharedLog,
    pub(crate) outbound: Outbound,
    attempt: Attempt,
    mails: mail::Mails,
    cursors: keyvalue::Cursors,
    table: ResourceTable,
    // Charges for the resources behind the table's handles.
    handles: handles::Handles,
    // Charge for resources without a handle that live until the attempt ends.
    kept: Charge,
    // Charge for the last call's result, which the engine copies into the guest after the host
    // function has returned.
    carried: Charge,
    http: WasiHttpCtx,
    // Made at the first call that needs it: a handler that only computes needs no clocks,
    // randomness or streams.
    wasi: Option<Box<WasiCtx>>,
}

impl HostState {
    pub(crate) fn new(attempt: Attempt) -> Self {
        let limits = &attempt.plugin.limits;
        let budget = Budget::new(limits.memory);
        let log = SharedLog::new(limits.log, &budget);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles as usize);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        Self {
            limiter: MemoryLimiter::new(limits, budget.clone()),
            calls: Calls::new(limits),
            outbound: Outbound::new(&attempt, log.clone(), budget.clone()),
            log,
            attempt,
            mails: mail::Mails::default(),
            cursors: keyvalue::Cursors::default(),
            table,
            handles: handles::Handles::default(),
            kept: Charge::empty(&budget),
            carried: Charge::empty(&budget),
            http,
            wasi: None,
            budget,
        }
    }

    /// The most bytes that the next copy from the guest may have, given the room in the budget. The
    /// result of the call before is in the guest by now.
    pub(crate) fn cargo(&mut self, most: usize) -> usize {
        self.carried.clear();
        usize::try_from(self.budget.room()).unwrap_or(usize::MAX).min(most)
    }

    /// Charges for the result of a call, until the next call.
    fn carry(&mut self, what: &'static str, bytes: usize) -> Result<(), OverBudget> {
        self.carried.resize(what, bytes as u64)
    }

    /// The most bytes that the output may have.
    pub(crate) fn output_limit(&self) -> u64 {
        self.attempt.plugin.limits.output
    }

    /// Gives a command its standard input and variables, and keeps its standard output out of the
    /// log.
    ///
    /// # Errors
    /// When the budget has no room for the input.
    pub(crate) fn serve_command(
        &mut self,
        input: &str,
        variables: &[(&str, String)],
    ) -> Result<Captured, OverBudget> {
        let output = Captured::new(self.output_limit(), &self.budget);
        let input = self.budget.bytes("the input", input.as_bytes().to_vec())?;
        let mut context = wasi_context(&self.log);
        context
            .stdin(MemoryInputPipe::new(input))
            .stdout(output.clone())
            // Programs expect their own name there, and some crash without it.
            .arg(self.attempt.plugin.name.as_str())
            .envs(variables);
        self.wasi = Some(Box::new(context.build()));
        Ok(output)
    }

    /// The view of `wasi:http` for the host's own use.
    pub(crate) fn uncounted_http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }

    /// The state for our own host functions. Like the WASI views below, it counts the call.
    fn counted(&mut self) -> &mut Self {
        self.calls.count();
        self
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.calls.count();
        let log = &self.log;
        let ctx = self.wasi.get_or_insert_with(|| Box::new(wasi_context(log).build()));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// No arguments, no environment, no preopened directories, no sockets; real clocks and randomness.
fn wasi_context(log: &SharedLog) -> WasiCtxBuilder {
    let mut context = WasiCtx::builder();
    context
        .stdout(stdio::Output::stdout(log.clone()))
        .stderr(stdio::Output::stderr(log.clone()))
        .max_random_size(MAX_RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    context
}

/// Links every interface that a toolchain may import, so that components instantiate. A function
/// that was not granted fails when it is called.
///
/// # Errors
/// When two definitions collide, which is a bug.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    io::link(linker)?;
    http::link(linker)?;
    network::refuse_sockets(linker)?;
    logging::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    progress::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    contract::mail::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    contract::mail_mime::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    config::link(linker)?;
    keyvalue::link(linker)
}

#[cfg(test)]
mod tests;
