//! The bindings that `wit/` generates. Private to this crate: other crates use the types of
//! `taskforge-domain`.

// Generated code is documented in the WIT.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
mod generated {
    pub(super) mod contract {
        wasmtime::component::bindgen!({
            path: "../../wit",
            world: "taskforge:plugin/plugin",
            imports: {
                "taskforge:plugin/mail.send": async,
                "taskforge:plugin/mail-mime.send": async,
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

    pub(super) mod draft2 {
        wasmtime::component::bindgen!({
            path: "wit",
            world: "wasi:keyvalue/imports",
            imports: { default: async | trappable },
            with: {
                "wasi:keyvalue/store.bucket": crate::host::Bucket,
                "wasi:keyvalue/atomics.cas": crate::host::Cas,
            },
            require_store_data_send: true,
        });
    }
}

pub(crate) use generated::contract::PluginPre as BindingsPre;
pub(crate) use generated::contract::exports::taskforge::plugin::handler;
pub(crate) use generated::contract::taskforge::plugin::{mail, mail_mime, progress};
pub(crate) use generated::contract::wasi::{config::store as config, keyvalue, logging::logging};
pub(crate) use generated::draft2::wasi::keyvalue as keyvalue_draft2;

/// The interface that makes a component a plugin, in any version of [`HANDLER_FAMILY`].
pub(crate) const HANDLER: &str = "taskforge:plugin/handler";

/// The versions of [`HANDLER`] that this host speaks.
pub(crate) const HANDLER_FAMILY: &str = "taskforge:plugin/handler@0.1";
