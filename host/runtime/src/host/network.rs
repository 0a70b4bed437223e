//! Where the standard network interfaces need a word of ours: sockets are refused with a line in the log, and a body
//! that breaks off says why.

use taskforge_domain::FailureKind;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::p2::{
    Network, TcpSocket, UdpSocket,
    bindings::{
        io::error::Error as IoError,
        sockets::{
            ip_name_lookup::ResolveAddressStream,
            network::{ErrorCode, IpAddressFamily},
        },
    },
};
use wasmtime_wasi_http::p2::bindings::http::types as http_types;

use super::HostState;
use crate::egress;

/// The version under which `wasmtime-wasi` and `wasmtime-wasi-http` link their interfaces; a component that imports
/// another 0.2 gets the same.
const WASI: &str = "0.2.12";

type Refused<T> = wasmtime::Result<(Result<Resource<T>, ErrorCode>,)>;

fn refuse<T>(mut store: StoreContextMut<'_, HostState>, what: &str) -> Refused<T> {
    let state = store.data_mut().counted();
    let text =
        format!("{what} was refused: plugins have no sockets; use wasi:http and the grant `http.hosts`");
    state.log.lock().refuse(FailureKind::CapabilityDenied, text);
    Ok((Err(ErrorCode::AccessDenied),))
}

/// Raw sockets are never granted. The context refuses them as well; this says so in the log.
pub(super) fn refuse_sockets(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker
        .instance(&format!("wasi:sockets/tcp-create-socket@{WASI}"))?
        .func_wrap("create-tcp-socket", |store, (_,): (IpAddressFamily,)| {
            refuse::<TcpSocket>(store, "a TCP socket")
        })?;
    linker
        .instance(&format!("wasi:sockets/udp-create-socket@{WASI}"))?
        .func_wrap("create-udp-socket", |store, (_,): (IpAddressFamily,)| {
            refuse::<UdpSocket>(store, "a UDP socket")
        })?;
    linker
        .instance(&format!("wasi:sockets/ip-name-lookup@{WASI}"))?
        .func_wrap(
            "resolve-addresses",
            |store, (_, name): (Resource<Network>, String)| {
                let what = format!("looking up {:?}", crate::log::cut(&name, 200));
                refuse::<ResolveAddressStream>(store, &what)
            },
        )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// `wasmtime-wasi-http` 48 knows an error of a response body only if it is its WIT type, which is not what bodies
/// produce, so guests would see no reason at all.
pub(super) fn explain_body_errors(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(&format!("wasi:http/types@{WASI}"))?.func_wrap(
        "http-error-code",
        |mut store: StoreContextMut<'_, HostState>, (error,): (Resource<IoError>,)| {
            let state = store.data_mut().counted();
            let error = state.table.get(&error)?;
            let known = error.downcast_ref::<http_types::ErrorCode>().cloned();
            Ok((known.or_else(|| error.downcast_ref().map(egress::body_error_code)),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
