//! Which versions run: activate, roll back, canary, pause, retire.

mod change;

use taskforge_domain::{
    Canary, CanaryGuard, PluginEventKind, PluginVersion, RegisteredPlugin, Rollout, TaskType,
    VersionState,
};

pub(crate) use self::change::{Change, Seen, change};
use crate::{
    error::{RegistryError, RegistryResult},
    registry::{Registry, event},
};

/// What an operator insists on when a version goes live. `true` alone is [`Force::breaking`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Force {
    /// Although it refuses inputs that the running version takes, or lacks a grant that this one
    /// has.
    pub breaking: bool,
    /// Although it is older than one that was live.
    pub downgrade: bool,
}

impl From<bool> for Force {
    fn from(breaking: bool) -> Self {
        Self { breaking, downgrade: false }
    }
}

impl Registry {
    /// Lets a version run all tasks. Ends a canary, also by promoting it. A retired plugin takes
    /// tasks again.
    ///
    /// # Errors
    /// When there is no such version, it is retired, or, unless `force`d, it refuses inputs that
    /// the running one takes or lacks a grant that this one has.
    pub async fn activate(
        &self,
        name: &TaskType,
        version: &str,
        force: impl Into<Force>,
        by: &str,
    ) -> RegistryResult<RegisteredPlugin> {
        let force = force.into();
        self.change(name, |seen| {
            let new = self.may_go_live(seen, version, force)?;
            let before = &seen.plugin.rollout;
            let rollout = Rollout {
                stable: Some(new.id),
                previous: match before.stable {
                    Some(stable) if stable != new.id => Some(stable),
                    _ => before.previous,
                },
                canary: None,
                retired: false,
                highest: seen.highest_with(new),
                ..before.clone()
            };
            if rollout == *before {
                return Ok(None);
            }
            let detail = match before.stable.filter(|stable| *stable != new.id) {
                Some(stable) => format!("instead of {}", seen.number(stable)),
                None => String::new(),
            };
            let detail = with_downgrade(detail, self.downgraded_from(seen, new));
            Ok(Some(Change {
                rollout,
                states: vec![(new.id, VersionState::Available)],
                event: event(
                    self.parts.store.clock(),
                    PluginEventKind::Activated,
                    Some(version),
                    by,
                    detail,
                ),
            }))
        })
        .await
    }

    /// Whether a version may run: it is not retired, what its signature says holds, it is not older
    /// than one that was live, takes what the running one takes, and is granted what it imports and
    /// the running one has, as far as that is not forced.
    fn may_go_live<'s>(
        &self,
        seen: &'s Seen,
        version: &str,
        force: Force,
    ) -> RegistryResult<&'s PluginVersion> {
        let new = seen.available(version)?;
        self.vouched(&seen.plugin, new)?;
        if !force.downgrade
            && let Some(highest) = self.downgraded_from(seen, new)
        {
            return Err(RegistryError::Downgrade {
                plugin: seen.plugin.name.clone(),
                version: version.to_owned(),
                highest: highest.to_owned(),
            });
        }
        if !force.breaking {
            seen.check_inputs(new)?;
            seen.check_grants(new)?;
        }
        Ok(new)
    }

    /// The highest version that was ever live, if a version is older and that takes an operator's
    /// word. Where nobody has to sign, who activates a version answers for it, and has given the
    /// word.
    fn downgraded_from<'s>(&self, seen: &'s Seen, new: &PluginVersion) -> Option<&'s str> {
        let is_asked = self.parts.signatures.required;
        seen.higher(new).filter(|_| is_asked)
    }

    /// Lets the version before run again; ends a canary. Once more undoes it. To ask for it is the
    /// operator's word for a version that is older.
    ///
    /// # Errors
    /// When there is none, it is retired, or what its signature says does not hold.
    pub async fn rollback(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        self.change(name, |seen| {
            let before = &seen.plugin.rollout;
            let previous = before.previous.ok_or_else(|| {
                RegistryError::State(format!(
                    "no version of {name} ran before: there is nothing to go back to"
                ))
            })?;
            let number = seen.number(previous);
            let found = seen.available(&number)?;
            self.vouched(&seen.plugin, found)?;
            let from = before.stable.map(|stable| seen.number(stable));
            Ok(Some(Change {
                rollout: Rollout {
                    stable: Some(previous),
                    previous: before.stable,
                    canary: None,
                    highest: seen.highest_with(found),
                    ..before.clone()
                },
                states: Vec::new(),
                event: event(
                    self.parts.store.clock(),
                    PluginEventKind::RolledBack,
                    Some(&number),
                    by,
                    with_downgrade(
                        from.map_or_else(String::new, |from| format!("from {from}")),
                        self.downgraded_from(seen, found),
                    ),
                ),
            }))
        })
        .await
    }

    /// Puts a version on trial beside the stable one, or changes a running trial.
    ///
    /// # Errors
    /// As [`Registry::activate`], and when nothing runs yet, the version is the one that runs, or a
    /// number is out of range.
    pub async fn canary(
        &self,
        name: &TaskType,
        version: &str,
        percent: u8,
        guard: CanaryGuard,
        force: impl Into<Force>,
        by: &str,
    ) -> RegistryResult<RegisteredPlugin> {
        check_trial(percent, &guard)?;
        let force = force.into();
        self.change(name, |seen| {
            let new = seen.available(version)?;
            let before = &seen.plugin.rollout;
            if before.stable.is_none() {
                return Err(RegistryError::State(format!(
                    "no version of {name} runs yet: activate {version} instead"
                )));
            }
            if before.stable == Some(new.id) {
                return Err(RegistryError::State(format!(
                    "{name} {version} runs already: there is nothing to try"
                )));
            }
            self.may_go_live(seen, version, force)?;
            let canary = Canary { version: new.id, percent, guard };
            if before.canary == Some(canary) {
                return Ok(None);
            }
            Ok(Some(Change {
                rollout: Rollout { canary: Some(canary), ..before.clone() },
                states: vec![(new.id, VersionState::Available)],
                event: event(
                    self.parts.store.clock(),
                    PluginEventKind::CanaryStarted,
                    Some(version),
                    by,
                    with_downgrade(
                        format!("{percent} % of tasks"),
                        self.downgraded_from(seen, new),
                    ),
                ),
            }))
        })
        .await
    }

    /// Takes the version on trial back. It stays available.
    ///
    /// # Errors
    /// When none is on trial.
    pub async fn stop_canary(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        self.change(name, |seen| {
            let before = &seen.plugin.rollout;
            let Some(canary) = before.canary else {
                return Err(RegistryError::State(format!("no version of {name} is on trial")));
            };
            let number = seen.number(canary.version);
            Ok(Some(Change {
                rollout: Rollout { canary: None, ..before.clone() },
                states: Vec::new(),
                event: event(
                    self.parts.store.clock(),
                    PluginEventKind::CanaryStopped,
                    Some(&number),
                    by,
                    "by hand".to_owned(),
                ),
            }))
        })
        .await
    }

    /// Lets tasks wait. They are accepted, and attempts that run go on.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn pause(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        self.mark(name, PluginEventKind::Paused, by, |rollout| {
            rollout.paused = true;
        })
        .await
    }

    /// Lets tasks run again.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn resume(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        self.mark(name, PluginEventKind::Resumed, by, |rollout| {
            rollout.paused = false;
        })
        .await
    }

    /// Accepts no more tasks; what was accepted still runs. Activating a version undoes it.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn retire(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        self.mark(name, PluginEventKind::Retired, by, |rollout| {
            rollout.retired = true;
        })
        .await
    }

    /// Changes something of a rollout that needs no version.
    async fn mark(
        &self,
        name: &TaskType,
        kind: PluginEventKind,
        by: &str,
        mark: impl Fn(&mut Rollout) + Send + Sync,
    ) -> RegistryResult<RegisteredPlugin> {
        self.change(name, |seen| {
            let mut rollout = seen.plugin.rollout.clone();
            mark(&mut rollout);
            let has_changed = rollout != seen.plugin.rollout;
            Ok(has_changed.then(|| Change {
                rollout,
                states: Vec::new(),
                event: event(self.parts.store.clock(), kind, None, by, String::new()),
            }))
        })
        .await
    }

    /// Changes a rollout as `decide` says of what was read; `None`: it is as it should be.
    async fn change(
        &self,
        name: &TaskType,
        decide: impl Fn(&Seen) -> RegistryResult<Option<Change>> + Send + Sync,
    ) -> RegistryResult<RegisteredPlugin> {
        let (plugin, has_changed) = change(&*self.parts.store, name, decide).await?;
        if has_changed {
            self.tell().await;
        }
        Ok(plugin)
    }
}

/// What the record says of a version that is older than one that was live.
fn with_downgrade(detail: String, higher: Option<&str>) -> String {
    let Some(higher) = higher else { return detail };
    let word = format!("older than {higher}, which was live: by the operator's word");
    match detail.as_str() {
        "" => word,
        detail => format!("{detail}; {word}"),
    }
}

fn check_trial(percent: u8, guard: &CanaryGuard) -> RegistryResult<()> {
    let CanaryGuard { min_attempts, failure_margin, latency_factor } = *guard;
    for (field, is_right, reason) in [
        ("percent", (1..=99).contains(&percent), "must be from 1 to 99"),
        ("guard.min_attempts", min_attempts >= 1, "must be at least 1"),
        ("guard.failure_margin", (0.0..=1.0).contains(&failure_margin), "must be from 0 to 1"),
        (
            "guard.latency_factor",
            latency_factor.is_finite() && latency_factor >= 1.0,
            "must be at least 1",
        ),
    ] {
        if !is_right {
            return Err(RegistryError::invalid(field, reason));
        }
    }
    Ok(())
}
