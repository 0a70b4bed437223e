//! A plugin: its description, and access to its code.

use std::{collections::BTreeMap, sync::Arc};

use taskforge_domain::PluginInfo;

use crate::{
    code::Code,
    host::Values,
    refusal::LoadError,
    residents::{Entry, Table},
    runtime::Shared,
};

/// A plugin that can be run.
pub struct Plugin {
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    entry: Arc<Entry>,
}

impl Plugin {
    pub(crate) fn new(info: PluginInfo, entry: Arc<Entry>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::new(Values::new(&info.config, BTreeMap::new())),
            info: Arc::new(info),
            entry,
        })
    }

    /// See [`crate::Runtime::register`].
    pub(crate) fn registered(
        table: &Table,
        info: PluginInfo,
        secrets: BTreeMap<String, String>,
    ) -> Arc<Self> {
        let entry = table.entry((info.digest, info.shape));
        Arc::new(Self {
            config: Arc::new(Values::new(&info.config, secrets)),
            info: Arc::new(info),
            entry,
        })
    }

    /// Its description.
    #[must_use]
    pub fn info(&self) -> &PluginInfo {
        &self.info
    }

    pub(crate) const fn shared_info(&self) -> &Arc<PluginInfo> {
        &self.info
    }

    /// What it reads through `wasi:config`; shared by its attempts.
    pub(crate) const fn config(&self) -> &Arc<Values> {
        &self.config
    }

    /// The linked code; loads it if it is not in memory. It stays while the `Arc` lives.
    pub(crate) async fn code(&self, shared: &Arc<Shared>) -> Result<Arc<Code>, LoadError> {
        self.entry.code(shared, None).await
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("info", &self.info).finish_non_exhaustive()
    }
}
