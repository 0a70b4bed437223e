//! The trait for what the store keeps of plugins.

mod collect;
pub(crate) mod column;
mod holding;
mod metric;

use async_trait::async_trait;
use taskforge_domain::{
    Digest, PluginEvent, PluginSettings, PluginVersion, RegisteredPlugin, Revision, Rollout,
    TaskType, TenantId, Timestamp, VersionId, VersionState, VersionUsage,
};

pub use self::collect::{CollectRule, CollectedVersion, Quota, QuotaKind, SETTLED_AFTER};
pub(crate) use self::{
    collect::describe,
    holding::{Holding, first_after, is_seen, sum},
    metric::{Metric, UsageRow, usage_rows},
};
use crate::{StoreClock, StoreResult, Term};

/// What runs now: every plugin, and the versions that their rollouts name as stable or canary.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegistrySnapshot {
    /// The registry's revision that this shows.
    pub revision: Revision,
    /// Every plugin, by name, also those without a running version.
    pub plugins: Vec<RegisteredPlugin>,
    /// The versions that run, in no particular order.
    pub versions: Vec<PluginVersion>,
}

/// What became of a version that was to be added.
#[derive(Debug, Clone, PartialEq)]
pub enum Added {
    /// It is stored, available, and runs nowhere yet.
    Stored,
    /// This very version (same number, same digest) was there already; nothing changed. Its
    /// settings may differ from those that came.
    AlreadyThere(Box<PluginVersion>),
    /// The same number is there with other bytes (or another shape, schema or signature): a version
    /// never changes. Nothing changed. Schemas are compared as text.
    Different(Box<PluginVersion>),
    /// The name belongs to somebody else: to this tenant, or to all (`None`). Nothing changed.
    NameTaken(Option<TenantId>),
    /// The number was that of a version that was collected. It never comes to mean other bytes, and
    /// a version that was retired does not come back. Nothing changed.
    Collected {
        /// What the version was made of.
        digest: Digest,
        /// Whether it was retired.
        retired: bool,
    },
    /// It would be more than the quota allows. Nothing changed.
    OverQuota {
        /// Which quota.
        kind: QuotaKind,
        /// How much is in use, without the version that came.
        used: u64,
    },
}

/// A change of a rollout, guarded by the revision of the plugin that it was made from. Any change
/// of the plugin raises that: of its rollout, its versions, their settings and states, its secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutChange {
    /// Which plugin.
    pub plugin: TaskType,
    /// [`RegisteredPlugin::revision`] as the caller read it. Another one now: nothing changes.
    pub expected: Revision,
    /// What it shall be. The caller raises [`Rollout::phase`] when other versions run than before.
    pub rollout: Rollout,
    /// States of versions that change with it. A version that was retired stays so, and does not
    /// run: a change that says otherwise is [`StoreError::Refused`](crate::StoreError::Refused),
    /// like one that lets a version of another plugin run.
    pub states: Vec<(VersionId, VersionState)>,
    /// For the record.
    pub event: PluginEvent,
}

/// A sealed secret. The store never sees what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The name that a guest reads it by.
    pub name: String,
    /// Ciphertext, with whatever is needed to open it but the key.
    pub sealed: Vec<u8>,
    /// When it was set.
    pub updated_at: Timestamp,
}

/// Whose values: a plugin keeps those of each tenant apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeySpace {
    /// The tenant whose task runs.
    pub tenant: TenantId,
    /// The plugin.
    pub plugin: TaskType,
    /// The bucket, as the guest named it.
    pub bucket: String,
}

/// How much a plugin may keep for one tenant, over all buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyQuota {
    /// Bytes of keys and values together.
    pub bytes: u64,
    /// Number of keys.
    pub keys: u64,
}

/// An amount of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailCount {
    /// Messages, one for each recipient.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The most bytes of a bucket's name.
pub const BUCKET_BYTES: usize = 255;

/// The most bytes of a key.
pub const KEY_BYTES: usize = 1024;

/// What became of a write to a key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept<T> {
    /// It is written.
    Written(T),
    /// It would have been more than the quota; nothing changed.
    OverQuota,
    /// The value that is there is not a number, or the sum would be none of 64 bits (of an
    /// increment), or it is not the one that was seen (of a swap); nothing changed.
    Mismatch,
}

/// The database, as far as it concerns plugins: the registry, their secrets, what their attempts
/// used, and what they keep.
///
/// Every change of the registry is one transaction that also raises its revision, makes that the
/// plugin's, and records its event. Whoever has seen a revision sees every change up to it.
#[async_trait]
pub trait PluginStore: StoreClock + Send + Sync + 'static {
    /// The registry's revision. Cheap: processes ask every second.
    async fn registry_revision(&self) -> StoreResult<Revision>;

    /// What runs now. One consistent state.
    async fn registry(&self) -> StoreResult<RegistrySnapshot>;

    /// Adds a version, its component, and the plugin if the name is new. `owner`: the tenant that
    /// it is for, or all. That `component` has the version's digest is for the caller to know: of a
    /// digest that is there, the bytes are not written again. The quota is counted in the same
    /// transaction.
    async fn add_version(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        quota: Quota,
        event: &PluginEvent,
    ) -> StoreResult<Added>;

    /// Reads a plugin.
    async fn plugin(&self, name: &TaskType) -> StoreResult<Option<RegisteredPlugin>>;

    /// Reads the versions of a plugin, newest first.
    async fn plugin_versions(&self, name: &TaskType) -> StoreResult<Vec<PluginVersion>>;

    /// Reads versions by id, in no particular order; unknown ones are left out.
    async fn versions_by_id(&self, ids: &[VersionId]) -> StoreResult<Vec<PluginVersion>>;

    /// Reads a component.
    async fn component(&self, digest: &Digest) -> StoreResult<Option<Vec<u8>>>;

    /// Changes which versions run. Returns the new revision, or `None` if the plugin is gone or has
    /// changed since it was read.
    async fn change_rollout(&self, change: &RolloutChange) -> StoreResult<Option<Revision>>;

    /// Sets the settings of a version. `false`: there is no such version, or its signature is not
    /// `signature`, against which the caller checked them.
    async fn set_settings(
        &self,
        version: VersionId,
        settings: &PluginSettings,
        signature: Option<&[u8]>,
        event: &PluginEvent,
    ) -> StoreResult<bool>;

    /// Gives a version another signature. `false`: there is no such version, or its plugin has
    /// another revision than `expected`, which is that of the settings that the caller checked.
    async fn set_signature(
        &self,
        version: VersionId,
        expected: Revision,
        signature: &[u8],
        event: &PluginEvent,
    ) -> StoreResult<bool>;

    /// The versions that `rule` lets go, of one plugin or of all, at most `limit`.
    async fn collectable(
        &self,
        plugin: Option<&TaskType>,
        rule: CollectRule,
        limit: u32,
    ) -> StoreResult<Vec<CollectedVersion>>;

    /// Deletes versions of a plugin that `rule` lets go, at most `limit`, with what their attempts
    /// used. What attempts are recorded with stays: the record names the version and its digest
    /// itself. The numbers stay taken. Under a term it is refused to whoever no longer leads.
    ///
    /// The rule is looked at in the transaction that deletes, which no change of a rollout can
    /// overtake: the change, made from an older revision, is refused.
    async fn collect(
        &self,
        term: Option<Term>,
        plugin: &TaskType,
        rule: CollectRule,
        limit: u32,
        event: &PluginEvent,
    ) -> StoreResult<Vec<CollectedVersion>>;

    /// Deletes components of which no version is made, at most `limit`. Returns how many it
    /// deleted.
    async fn collect_components(&self, term: Option<Term>, limit: u32) -> StoreResult<u64>;

    /// Sets the state of a version that does not run. `false`: there is no such version, it runs,
    /// or it was retired, which is for good.
    async fn set_version_state(
        &self,
        version: VersionId,
        state: &VersionState,
        event: &PluginEvent,
    ) -> StoreResult<bool>;

    /// Sets a secret of a plugin, which need not be there yet. Raises the revision, so that workers
    /// read it.
    async fn set_secret(
        &self,
        plugin: &TaskType,
        secret: &SealedSecret,
        event: &PluginEvent,
    ) -> StoreResult<()>;

    /// Deletes a secret. `false`: there was none.
    async fn delete_secret(
        &self,
        plugin: &TaskType,
        name: &str,
        event: &PluginEvent,
    ) -> StoreResult<bool>;

    /// The secrets of a plugin, by name.
    async fn secrets(&self, plugin: &TaskType) -> StoreResult<Vec<SealedSecret>>;

    /// What happened to a plugin, newest first, at most `limit`.
    async fn plugin_events(&self, plugin: &TaskType, limit: u32) -> StoreResult<Vec<PluginEvent>>;

    /// Adds what attempts of versions used, by version and phase.
    async fn add_usage(&self, used: &[(VersionId, i64, VersionUsage)]) -> StoreResult<()>;

    /// What the attempts of a version used: in one phase, or in all.
    async fn usage(&self, version: VersionId, phase: Option<i64>) -> StoreResult<VersionUsage>;

    /// Reads a value.
    async fn get_value(&self, space: &KeySpace, key: &str) -> StoreResult<Option<Vec<u8>>>;

    /// Writes values, all or none; of a key that is named twice, the last. The quota counts what
    /// the tenant keeps with this plugin in all buckets. Where more is kept than a quota that was
    /// lowered since, values may be replaced by ones that are no longer.
    ///
    /// # Errors
    /// [`StoreError::Refused`](crate::StoreError::Refused) when the bucket's name is longer than
    /// [`BUCKET_BYTES`] or a key longer than [`KEY_BYTES`].
    async fn set_values(
        &self,
        space: &KeySpace,
        values: &[(String, Vec<u8>)],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>>;

    /// Deletes values; those that are not there are no error.
    async fn delete_values(&self, space: &KeySpace, keys: &[String]) -> StoreResult<()>;

    /// The keys of a bucket in byte order, those after `after`, at most `limit`.
    async fn list_keys(
        &self,
        space: &KeySpace,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<String>>;

    /// Adds to a number, which is kept as decimal text and is 0 while there is none. Returns the
    /// sum.
    ///
    /// # Errors
    /// As [`PluginStore::set_values`].
    async fn increment_value(
        &self,
        space: &KeySpace,
        key: &str,
        delta: i64,
        quota: KeyQuota,
    ) -> StoreResult<Kept<i64>>;

    /// Writes a value if the SHA-256 of the one that is there is `seen`; `None`: if there is none.
    ///
    /// # Errors
    /// As [`PluginStore::set_values`].
    async fn swap_value(
        &self,
        space: &KeySpace,
        key: &str,
        seen: Option<[u8; 32]>,
        value: &[u8],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>>;

    /// Counts what a version is about to send, if with what all hosts have counted for it in this
    /// hour of the database's clock it stays within `limit`. `false`: it does not, and nothing was
    /// counted.
    async fn count_mail(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailCount,
        limit: MailCount,
    ) -> StoreResult<bool>;
}
