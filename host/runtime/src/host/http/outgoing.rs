//! What the guest makes: requests, responses, their bodies and options.

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    async_trait,
    p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult},
};
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        HttpResult,
        bindings::http::types::{self, Duration, Method, Scheme, Trailers},
        body::HostOutgoingBody,
        types::{HostOutgoingRequest, HostOutgoingResponse, HostResponseOutparam},
    },
};

use super::super::{
    HostState,
    handles::{BODY, HANDLE},
};
use crate::budget::Budget;

/// The longest method and scheme, in bytes. Registered ones have at most 17.
const TOKEN: usize = 256;

/// The longest authority, in bytes: a host of 255, a port, and a user, which should not be sent.
const AUTHORITY: usize = 1 << 10;

/// The longest path with its query, in bytes, which is also the most that a URI of the HTTP library
/// holds.
const PATH: usize = 64 << 10;

type Request = Resource<HostOutgoingRequest>;

/// The result of setting a part of a request; the inner error refuses its value.
type Set = wasmtime::Result<Result<(), ()>>;

impl HostState {
    /// Sets a part of a request unless it is too long, and charges for the changed request.
    fn set(
        &mut self,
        request: Request,
        (length, longest): (usize, usize),
        set: impl FnOnce(&mut Self, Request) -> Set,
    ) -> Set {
        if length > longest {
            return Ok(Err(()));
        }
        let handle = request.rep();
        let returned = set(self, request)?;
        self.measure_request(handle)?;
        Ok(returned)
    }
}

impl types::HostOutgoingRequest for HostState {
    fn new(&mut self, headers: Resource<FieldMap>) -> wasmtime::Result<Request> {
        let handle = headers.rep();
        let made = self.making("the HTTP request", HANDLE, |state| {
            types::HostOutgoingRequest::new(&mut state.uncounted_http(), headers)
        })?;
        // The request may have the map's old number.
        if made.rep() != handle {
            self.handles.release(handle);
        }
        self.measure_request(made.rep())?;
        Ok(made)
    }

    fn body(
        &mut self,
        request: Request,
    ) -> wasmtime::Result<Result<Resource<HostOutgoingBody>, ()>> {
        let handle = request.rep();
        let made = self.making_once("the HTTP body", HANDLE + BODY, |state| {
            types::HostOutgoingRequest::body(&mut state.uncounted_http(), request)
        })?;
        self.measure_request(handle)?;
        Ok(made)
    }

    fn method(&mut self, request: Request) -> wasmtime::Result<Method> {
        types::HostOutgoingRequest::method(&mut self.uncounted_http(), request)
    }

    fn set_method(&mut self, request: Request, method: Method) -> Set {
        let length = match &method {
            Method::Other(text) => text.len(),
            _ => 0,
        };
        self.set(request, (length, TOKEN), |state, request| {
            types::HostOutgoingRequest::set_method(&mut state.uncounted_http(), request, method)
        })
    }

    fn path_with_query(&mut self, request: Request) -> wasmtime::Result<Option<String>> {
        types::HostOutgoingRequest::path_with_query(&mut self.uncounted_http(), request)
    }

    fn set_path_with_query(&mut self, request: Request, path: Option<String>) -> Set {
        let length = path.as_ref().map_or(0, String::len);
        self.set(request, (length, PATH), |state, request| {
            types::HostOutgoingRequest::set_path_with_query(
                &mut state.uncounted_http(),
                request,
                path,
            )
        })
    }

    fn scheme(&mut self, request: Request) -> wasmtime::Result<Option<Scheme>> {
        types::HostOutgoingRequest::scheme(&mut self.uncounted_http(), request)
    }

    fn set_scheme(&mut self, request: Request, scheme: Option<Scheme>) -> Set {
        let length = match &scheme {
            Some(Scheme::Other(text)) => text.len(),
            _ => 0,
        };
        self.set(request, (length, TOKEN), |state, request| {
            types::HostOutgoingRequest::set_scheme(&mut state.uncounted_http(), request, scheme)
        })
    }

    fn authority(&mut self, request: Request) -> wasmtime::Result<Option<String>> {
        types::HostOutgoingRequest::authority(&mut self.uncounted_http(), request)
    }

    fn set_authority(&mut self, request: Request, authority: Option<String>) -> Set {
        let length = authority.as_ref().map_or(0, String::len);
        self.set(request, (length, AUTHORITY), |state, request| {
            types::HostOutgoingRequest::set_authority(
                &mut state.uncounted_http(),
                request,
                authority,
            )
        })
    }

    fn headers(&mut self, request: Request) -> wasmtime::Result<Resource<FieldMap>> {
        self.sharing_fields(|state| {
            types::HostOutgoingRequest::headers(&mut state.uncounted_http(), request)
        })
    }

    fn drop(&mut self, request: Request) -> wasmtime::Result<()> {
        let handle = request.rep();
        types::HostOutgoingRequest::drop(&mut self.uncounted_http(), request)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl types::HostOutgoingResponse for HostState {
    fn new(
        &mut self,
        headers: Resource<FieldMap>,
    ) -> wasmtime::Result<Resource<HostOutgoingResponse>> {
        let handle = headers.rep();
        // The map's charge becomes the response's: it is the same memory.
        let charge = self.handles.release(handle);
        let mut own = self.budget.charge("the HTTP response", HANDLE)?;
        let made = types::HostOutgoingResponse::new(&mut self.uncounted_http(), headers)?;
        if let Some(charge) = charge {
            own.absorb(charge);
        }
        self.handles.keep(&made, own);
        Ok(made)
    }

    fn body(
        &mut self,
        response: Resource<HostOutgoingResponse>,
    ) -> wasmtime::Result<Result<Resource<HostOutgoingBody>, ()>> {
        self.making_once("the HTTP body", HANDLE + BODY, |state| {
            types::HostOutgoingResponse::body(&mut state.uncounted_http(), response)
        })
    }

    fn status_code(&mut self, response: Resource<HostOutgoingResponse>) -> wasmtime::Result<u16> {
        types::HostOutgoingResponse::status_code(&mut self.uncounted_http(), response)
    }

    fn set_status_code(&mut self, response: Resource<HostOutgoingResponse>, status: u16) -> Set {
        types::HostOutgoingResponse::set_status_code(&mut self.uncounted_http(), response, status)
    }

    fn headers(
        &mut self,
        response: Resource<HostOutgoingResponse>,
    ) -> wasmtime::Result<Resource<FieldMap>> {
        self.sharing_fields(|state| {
            types::HostOutgoingResponse::headers(&mut state.uncounted_http(), response)
        })
    }

    fn drop(&mut self, response: Resource<HostOutgoingResponse>) -> wasmtime::Result<()> {
        let handle = response.rep();
        types::HostOutgoingResponse::drop(&mut self.uncounted_http(), response)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl types::HostResponseOutparam for HostState {
    fn set(
        &mut self,
        answer: Resource<HostResponseOutparam>,
        response: Result<Resource<HostOutgoingResponse>, types::ErrorCode>,
    ) -> wasmtime::Result<()> {
        let handle = response.as_ref().ok().map(Resource::rep);
        types::HostResponseOutparam::set(&mut self.uncounted_http(), answer, response)?;
        // The one answer is kept until the attempt ends.
        if let Some(charge) = handle.and_then(|handle| self.handles.release(handle)) {
            self.kept.absorb(charge);
        }
        Ok(())
    }

    fn send_informational(
        &mut self,
        answer: Resource<HostResponseOutparam>,
        status: u16,
        headers: Resource<FieldMap>,
    ) -> HttpResult<()> {
        types::HostResponseOutparam::send_informational(
            &mut self.uncounted_http(),
            answer,
            status,
            headers,
        )
    }

    fn drop(&mut self, answer: Resource<HostResponseOutparam>) -> wasmtime::Result<()> {
        types::HostResponseOutparam::drop(&mut self.uncounted_http(), answer)
    }
}

impl types::HostOutgoingBody for HostState {
    fn write(
        &mut self,
        body: Resource<HostOutgoingBody>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let budget = self.budget.clone();
        self.making_once("the body's stream", HANDLE, |state| {
            let Some(stream) = state.table.get_mut(&body)?.take_output_stream() else {
                return Ok(Err(()));
            };
            let stream: DynOutputStream = Box::new(Charging { stream, budget });
            Ok(Ok(state.table.push_child(stream, &body)?))
        })
    }

    fn finish(
        &mut self,
        body: Resource<HostOutgoingBody>,
        trailers: Option<Resource<Trailers>>,
    ) -> HttpResult<()> {
        let (handle, map) = (body.rep(), trailers.as_ref().map(Resource::rep));
        // Trailers wait with the body until it is read, for an unknown time.
        if let Some(charge) = map.and_then(|map| self.handles.release(map)) {
            self.kept.absorb(charge);
        }
        let finished = types::HostOutgoingBody::finish(&mut self.uncounted_http(), body, trailers);
        self.handles.release(handle);
        finished
    }

    fn drop(&mut self, body: Resource<HostOutgoingBody>) -> wasmtime::Result<()> {
        let handle = body.rep();
        types::HostOutgoingBody::drop(&mut self.uncounted_http(), body)?;
        self.handles.release(handle);
        Ok(())
    }
}

/// A body's stream whose chunks are charged until the sender has dropped them.
struct Charging {
    stream: DynOutputStream,
    budget: Budget,
}

#[async_trait]
impl Pollable for Charging {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait]
impl OutputStream for Charging {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let bytes = self.budget.bytes("the body's chunk", bytes);
        self.stream.write(bytes.map_err(|over| StreamError::Trap(over.into()))?)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

type Options = Resource<types::RequestOptions>;

impl types::HostRequestOptions for HostState {
    fn new(&mut self) -> wasmtime::Result<Options> {
        self.making("the request's options", HANDLE, |state| {
            types::HostRequestOptions::new(&mut state.uncounted_http())
        })
    }

    fn connect_timeout(&mut self, options: Options) -> wasmtime::Result<Option<Duration>> {
        types::HostRequestOptions::connect_timeout(&mut self.uncounted_http(), options)
    }

    fn set_connect_timeout(&mut self, options: Options, duration: Option<Duration>) -> Set {
        types::HostRequestOptions::set_connect_timeout(
            &mut self.uncounted_http(),
            options,
            duration,
        )
    }

    fn first_byte_timeout(&mut self, options: Options) -> wasmtime::Result<Option<Duration>> {
        types::HostRequestOptions::first_byte_timeout(&mut self.uncounted_http(), options)
    }

    fn set_first_byte_timeout(&mut self, options: Options, duration: Option<Duration>) -> Set {
        types::HostRequestOptions::set_first_byte_timeout(
            &mut self.uncounted_http(),
            options,
            duration,
        )
    }

    fn between_bytes_timeout(&mut self, options: Options) -> wasmtime::Result<Option<Duration>> {
        types::HostRequestOptions::between_bytes_timeout(&mut self.uncounted_http(), options)
    }

    fn set_between_bytes_timeout(&mut self, options: Options, duration: Option<Duration>) -> Set {
        types::HostRequestOptions::set_between_bytes_timeout(
            &mut self.uncounted_http(),
            options,
            duration,
        )
    }

    fn drop(&mut self, options: Options) -> wasmtime::Result<()> {
        let handle = options.rep();
        types::HostRequestOptions::drop(&mut self.uncounted_http(), options)?;
        self.handles.release(handle);
        Ok(())
    }
}
