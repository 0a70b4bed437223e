//! `wasi:http`, in front of wasmtime's implementation: each function charges for the memory that it
//! makes the host use, before it does.
//!
//! | file | the concept |
//! |---|---|
//! | `fields` | header maps |
//! | `outgoing` | requests, responses and bodies that the guest makes |
//! | `incoming` | requests, responses and bodies that it receives |

mod fields;
mod incoming;
mod outgoing;

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi_http::p2::{
    HeaderError, HttpError, HttpResult,
    bindings::{
        LinkOptions,
        http::{outgoing_handler, types},
    },
    types::{HostFutureIncomingResponse, HostOutgoingRequest},
};

use super::{HostState, handles::HANDLE};
use crate::egress;

/// A request under way, in bytes, without what the egress charges for it: the handle, and the task
/// that waits.
const WAITING: u64 = 4 * HANDLE;

impl types::Host for HostState {
    fn convert_error_code(&mut self, error: HttpError) -> wasmtime::Result<types::ErrorCode> {
        types::Host::convert_error_code(&mut self.uncounted_http(), error)
    }

    fn convert_header_error(&mut self, error: HeaderError) -> wasmtime::Result<types::HeaderError> {
        types::Host::convert_header_error(&mut self.uncounted_http(), error)
    }

    /// `wasmtime-wasi-http` 48 knows an error of a response body only if it is its WIT type, which
    /// is not what bodies produce, so guests would see no reason at all.
    fn http_error_code(
        &mut self,
        error: Resource<types::IoError>,
    ) -> wasmtime::Result<Option<types::ErrorCode>> {
        let error = self.table.get(&error)?;
        let known = error.downcast_ref::<types::ErrorCode>().cloned();
        Ok(known.or_else(|| error.downcast_ref().map(egress::body_error_code)))
    }
}

impl outgoing_handler::Host for HostState {
    fn handle(
        &mut self,
        request: Resource<HostOutgoingRequest>,
        options: Option<Resource<types::RequestOptions>>,
    ) -> HttpResult<Resource<HostFutureIncomingResponse>> {
        let charge = self.budget.charge("the request under way", WAITING);
        let charge = charge.map_err(HttpError::trap)?;
        let (handle, options_handle) = (request.rep(), options.as_ref().map(Resource::rep));
        // The implementation takes the options and leaves them in the table.
        let waiting = outgoing_handler::Host::handle(&mut self.uncounted_http(), request, options);
        if let Some(options) = options_handle {
            let options = Resource::<types::RequestOptions>::new_own(options);
            types::HostRequestOptions::drop(self, options).map_err(HttpError::trap)?;
        }
        // What the request holds from here on is on the egress's charge.
        self.handles.release(handle);
        let waiting = waiting?;
        self.handles.keep(&waiting, charge);
        Ok(waiting)
    }
}

/// Links these functions instead of wasmtime's, which they call.
pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type Own = HasSelf<HostState>;
    let options = LinkOptions::default();
    outgoing_handler::add_to_linker::<_, Own>(linker, HostState::counted)?;
    types::add_to_linker::<_, Own>(linker, &(&options).into(), HostState::counted)
}
