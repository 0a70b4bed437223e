//! Many writes, one transaction.

use sqlx::{Connection, SqliteConnection};

use super::{
    claim::{self, ClaimOp},
    complete::{self, CompleteRow},
    enqueue::{self, EnqueueRow},
    progress::{self, ProgressRow},
};
use crate::{Claimed, Commit, StoreResult};

/// A write that shares its commit with others.
pub(super) enum Write {
    Enqueue(EnqueueRow),
    Complete(CompleteRow),
    Progress(ProgressRow),
    Claim(ClaimOp),
    /// Something that is written only to see whether it can be.
    Trial,
}

/// What became of it.
pub(super) enum Written {
    /// For an enqueue, for progress and for a trial.
    Done,
    Ended(Commit),
    Claimed(StoreResult<Claimed>),
}

impl Written {
    pub(super) fn ended(self) -> Option<Commit> {
        match self {
            Self::Ended(commit) => Some(commit),
            _ => None,
        }
    }

    pub(super) fn claimed(self) -> StoreResult<Claimed> {
        match self {
            Self::Claimed(claimed) => claimed,
            _ => Ok(Claimed::default()),
        }
    }
}

/// Carries out all writes or none. Claims go last, so that they see what was enqueued beside them.
pub(super) async fn flush(
    connection: &mut SqliteConnection,
    writes: &[Write],
) -> StoreResult<Vec<Written>> {
    let mut written: Vec<_> = writes.iter().map(|_| Written::Done).collect();
    let (mut tasks, mut reports) = (Vec::new(), Vec::new());
    let (mut ends, mut end_places) = (Vec::new(), Vec::new());
    let (mut claims, mut claim_places) = (Vec::new(), Vec::new());
    let mut is_trial = false;
    for (place, write) in writes.iter().enumerate() {
        match write {
            Write::Enqueue(row) => tasks.push(row),
            Write::Progress(row) => reports.push(row),
            Write::Claim(op) => {
                claims.push(op);
                claim_places.push(place);
            }
            Write::Trial => is_trial = true,
            Write::Complete(row) => {
                ends.push(row);
                end_places.push(place);
            }
        }
    }
    // Immediate: the writer's lock is taken here, not halfway through.
    let mut transaction = connection.begin_with("begin immediate").await?;
    enqueue::run(&mut transaction, &tasks).await?;
    progress::run(&mut transaction, &reports).await?;
    for (place, commit) in end_places.into_iter().zip(complete::run(&mut transaction, &ends).await?)
    {
        written[place] = Written::Ended(commit);
    }
    for (place, claimed) in
        claim_places.into_iter().zip(claim::run(&mut transaction, &claims).await?)
    {
        written[place] = Written::Claimed(claimed);
    }
    if is_trial {
        trial(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(written)
}

/// Changes a number in the file's header that nobody uses, so that there is a page to write.
async fn trial(connection: &mut SqliteConnection) -> StoreResult<()> {
    let number: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *connection).await?;
    let other = match number {
        0 => "pragma user_version = 1",
        _ => "pragma user_version = 0",
    };
    sqlx::query(other).execute(connection).await?;
    Ok(())
}
