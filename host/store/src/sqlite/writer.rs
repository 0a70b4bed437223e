//! The one connection that writes.
//!
//! # Cancellation
//! An operation takes the connection and gives it back when it has ended by itself and left no
//! transaction open. One that is dropped before, or fails (of a full disk, the database rolls back
//! more than the driver knows of), closes it; what it had not committed is rolled back, and the
//! next operation opens another. Those that come in between wait for the database's own lock.
//!
//! # A lock that somebody else holds
//! An operation waits for the database's lock as long as [`open::LOCK_TIMEOUT`]. Those that waited
//! for their turn meanwhile do not try it after that, one after the other: they fail too. So an
//! answer takes no longer however many operations wait.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::{error::is_locked, open};
use crate::{StoreError, StoreResult};

/// Gives the connection to one operation at a time, in the order in which they asked.
pub(super) struct Writer(Mutex<Place>);

/// Where the connection is while nobody writes.
pub(super) struct Place {
    path: PathBuf,
    /// `None`: the next operation opens one.
    connection: Option<SqliteConnection>,
    /// When the database's lock was last found in somebody else's hands.
    locked: Option<Instant>,
    is_closed: bool,
}

impl Writer {
    pub(super) fn new(path: &Path, connection: SqliteConnection) -> Self {
        Self(Mutex::new(Place {
            path: path.to_owned(),
            connection: Some(connection),
            locked: None,
            is_closed: false,
        }))
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> StoreResult<MutexGuard<'_, Place>> {
        let asked = Instant::now();
        let place = self.0.lock().await;
        if place.locked.is_some_and(|found| found > asked) {
            return Err(StoreError::Unavailable(
                "another process holds the lock of the database".to_owned(),
            ));
        }
        Ok(place)
    }

    /// Closes the connection. Every later operation fails with [`StoreError::Closed`].
    pub(super) async fn close(&self) -> StoreResult<()> {
        let mut place = self.0.lock().await;
        place.is_closed = true;
        match place.connection.take() {
            Some(connection) => Ok(connection.close().await?),
            None => Ok(()),
        }
    }
}

impl Place {
    /// Takes the connection, or opens one.
    pub(super) async fn take(&mut self) -> StoreResult<SqliteConnection> {
        match self.connection.take() {
            _ if self.is_closed => Err(StoreError::Closed),
            Some(connection) => Ok(connection),
            None => open::writer_again(&self.path).await,
        }
    }

    /// Takes the connection back, unless the operation left it in doubt.
    pub(super) async fn give_back<T>(
        &mut self,
        mut connection: SqliteConnection,
        answer: &StoreResult<T>,
    ) {
        if answer.as_ref().is_err_and(is_locked) {
            self.locked = Some(Instant::now());
        }
        // The term was over, which is no failure of the database's.
        if !matches!(answer, Ok(_) | Err(StoreError::Deposed)) {
            metrics::counter!("taskforge_store_writers_replaced_total").increment(1);
            return;
        }
        // A transaction that was dropped before its commit is rolled back by the connection's
        // thread, before this answers.
        if connection.is_in_transaction() && connection.ping().await.is_err() {
            return;
        }
        if !connection.is_in_transaction() {
            self.connection = Some(connection);
        }
    }
}

/// Carries out `$work` on the connection that writes, which is `$connection` in it.
macro_rules! on_writer {
    ($writer:expr, |$connection:ident| $work:expr) => {{
        let mut place = $writer.turn().await?;
        // Cancellation point, and so is every wait in `$work`: dropped here, the connection is
        // closed.
        let mut taken = place.take().await?;
        let answer = {
            let $connection: &mut sqlx::SqliteConnection = &mut taken;
            $work.await
        };
        place.give_back(taken, &answer).await;
        answer
    }};
}

/// Carries out an operation of a store on the connection that writes.
macro_rules! run {
    ($store:ident, |$connection:ident| $work:expr) => {
        $crate::sqlite::writer::on_writer!($store.shared.writer, |$connection| $work)
    };
}

/// Carries out an operation of a store that only reads.
macro_rules! read {
    ($store:ident, |$connection:ident| $work:expr) => {{
        let mut taken = $store.shared.readers.acquire().await?;
        let $connection: &mut sqlx::SqliteConnection = &mut taken;
        $work.await
    }};
}

pub(super) use {on_writer, read, run};
