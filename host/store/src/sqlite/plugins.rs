//! What the store keeps of plugins.

use async_trait::async_trait;
use sqlx::Connection;
use taskforge_domain::{
    Digest, PluginEvent, PluginSettings, PluginVersion, RegisteredPlugin, Revision, TaskType, TenantId,
    VersionId, VersionState, VersionUsage,
};

use super::{SqliteStore, begin, mail, registry, secrets, usage, values, versions};
use crate::{
    Added, Kept, KeyQuota, KeySpace, MailCount, PluginStore, RegistrySnapshot, RolloutChange, SealedSecret,
    StoreResult,
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
        event: &PluginEvent,
    ) -> StoreResult<Added> {
        let mut writer;
        let transaction = begin!(self, writer);
        versions::add(transaction, owner, version, component, event).await
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
        let mut writer;
        let transaction = begin!(self, writer);
        registry::change(transaction, change).await
    }

    async fn set_settings(
        &self,
        version: VersionId,
        settings: &PluginSettings,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        let mut writer;
        let transaction = begin!(self, writer);
        versions::set_settings(transaction, version, settings, event).await
    }

    async fn set_version_state(
        &self,
        version: VersionId,
        state: &VersionState,
        event: &PluginEvent,
    ) -> StoreResult<bool> {
        let mut writer;
        let transaction = begin!(self, writer);
        versions::change_state(transaction, version, state, event).await
    }

    async fn set_secret(
        &self,
        plugin: &TaskType,
        secret: &SealedSecret,
        event: &PluginEvent,
    ) -> StoreResult<()> {
        let mut writer;
        let transaction = begin!(self, writer);
        secrets::set(transaction, plugin, secret, event).await
    }

    async fn delete_secret(&self, plugin: &TaskType, name: &str, event: &PluginEvent) -> StoreResult<bool> {
        let mut writer;
        let transaction = begin!(self, writer);
        secrets::delete(transaction, plugin, name, event).await
    }

    async fn secrets(&self, plugin: &TaskType) -> StoreResult<Vec<SealedSecret>> {
        secrets::of_plugin(&self.shared.readers, plugin).await
    }

    async fn plugin_events(&self, plugin: &TaskType, limit: u32) -> StoreResult<Vec<PluginEvent>> {
        registry::events(&self.shared.readers, plugin, limit).await
    }

    async fn add_usage(&self, used: &[(VersionId, i64, VersionUsage)]) -> StoreResult<()> {
        let mut writer;
        let transaction = begin!(self, writer);
        usage::add(transaction, used).await
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
        let mut writer;
        let transaction = begin!(self, writer);
        values::set(transaction, space, values, quota).await
    }

    async fn delete_values(&self, space: &KeySpace, keys: &[String]) -> StoreResult<()> {
        let mut writer;
        let transaction = begin!(self, writer);
        values::delete(transaction, space, keys).await
    }

    async fn list_keys(&self, space: &KeySpace, after: Option<&str>, limit: u32) -> StoreResult<Vec<String>> {
        values::list(&self.shared.readers, space, after, limit).await
    }

    async fn increment_value(
        &self,
        space: &KeySpace,
        key: &str,
        delta: i64,
        quota: KeyQuota,
    ) -> StoreResult<Kept<i64>> {
        let mut writer;
        let transaction = begin!(self, writer);
        values::increment(transaction, space, key, delta, quota).await
    }

    async fn count_mail(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailCount,
        limit: MailCount,
    ) -> StoreResult<bool> {
        let mut writer = self.shared.writer().await?;
        mail::add(&mut writer, plugin, version, sent, limit).await
    }

    async fn swap_value(
        &self,
        space: &KeySpace,
        key: &str,
        seen: Option<[u8; 32]>,
        value: &[u8],
        quota: KeyQuota,
    ) -> StoreResult<Kept<()>> {
        let mut writer;
        let transaction = begin!(self, writer);
        values::swap(transaction, space, key, seen, value, quota).await
    }
}
