//! Linked code, and the export that takes a task.

use taskforge_domain::Shape;
use wasmtime::component::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::{contract::BindingsPre, host::HostState};

/// A component that is linked with the host, and whose exports were found.
pub(crate) enum Code {
    /// It exports the handler interface.
    Handler(BindingsPre<HostState>),
    /// It exports `wasi:cli/run`.
    Command(CommandPre<HostState>),
    /// It exports `wasi:http/incoming-handler`.
    Http(ProxyPre<HostState>),
}

impl Code {
    /// Finds the exports that the shape asks for.
    ///
    /// # Errors
    /// When they are not there, or are of another type.
    pub(crate) fn link(shape: Shape, linked: InstancePre<HostState>) -> wasmtime::Result<Self> {
        Ok(match shape {
            Shape::Handler => Self::Handler(BindingsPre::new(linked)?),
            Shape::Command => Self::Command(CommandPre::new(linked)?),
            Shape::Http => Self::Http(ProxyPre::new(linked)?),
        })
    }
}
