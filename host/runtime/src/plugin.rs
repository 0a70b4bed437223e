//! A plugin: what is known of it, and the place of its code.

use std::{collections::BTreeMap, sync::Arc};

use taskforge_domain::PluginInfo;

use crate::{
    code::Code,
    host::Values,
    refusal::LoadError,
    residents::{Place, Table},
    runtime::Shared,
};

/// A plugin that can be run.
pub struct Plugin {
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    place: Arc<Place>,
}

impl Plugin {
    pub(crate) fn new(info: PluginInfo, place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::new(Values::new(&info.config, BTreeMap::new())),
            info: Arc::new(info),
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
            config: Arc::new(Values::new(&info.config, secrets)),
            info: Arc::new(info),
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

    /// What it reads through `wasi:config`. Made once, and shared by its attempts.
    pub(crate) const fn config(&self) -> &Arc<Values> {
        &self.config
    }

    /// The linked code; loads it if it is not there. It stays as long as it is held.
    pub(crate) async fn code(&self, shared: &Arc<Shared>) -> Result<Arc<Code>, LoadError> {
        self.place.code(shared, None).await
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("info", &self.info).finish_non_exhaustive()
    }
}
