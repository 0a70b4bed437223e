//! A database that is thrown away.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{address::Address, connect::Servers, fault::Fault};
use crate::{PostgresConfig, StoreResult};

/// A new, empty database on the server of another one, for whoever measures and must not touch what
/// is there.
#[derive(Debug)]
pub struct Scratch {
    server: String,
    name: String,
    url: String,
}

impl Scratch {
    /// Makes it, beside the database that `url` names.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](crate::StoreError::Unavailable) when the server cannot be
    /// reached, [`StoreError::Refused`](crate::StoreError::Refused) when the user may not make a
    /// database or the URL is none.
    pub async fn create(url: &str) -> StoreResult<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("taskforge_scratch_{}_{}", std::process::id(), now.as_micros());
        run(url, &format!("create database {name}")).await?;
        Ok(Self {
            url: Address::parse(url)?.with_database(&name).to_url(),
            server: url.to_owned(),
            name,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Drops it, whoever is still connected to it.
    ///
    /// # Errors
    /// As [`Scratch::create`].
    pub async fn remove(self) -> StoreResult<()> {
        run(&self.server, &format!("drop database {} with (force)", self.name)).await
    }
}

async fn run(url: &str, statement: &str) -> StoreResult<()> {
    let servers = Servers::of(&PostgresConfig::new(url))?;
    let (mut connection, _) = servers.connect(&Vec::new()).await?;
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .map_err(Fault::Sql)?;
    Ok(())
}
