//! A plugin: what is known of it, and the place of its code.

use std::{collections::BTreeMap, sync::Arc};

use taskforge_domain::{PluginInfo, Shape};
use wasmtime::component::Component;

use crate::{
    contract::BindingsPre,
    host::HostState,
    refusal::LoadError,
    residents::{Place, Table},
    runtime::Shared,
};

/// Linked code, ready to make instances of.
pub(crate) type Code = BindingsPre<HostState>;

/// Fits a component into this host.
pub(crate) fn link(shared: &Shared, component: &Component, shape: Shape) -> Result<Code, LoadError> {
    let incompatible = |error: wasmtime::Error| LoadError::incompatible(&error);
    let linked = shared.linker.instantiate_pre(component).map_err(incompatible)?;
    match shape {
        Shape::Handler => BindingsPre::new(linked).map_err(incompatible),
        Shape::Command | Shape::Http => Err(LoadError::Incompatible(format!(
            "it does not run components of the shape {shape}"
        ))),
    }
}

/// A plugin that can be run.
pub struct Plugin {
    info: Arc<PluginInfo>,
    #[expect(dead_code, reason = "read once wasi:config is linked, in the next step")]
    secrets: BTreeMap<String, String>,
    place: Arc<Place>,
}

impl Plugin {
    pub(crate) fn new(info: PluginInfo, place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self {
            info: Arc::new(info),
            secrets: BTreeMap::new(),
            place,
        })
    }

    /// See [`crate::Runtime::register`].
    pub(crate) fn registered(
        table: &Table,
        info: PluginInfo,
        secrets: BTreeMap<String, String>,
    ) -> Arc<Self> {
        let place = table.place((info.digest, info.shape));
        Arc::new(Self {
            info: Arc::new(info),
            secrets,
            place,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &PluginInfo {
        &self.info
    }

    pub(crate) const fn shared_info(&self) -> &Arc<PluginInfo> {
        &self.info
    }

    /// The linked code; loads it if it is not there. It stays as long as it is held.
    pub(crate) async fn code(&self, shared: &Arc<Shared>) -> Result<Arc<Code>, LoadError> {
        self.place.code(shared, None).await
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
