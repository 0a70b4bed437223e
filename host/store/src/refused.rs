//! Outcomes that the database refuses to hold.
//!
//! A handler may say what a database cannot keep: a character that its encoding does not have, more
//! text than a row takes. The same again is refused again, so what is refused is replaced, step by
//! step, by what can be kept.

use taskforge_domain::{Failure, FailureKind, Next, Outcome};

use crate::{Commit, Completion, Resolution, Store, StoreError, StoreResult};

/// How an attempt ended in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What became of the completion.
    pub commit: Commit,
    /// Where the task has gone, if its lease held.
    pub next: Next,
}

/// The most of the database's reason that a failure repeats.
const REASON: usize = 1_000;

/// Ends an attempt, with what the database can hold of it: first as it is; then without what people
/// would have read in another script; then as a failure that says why. What is refused even then
/// ends as a lapse.
///
/// # Errors
/// As [`Store::complete`], but for [`StoreError::Refused`], unless the very last step is refused
/// too. A damaged database is no fault of the outcome, which waits until somebody has mended it.
pub async fn complete_or_fail(store: &dyn Store, completion: &Completion) -> StoreResult<Ended> {
    let refused = match commit(store, completion).await {
        Err(StoreError::Refused(why)) => why,
        answer => return answer,
    };
    let attempt = &completion.attempt;
    tracing::warn!(
        task.id = %attempt.task, attempt = attempt.number, error = %refused,
        "the database does not hold the outcome as it is"
    );
    metrics::counter!("taskforge_refused_outcomes_total").increment(1);
    let why = plain(&refused);
    for other in [in_ascii(completion), as_failure(completion, &why)] {
        match commit(store, &other).await {
            Err(StoreError::Refused(_)) => {}
            answer => return answer,
        }
    }
    let resolution = Resolution {
        id: attempt.task,
        run_lease: attempt.run_lease,
        next: Next::DeadLetter,
        detail: format!("the database refused the outcome of attempt {}: {why}", attempt.number),
    };
    let moved = store.resolve_lapsed(None, &[resolution], attempt.finished_at).await?;
    let commit = if moved.is_empty() { Commit::Stale } else { Commit::Committed };
    Ok(Ended { commit, next: Next::DeadLetter })
}

async fn commit(store: &dyn Store, completion: &Completion) -> StoreResult<Ended> {
    let commits = store.complete(std::slice::from_ref(completion)).await?;
    Ok(Ended { commit: commits.first().copied().unwrap_or(Commit::Stale), next: completion.next })
}

/// The same outcome, its log and its failure in ASCII. A result stays as it is: it is for programs.
fn in_ascii(completion: &Completion) -> Completion {
    let mut plainer = completion.clone();
    for line in &mut plainer.attempt.logs {
        line.message = plain(&line.message);
    }
    if let Outcome::Failed(failure) = &mut plainer.attempt.outcome {
        failure.message = plain(&failure.message);
    }
    plainer
}

/// A failure with nothing of what the handler said, for good if it had completed.
fn as_failure(completion: &Completion, why: &str) -> Completion {
    let mut failed = completion.clone();
    failed.attempt.logs.clear();
    let (kind, what) = match &completion.attempt.outcome {
        Outcome::Completed(_) => (FailureKind::InvalidOutput, "result"),
        Outcome::Failed(failure) => (failure.kind, "failure"),
    };
    let message = format!("the database cannot hold the {what} of this attempt: {why}");
    failed.attempt.outcome = Outcome::Failed(Failure::new(kind, message));
    if !failed.next.fits(&failed.attempt.outcome) {
        failed.next = Next::DeadLetter;
    }
    failed
}

/// ASCII, which every encoding has, and no more than a reader needs.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii() && c != '\0' { c } else { '?' };
    text.chars().take(REASON).map(plain).collect()
}
