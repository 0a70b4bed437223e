//! Raw sockets are refused, with a line in the log.

use taskforge_domain::FailureKind;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::p2::{
    Network, TcpSocket, UdpSocket,
    bindings::sockets::{
        ip_name_lookup::ResolveAddressStream,
        network::{ErrorCode, IpAddressFamily},
    },
};

use super::HostState;

/// The version under which `wasmtime-wasi` links its interfaces. It serves imports of any 0.2.
const WASI: &str = "0.2.12";

type Refused<T> = wasmtime::Result<(Result<Resource<T>, ErrorCode>,)>;

fn refuse<T>(mut store: StoreContextMut<'_, HostState>, what: &str) -> Refused<T> {
    let state = store.data_mut().counted();
    let text = format!(
        "{what} was refused: plugins have no sockets; use wasi:http and the grant `http.hosts`"
    );
    state.log.lock().refuse(FailureKind::CapabilityDenied, text);
    Ok((Err(ErrorCode::AccessDenied),))
}

/// Refuses raw sockets, which are never granted. The context does too; this logs it.
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
    linker.instance(&format!("wasi:sockets/ip-name-lookup@{WASI}"))?.func_wrap(
        "resolve-addresses",
        |store, (_, name): (Resource<Network>, String)| {
            let what = format!("looking up {:?}", crate::log::cut(&name, 200));
            refuse::<ResolveAddressStream>(store, &what)
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
