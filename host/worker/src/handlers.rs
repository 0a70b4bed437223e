//! Which plugin serves which task type.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use taskforge_domain::TaskType;
use taskforge_runtime::Plugin;

/// The loaded plugins of a worker, by the task type that each handles. An attempt keeps the plugin it began with, so a change here
/// never touches what runs.
#[derive(Default)]
pub struct Handlers {
    loaded: RwLock<Arc<Loaded>>,
}

#[derive(Default)]
struct Loaded {
    plugins: HashMap<TaskType, Arc<Plugin>>,
    types: Arc<[TaskType]>,
}

impl Handlers {
    /// Serves these plugins. Of two with the same name the later one counts.
    #[must_use]
    pub fn new(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        let handlers = Self::default();
        handlers.replace(plugins);
        handlers
    }

    /// Serves these plugins from the next claim on.
    pub fn replace(&self, plugins: impl IntoIterator<Item = Arc<Plugin>>) {
        let plugins: HashMap<_, _> = plugins
            .into_iter()
            .map(|plugin| (plugin.info().name.clone(), plugin))
            .collect();
        let types = plugins.keys().cloned().collect();
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Loaded { plugins, types });
    }

    /// The plugin for a task type.
    #[must_use]
    pub fn get(&self, task_type: &TaskType) -> Option<Arc<Plugin>> {
        self.snapshot().plugins.get(task_type).cloned()
    }

    /// The task types that are served.
    #[must_use]
    pub fn types(&self) -> Arc<[TaskType]> {
        self.snapshot().types.clone()
    }

    fn snapshot(&self) -> Arc<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
