//! A database that is thrown away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Row;

use super::{address::Address, connect::Servers, fault::Fault};
use crate::{PostgresConfig, StoreResult};

/// What a server has used since it started.
#[derive(Debug, Clone, Copy)]
pub struct ServerUse {
    /// Processor time of all its processes. `None`: it is not on this machine.
    pub processor: Option<Duration>,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
}

const SERVER_USE: &str = "select pg_backend_pid(), (pg_current_wal_lsn() - '0/0')::bigint";

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

    /// What its server has used so far, for all its databases.
    ///
    /// # Errors
    /// As [`Scratch::create`].
    pub async fn server_use(&self) -> StoreResult<ServerUse> {
        let servers = Servers::of(&PostgresConfig::new(&self.url))?;
        let (mut connection, _) = servers.connect(&Vec::new()).await?;
        let row = sqlx::query(SERVER_USE).fetch_one(&mut connection).await.map_err(Fault::Sql)?;
        let pid: i32 = row.try_get(0).map_err(Fault::Sql)?;
        let wal_bytes: i64 = row.try_get(1).map_err(Fault::Sql)?;
        Ok(ServerUse { processor: processor_time(pid), wal_bytes: wal_bytes.unsigned_abs() })
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

/// The processor time of a local server, of which one process is named.
fn processor_time(backend: i32) -> Option<Duration> {
    let (name, fields) = stat(&backend.to_string())?;
    let postmaster = fields.get(1).filter(|_| name == "postgres")?.clone();
    let (_, own) = stat(&postmaster)?;
    // Its own, and that of children that have ended.
    let mut ticks: u64 = own.get(11..15)?.iter().filter_map(|time| time.parse::<u64>().ok()).sum();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some((_, fields)) = stat(&entry.file_name().to_string_lossy()) else { continue };
        if fields.get(1) == Some(&postmaster) {
            let times = fields.get(11..13).unwrap_or_default();
            ticks += times.iter().filter_map(|time| time.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Some(Duration::from_millis(10 * ticks))
}

/// The name of a process, and the fields of `/proc/PID/stat` after it, from the state on.
fn stat(pid: &str) -> Option<(String, Vec<String>)> {
    pid.parse::<u32>().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, fields) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    Some((name.to_owned(), fields.split(' ').map(str::to_owned).collect()))
}
