//! A change of the registry: its revision and its event go with it.

use sqlx::{SqliteConnection, SqliteTransaction};
use taskforge_domain::{PluginEvent, Revision, TaskType};

use super::{
    param::{text, time},
    row,
};
use crate::StoreResult;

const RAISE: &str = "update registry_revision set revision = revision + 1 returning revision";

/// Of a secret whose plugin is yet to come, there is no row.
const TOUCH: &str = "update plugins set revision = ?2 where name = ?1";

const RECORD: &str = "
    insert into plugin_events (plugin, at, kind, version, who, detail) values (?1, ?2, ?3, ?4, ?5, ?6)";

/// A change under way. Dropped before its commit, it never was.
pub(super) struct Edit<'c> {
    transaction: SqliteTransaction<'c>,
    revision: Revision,
}

impl<'c> Edit<'c> {
    pub(super) async fn begin(mut transaction: SqliteTransaction<'c>) -> StoreResult<Self> {
        let raised = sqlx::query(RAISE).fetch_one(&mut *transaction).await?;
        Ok(Self { transaction, revision: row::revision(&raised, 0)? })
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) async fn commit(
        mut self,
        plugin: &TaskType,
        event: &PluginEvent,
    ) -> StoreResult<Revision> {
        sqlx::query(TOUCH)
            .bind(plugin.as_str().to_owned())
            .bind(self.revision.0)
            .execute(&mut *self.transaction)
            .await?;
        sqlx::query(RECORD)
            .bind(plugin.as_str().to_owned())
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
