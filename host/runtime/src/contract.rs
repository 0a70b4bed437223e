//! The bindings that `wit/` generates. Private to this crate: the other rooms speak `taskforge-domain`.

// Generated code is documented in the WIT.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "taskforge:plugin/plugin",
        imports: {
            "taskforge:plugin/mail.send": async,
            "wasi:keyvalue": async | trappable,
        },
        with: {
            "wasi:keyvalue/store.bucket": crate::host::Bucket,
        },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        require_store_data_send: true,
    });
}

pub(crate) use generated::PluginPre as BindingsPre;
pub(crate) use generated::exports::taskforge::plugin::handler;
pub(crate) use generated::taskforge::plugin::{mail, progress};
pub(crate) use generated::wasi::{config::store as config, keyvalue, logging::logging};

/// The interface that makes a component a plugin.
pub(crate) const HANDLER: &str = "taskforge:plugin/handler@0.1.0";
