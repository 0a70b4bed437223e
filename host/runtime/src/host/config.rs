//! Configuration and secrets: `wasi:config`.

use std::collections::BTreeMap;

use wasmtime::component::{HasSelf, Linker};

use super::HostState;
use crate::contract::config::{self, Error};

/// What a name and its value cost besides their text, in bytes.
const ENTRY: usize = 64;

/// Names under which older toolchains import the interface, with the same functions. A version that
/// is not final matches only itself, so each has to be linked.
pub(super) const DRAFTS: [&str; 3] = [
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
];

/// A plugin's configuration and the secrets that it was granted, which come first. Without `Debug`,
/// so that nothing prints them by mistake.
#[derive(Default)]
pub(crate) struct Values(BTreeMap<String, String>);

impl Values {
    pub(crate) fn new(
        config: &BTreeMap<String, String>,
        secrets: BTreeMap<String, String>,
    ) -> Self {
        let mut values = config.clone();
        values.extend(secrets);
        Self(values)
    }
}

// All values are loaded from the start.
impl config::Host for HostState {
    fn get(&mut self, key: String) -> Result<Option<String>, Error> {
        // No larger than one that the operator has set.
        Ok(self.attempt.config.0.get(&key).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, Error> {
        let size = |(name, value): (&String, &String)| name.len() + value.len() + ENTRY;
        let size = self.attempt.config.0.iter().map(size).sum();
        let paid = self.carry("the configuration", size);
        paid.map_err(|over| Error::Io(over.to_string()))?;
        let values = self.attempt.config.0.iter();
        Ok(values.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    config::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    for name in DRAFTS {
        let mut draft = linker.instance(name)?;
        draft.func_wrap("get", |mut store, (key,): (String,)| {
            Ok((config::Host::get(store.data_mut().counted(), key),))
        })?;
        draft.func_wrap("get-all", |mut store, (): ()| {
            Ok((config::Host::get_all(store.data_mut().counted()),))
        })?;
    }
    Ok(())
}
