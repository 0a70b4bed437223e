//! Calls a component that exports the handler interface.

use std::time::Duration;

use taskforge_domain::{Failure, FailureKind};
use wasmtime::Store;

use crate::{
    contract::{BindingsPre, handler},
    ending::message,
    host::HostState,
};

/// Instantiates the component and hands it the task.
pub(super) async fn call(
    code: &BindingsPre<HostState>,
    store: &mut Store<HostState>,
    task: handler::Task<'_>,
) -> wasmtime::Result<Result<String, Failure>> {
    let instance = code.instantiate_async(&mut *store).await?;
    let handled = instance.taskforge_plugin_handler().call_handle(store, task).await?;
    Ok(handled.map_err(|reported| failure(&reported)))
}

fn failure(reported: &handler::Failure) -> Failure {
    let (kind, retry_after) = match reported.retry {
        handler::Retry::Never => (FailureKind::Permanent, None),
        handler::Retry::Backoff => (FailureKind::Retryable, None),
        handler::Retry::After(millis) => {
            (FailureKind::Retryable, Some(Duration::from_millis(millis)))
        }
    };
    Failure { kind, message: message(&reported.message), retry_after }
}
