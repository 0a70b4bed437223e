//! What the guest receives: the request that a web server answers, responses, their bodies and
//! trailers. The egress charges for bytes that came over the wire.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynPollable};
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        bindings::http::types::{self, ErrorCode, Method, Scheme, Trailers},
        body::{HostFutureTrailers, HostIncomingBody},
        types::{HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse},
    },
};

use super::super::{
    HostState,
    handles::{HANDLE, headers},
};

/// What a body or its trailers cost besides their bytes: the handle, a channel, and a box for each
/// layer.
const INCOMING: u64 = 2 * HANDLE;

type Request = Resource<HostIncomingRequest>;
type Response = Resource<HostIncomingResponse>;
type Body = Resource<HostIncomingBody>;

// There is one such request, and the guest cannot make others.
impl types::HostIncomingRequest for HostState {
    fn method(&mut self, request: Request) -> wasmtime::Result<Method> {
        types::HostIncomingRequest::method(&mut self.uncounted_http(), request)
    }

    fn path_with_query(&mut self, request: Request) -> wasmtime::Result<Option<String>> {
        types::HostIncomingRequest::path_with_query(&mut self.uncounted_http(), request)
    }

    fn scheme(&mut self, request: Request) -> wasmtime::Result<Option<Scheme>> {
        types::HostIncomingRequest::scheme(&mut self.uncounted_http(), request)
    }

    fn authority(&mut self, request: Request) -> wasmtime::Result<Option<String>> {
        types::HostIncomingRequest::authority(&mut self.uncounted_http(), request)
    }

    fn headers(&mut self, request: Request) -> wasmtime::Result<Resource<FieldMap>> {
        self.sharing_fields(|state| {
            types::HostIncomingRequest::headers(&mut state.uncounted_http(), request)
        })
    }

    fn consume(&mut self, request: Request) -> wasmtime::Result<Result<Body, ()>> {
        self.making_once("the request's body", INCOMING, |state| {
            types::HostIncomingRequest::consume(&mut state.uncounted_http(), request)
        })
    }

    fn drop(&mut self, request: Request) -> wasmtime::Result<()> {
        types::HostIncomingRequest::drop(&mut self.uncounted_http(), request)
    }
}

/// A future response, when it is asked for: nothing yet, an error, or the response's handle.
type Came<T> = wasmtime::Result<Option<Result<Result<T, ErrorCode>, ()>>>;

impl types::HostFutureIncomingResponse for HostState {
    fn get(&mut self, waiting: Resource<HostFutureIncomingResponse>) -> Came<Response> {
        let mut charge = self.budget.charge("the HTTP response", INCOMING)?;
        let came = types::HostFutureIncomingResponse::get(&mut self.uncounted_http(), waiting)?;
        if let Some(Ok(Ok(response))) = &came {
            let response_headers = headers(&self.table.get(response)?.headers);
            charge.add("the response's headers", response_headers)?;
            self.handles.keep(response, charge);
        }
        Ok(came)
    }

    fn subscribe(
        &mut self,
        waiting: Resource<HostFutureIncomingResponse>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the pollable", HANDLE, |state| {
            types::HostFutureIncomingResponse::subscribe(&mut state.uncounted_http(), waiting)
        })
    }

    fn drop(&mut self, waiting: Resource<HostFutureIncomingResponse>) -> wasmtime::Result<()> {
        let handle = waiting.rep();
        types::HostFutureIncomingResponse::drop(&mut self.uncounted_http(), waiting)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl types::HostIncomingResponse for HostState {
    fn status(&mut self, response: Response) -> wasmtime::Result<u16> {
        types::HostIncomingResponse::status(&mut self.uncounted_http(), response)
    }

    fn headers(&mut self, response: Response) -> wasmtime::Result<Resource<FieldMap>> {
        self.sharing_fields(|state| {
            types::HostIncomingResponse::headers(&mut state.uncounted_http(), response)
        })
    }

    fn consume(&mut self, response: Response) -> wasmtime::Result<Result<Body, ()>> {
        self.making_once("the response's body", INCOMING, |state| {
            types::HostIncomingResponse::consume(&mut state.uncounted_http(), response)
        })
    }

    fn drop(&mut self, response: Response) -> wasmtime::Result<()> {
        let handle = response.rep();
        types::HostIncomingResponse::drop(&mut self.uncounted_http(), response)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl types::HostIncomingBody for HostState {
    fn stream(&mut self, body: Body) -> wasmtime::Result<Result<Resource<DynInputStream>, ()>> {
        self.making_once("the body's stream", INCOMING, |state| {
            types::HostIncomingBody::stream(&mut state.uncounted_http(), body)
        })
    }

    fn finish(&mut self, body: Body) -> wasmtime::Result<Resource<HostFutureTrailers>> {
        let handle = body.rep();
        let made = self.making("the trailers", INCOMING, |state| {
            types::HostIncomingBody::finish(&mut state.uncounted_http(), body)
        })?;
        if made.rep() != handle {
            self.handles.release(handle);
        }
        Ok(made)
    }

    fn drop(&mut self, body: Body) -> wasmtime::Result<()> {
        let handle = body.rep();
        types::HostIncomingBody::drop(&mut self.uncounted_http(), body)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl types::HostFutureTrailers for HostState {
    fn subscribe(
        &mut self,
        trailers: Resource<HostFutureTrailers>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.making("the pollable", HANDLE, |state| {
            types::HostFutureTrailers::subscribe(&mut state.uncounted_http(), trailers)
        })
    }

    fn get(&mut self, trailers: Resource<HostFutureTrailers>) -> Came<Option<Resource<Trailers>>> {
        let charge = self.budget.charge("the trailers", HANDLE)?;
        let came = types::HostFutureTrailers::get(&mut self.uncounted_http(), trailers)?;
        if let Some(Ok(Ok(Some(map)))) = &came {
            self.handles.keep(map, charge);
            self.measure_fields(map.rep())?;
        }
        Ok(came)
    }

    fn drop(&mut self, trailers: Resource<HostFutureTrailers>) -> wasmtime::Result<()> {
        let handle = trailers.rep();
        types::HostFutureTrailers::drop(&mut self.uncounted_http(), trailers)?;
        self.handles.release(handle);
        Ok(())
    }
}
