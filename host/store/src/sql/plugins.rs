//! What the store keeps of plugins.

use async_trait::async_trait;
use taskforge_domain::{
    Digest, PluginEvent, PluginSettings, PluginVersion, RegisteredPlugin, Revision, TaskType,
    TenantId, VersionId, VersionState, VersionUsage,
};

use super::{
    bulk, collect,
    driver::{Driver, read, run, run_once},
    mail, registry, secrets, usage, values, versions,
};
use crate::{
    Added, CollectRule, CollectedVersion, Kept, KeyQuota, KeySpace, MailCount, PluginStore, Quota,
    RegistrySnapshot, RolloutChange, SealedSecret, StoreResult, Term, plugins::usage_rows,
};

#[async_trait]
impl PluginStore for Driver {
    async fn registry_revision(&self) -> StoreResult<Revision> {
        read!(self, |connection| registry::revision(connection))
    }

    async fn registry(&self) -> StoreResult<RegistrySnapshot> {
        read!(self, |connection| registry::snapshot(connection))
    }

    async fn add_version(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        quota: Quota,
        event: &PluginEvent,
    ) -> StoreResult<Added> {
        self.push(owner, version, component, quota, event).await
    }

    async fn plugin(&self, name: &TaskType) -> StoreResult<Option<RegisteredPlugin>> {
        read!(self, |connection| registry::plugin(connection, name))
    }

    async fn plugin_versions(&self, name: &TaskType) -> StoreResult<Vec<PluginVersion>> {
        read!(self, |connection| versions::of_plugin(connection, name))
    }

    async fn versions_by_id(&self, ids: &[VersionId]) -> StoreResult<Vec<PluginVersion>> {
        read!(self, |connection| versions::by_id(connection, ids))
    }

    async fn component(&self, digest: &Digest) -> StoreResult<Option<Vec<u8>>> {
        self.read_component(digest).await
    }

    async fn change_rollout(&self, change: &RolloutChange) -> StoreResult<Option<Revision>> {
        run_once!(self, |connection| registry::change(connection, change))
    }

    async fn set_settings(
        &self,
        version: VersionId,
        settings: &PluginSettings,
        signature: Option<&[u8]>,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        run_once!(self, |connection| versions::set_settings(
            connection, version, settings, signature, event
        ))
    }

    async fn set_signature(
        &self,
        version: VersionId,
        expected: Revision,
        signature: &[u8],
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        run_once!(self, |connection| versions::set_signature(
            connection, version, expected, signature, event
        ))
    }

    async fn collectable(
        &self,
        plugin: Option<&TaskType>,
        rule: CollectRule,
        limit: u32,
    ) -> StoreResult<Vec<CollectedVersion>> {
        read!(self, |connection| collect::collectable(connection, plugin, rule, limit))
    }

    async fn collect(
        &self,
        term: Option<Term>,
        plugin: &TaskType,
        rule: CollectRule,
        limit: u32,
        event: &PluginEvent,
    ) -> StoreResult<Vec<CollectedVersion>> {
        run_once!(self, |connection| collect::collect(connection, term, plugin, rule, limit, event))
    }

    async fn collect_components(&self, term: Option<Term>, limit: u32) -> StoreResult<u64> {
        run_once!(self, |connection| collect::components(connection, term, limit))
    }

    async fn set_version_state(
        &self,
        version: VersionId,
        state: &VersionState,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        run_once!(self, |connection| versions::change_state(connection, version, state, event))
    }

    async fn set_secret(
        &self,
        plugin: &TaskType,
        secret: &SealedSecret,
        event: &PluginEvent,
    ) -> StoreResult<()> {
        run_once!(self, |connection| secrets::set(connection, plugin, secret, event))
    }

    async fn delete_secret(
        &self,
        plugin: &TaskType,
        name: &str,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        run_once!(self, |connection| secrets::delete(connection, plugin, name, event))
    }

    async fn secrets(&self, plugin: &TaskType) -> StoreResult<Vec<SealedSecret>> {
        read!(self, |connection| secrets::of_plugin(connection, plugin))
    }

    async fn plugin_events(&self, plugin: &TaskType, limit: u32) -> StoreResult<Vec<PluginEvent>> {
        read!(self, |connection| registry::events(connection, plugin, limit))
    }

    async fn add_usage(&self, used: &[(VersionId, i64, VersionUsage)]) -> StoreResult<()> {
        let rows = usage_rows(used);
        if rows.is_empty() {
            return Ok(());
        }
        run_once!(self, |connection| bulk::add_usage(connection, &rows))
    }

    async fn usage(&self, version: VersionId, phase: Option<i64>) -> StoreResult<VersionUsage> {
        read!(self, |connection| usage::of_version(connection, version, phase))
    }

    async fn get_value(&self, space: &KeySpace, key: &str) -> StoreResult<Option<Vec<u8>>> {
        read!(self, |connection| values::get(connection, space, key))
    }

    async fn set_values(
        &self,
        space: &KeySpace,
        values: &[(String, Vec<u8>)],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>> {
        run!(self, |connection| values::set(connection, space, values, quota))
    }

    async fn delete_values(&self, space: &KeySpace, keys: &[String]) -> StoreResult<()> {
        run!(self, |connection| values::delete(connection, space, keys))
    }

    async fn list_keys(
        &self,
        space: &KeySpace,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<String>> {
        read!(self, |connection| values::list(connection, space, after, limit))
    }

    async fn increment_value(
        &self,
        space: &KeySpace,
        key: &str,
        delta: i64,
        quota: KeyQuota,
    ) -> StoreResult<Kept<i64>> {
        run_once!(self, |connection| values::increment(connection, space, key, delta, quota))
    }

    async fn count_mail(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailCount,
        limit: MailCount,
    ) -> StoreResult<bool> {
        let now = self.clock.now();
        run_once!(self, |connection| mail::add(connection, plugin, version, sent, limit, now))
    }

    async fn swap_value(
        &self,
        space: &KeySpace,
        key: &str,
        seen: Option<[u8; 32]>,
        value: &[u8],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>> {
        run_once!(self, |connection| values::swap(connection, space, key, seen, value, quota))
    }
}
