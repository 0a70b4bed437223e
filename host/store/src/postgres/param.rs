//! Batches into statement parameters.

use uuid::Uuid;

pub(super) use crate::param::{count, millis, text, time, time_after, time_before};

/// The least id of a moment in microseconds: 48 bits of milliseconds, then nothing.
pub(super) fn first_id(micros: i64) -> Uuid {
    let millis = u128::try_from(micros.max(0) / 1000).unwrap_or(0);
    Uuid::from_u128(millis << 80)
}

/// The least and the greatest of these ids: a range that lets the database skip the partitions
/// beside it.
pub(super) fn range(ids: &[Uuid]) -> (Uuid, Uuid) {
    (ids.iter().min().copied().unwrap_or_default(), ids.iter().max().copied().unwrap_or_default())
}

/// The most bytes of payload in one statement. The protocol ends at 1 GB; long before that a
/// message is held in memory three times.
const STATEMENT_BYTES: usize = 16 << 20;

/// Cuts a batch into statements.
pub(super) fn statements<T>(
    items: &[T],
    bytes: impl Fn(&T) -> usize,
) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let length = rest
            .iter()
            .take_while(|item| {
                let first = sum == 0;
                sum += bytes(item).max(1);
                first || sum <= STATEMENT_BYTES
            })
            .count();
        let (statement, after) = rest.split_at(length);
        rest = after;
        (!statement.is_empty()).then_some(statement)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_batch_is_cut_between_rows() {
        let third = STATEMENT_BYTES / 3;
        let cut: Vec<_> = statements(&[third; 7], |bytes| *bytes).map(<[_]>::len).collect();
        assert_eq!(cut, [3, 3, 1]);
        let huge: Vec<_> =
            statements(&[STATEMENT_BYTES * 2; 2], |bytes| *bytes).map(<[_]>::len).collect();
        assert_eq!(huge, [1, 1], "one row alone may be longer");
        assert_eq!(statements(&[0_usize; 0], |bytes| *bytes).count(), 0);
    }

    #[test]
    fn ids_made_at_a_moment_are_not_before_its_first() {
        let id = Uuid::now_v7();
        let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
        let micros = i64::try_from(seconds).unwrap() * 1_000_000 + i64::from(nanos / 1000);
        assert!(first_id(micros) <= id && id < first_id(micros + 1000));
        assert_eq!(first_id(-5), Uuid::nil());
    }
}
