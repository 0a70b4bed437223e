//! A change of the registry: its revision and its event go with it.

use taskforge_domain::{PluginEvent, Revision, TaskType};

use super::{
    driver::{Attempted, Connection, Transaction, begin},
    param::{text, time},
    row,
};

/// The row's lock is held until the transaction ends: changes are committed in the order of their
/// revisions.
const RAISE: &str = "update registry_revision set revision = revision + 1 returning revision";

/// Of a secret whose plugin is yet to come, there is no row.
const TOUCH: &str = "update plugins set revision = $2 where name = $1";

const RECORD: &str = "
    insert into plugin_events (plugin, at, kind, version, who, detail) values ($1, $2, $3, $4, $5, $6)";

/// A change under way. Dropped before its commit, it never was.
pub(super) struct Edit<'c> {
    transaction: Transaction<'c>,
    revision: Revision,
}

impl<'c> Edit<'c> {
    /// Waits for every change before this one.
    pub(super) async fn begin(connection: &'c mut Connection) -> Attempted<Self> {
        Self::within(begin(connection).await?).await
    }

    /// The same in a transaction that has begun.
    pub(super) async fn within(mut transaction: Transaction<'c>) -> Attempted<Self> {
        let raised = sqlx::query(RAISE).fetch_one(&mut *transaction).await?;
        Ok(Self { transaction, revision: Revision(row::get(&raised, 0)?) })
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.transaction
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    /// Of a change that concerns no plugin.
    pub(super) async fn commit_silently(self) -> Attempted<()> {
        Ok(self.transaction.commit().await?)
    }

    pub(super) async fn commit(
        mut self,
        plugin: &TaskType,
        event: &PluginEvent,
    ) -> Attempted<Revision> {
        sqlx::query(TOUCH)
            .bind(plugin.as_str())
            .bind(self.revision.0)
            .execute(&mut *self.transaction)
            .await?;
        sqlx::query(RECORD)
            .bind(plugin.as_str())
            .bind(time(event.at))
            .bind(event.kind.as_str())
            .bind(event.version.as_deref().map(text))
            .bind(text(&event.by))
            .bind(text(&event.detail))
            .execute(&mut *self.transaction)
            .await?;
        self.transaction.commit().await?;
        Ok(self.revision)
    }
}
