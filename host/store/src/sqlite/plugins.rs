//! What the store keeps of plugins.

use async_trait::async_trait;
use taskforge_domain::{
    Digest, PluginEvent, PluginSettings, PluginVersion, RegisteredPlugin, Revision, TaskType,
    TenantId, VersionId, VersionState, VersionUsage,
};

use super::{
    SqliteStore, collect, mail, registry, secrets, usage, values, versions,
    writer::{in_transaction, on_writer},
};
use crate::{
    Added, CollectRule, CollectedVersion, Kept, KeyQuota, KeySpace, MailCount, PluginStore, Quota,
    RegistrySnapshot, RolloutChange, SealedSecret, StoreResult, Term,
};

#[async_trait]
impl PluginStore for SqliteStore {
    async fn registry_revision(&self) -> StoreResult<Revision> {
        registry::revision(&self.shared.readers).await
    }

    async fn registry(&self) -> StoreResult<RegistrySnapshot> {
        registry::snapshot(&self.shared.readers).await
    }

    async fn add_version(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        quota: Quota,
        event: &PluginEvent,
    ) -> StoreResult<Added> {
        in_transaction!(self.shared.writer, |transaction| versions::add(
            transaction,
            owner,
            version,
            component,
            quota,
            event
        ))
    }

    async fn plugin(&self, name: &TaskType) -> StoreResult<Option<RegisteredPlugin>> {
        registry::plugin(&self.shared.readers, name).await
    }

    async fn plugin_versions(&self, name: &TaskType) -> StoreResult<Vec<PluginVersion>> {
        versions::of_plugin(&self.shared.readers, name).await
    }

    async fn versions_by_id(&self, ids: &[VersionId]) -> StoreResult<Vec<PluginVersion>> {
        versions::by_id(&self.shared.readers, ids).await
    }

    async fn component(&self, digest: &Digest) -> StoreResult<Option<Vec<u8>>> {
        versions::component(&self.shared.readers, digest).await
    }

    async fn change_rollout(&self, change: &RolloutChange) -> StoreResult<Option<Revision>> {
        in_transaction!(self.shared.writer, |transaction| registry::change(transaction, change))
    }

    async fn set_settings(
        &self,
        version: VersionId,
        settings: &PluginSettings,
        signature: Option<&[u8]>,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        in_transaction!(self.shared.writer, |transaction| versions::set_settings(
            transaction,
            version,
            settings,
            signature,
            event
        ))
    }

    async fn set_signature(
        &self,
        version: VersionId,
        expected: Revision,
        signature: &[u8],
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        in_transaction!(self.shared.writer, |transaction| versions::set_signature(
            transaction,
            version,
            expected,
            signature,
            event
        ))
    }

    async fn collectable(
        &self,
        plugin: Option<&TaskType>,
        rule: CollectRule,
        limit: u32,
    ) -> StoreResult<Vec<CollectedVersion>> {
        collect::collectable(&self.shared.readers, plugin, rule, limit).await
    }

    async fn collect(
        &self,
        term: Option<Term>,
        plugin: &TaskType,
        rule: CollectRule,
        limit: u32,
        event: &PluginEvent,
    ) -> StoreResult<Vec<CollectedVersion>> {
        in_transaction!(self.shared.writer, |transaction| collect::collect(
            transaction,
            term,
            plugin,
            rule,
            limit,
            event
        ))
    }

    async fn collect_components(&self, term: Option<Term>, limit: u32) -> StoreResult<u64> {
        in_transaction!(self.shared.writer, |transaction| collect::components(
            transaction,
            term,
            limit
        ))
    }

    async fn set_version_state(
        &self,
        version: VersionId,
        state: &VersionState,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        in_transaction!(self.shared.writer, |transaction| versions::change_state(
            transaction,
            version,
            state,
            event
        ))
    }

    async fn set_secret(
        &self,
        plugin: &TaskType,
        secret: &SealedSecret,
        event: &PluginEvent,
    ) -> StoreResult<()> {
        in_transaction!(self.shared.writer, |transaction| secrets::set(
            transaction,
            plugin,
            secret,
            event
        ))
    }

    async fn delete_secret(
        &self,
        plugin: &TaskType,
        name: &str,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        in_transaction!(self.shared.writer, |transaction| secrets::delete(
            transaction,
            plugin,
            name,
            event
        ))
    }

    async fn secrets(&self, plugin: &TaskType) -> StoreResult<Vec<SealedSecret>> {
        secrets::of_plugin(&self.shared.readers, plugin).await
    }

    async fn plugin_events(&self, plugin: &TaskType, limit: u32) -> StoreResult<Vec<PluginEvent>> {
        registry::events(&self.shared.readers, plugin, limit).await
    }

    async fn add_usage(&self, used: &[(VersionId, i64, VersionUsage)]) -> StoreResult<()> {
        in_transaction!(self.shared.writer, |transaction| usage::add(transaction, used))
    }

    async fn usage(&self, version: VersionId, phase: Option<i64>) -> StoreResult<VersionUsage> {
        usage::of_version(&self.shared.readers, version, phase).await
    }

    async fn get_value(&self, space: &KeySpace, key: &str) -> StoreResult<Option<Vec<u8>>> {
        values::get(&self.shared.readers, space, key).await
    }

    async fn set_values(
        &self,
        space: &KeySpace,
        values: &[(String, Vec<u8>)],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>> {
        in_transaction!(self.shared.writer, |transaction| values::set(
            transaction,
            space,
            values,
            quota
        ))
    }

    async fn delete_values(&self, space: &KeySpace, keys: &[String]) -> StoreResult<()> {
        in_transaction!(self.shared.writer, |transaction| values::delete(transaction, space, keys))
    }

    async fn list_keys(
        &self,
        space: &KeySpace,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<String>> {
        values::list(&self.shared.readers, space, after, limit).await
    }

    async fn increment_value(
        &self,
        space: &KeySpace,
        key: &str,
        delta: i64,
        quota: KeyQuota,
    ) -> StoreResult<Kept<i64>> {
        in_transaction!(self.shared.writer, |transaction| values::increment(
            transaction,
            space,
            key,
            delta,
            quota
        ))
    }

    async fn count_mail(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailCount,
        limit: MailCount,
    ) -> StoreResult<bool> {
        let now = self.clock.now();
        on_writer!(self.shared.writer, |writer| mail::add(
            writer, plugin, version, sent, limit, now
        ))
    }

    async fn swap_value(
        &self,
        space: &KeySpace,
        key: &str,
        seen: Option<[u8; 32]>,
        value: &[u8],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>> {
        in_transaction!(self.shared.writer, |transaction| values::swap(
            transaction,
            space,
            key,
            seen,
            value,
            quota
        ))
    }
}
