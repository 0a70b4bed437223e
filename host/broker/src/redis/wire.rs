//! Signals as bytes: 17 of each, its kind and its task's id.

use taskforge_domain::TaskId;
use uuid::Uuid;

use crate::Signal;

const SIZE: usize = 17;

pub(super) fn pack(signals: &[Signal]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(signals.len() * SIZE);
    for signal in signals {
        let (kind, id) = match signal {
            Signal::Cancel(id) => (b'c', *id.as_uuid()),
            Signal::Finished(id) => (b'f', *id.as_uuid()),
            Signal::Policy => (b'p', Uuid::nil()),
            Signal::Plugins => (b'g', Uuid::nil()),
            Signal::Missed => (b'm', Uuid::nil()),
        };
        bytes.push(kind);
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes
}

/// Leaves out kinds that a later version may have added.
pub(super) fn unpack(bytes: &[u8]) -> impl Iterator<Item = Signal> {
    bytes.as_chunks::<SIZE>().0.iter().filter_map(|[kind, id @ ..]| {
        let id = TaskId::from_uuid(Uuid::from_bytes(*id));
        match kind {
            b'c' => Some(Signal::Cancel(id)),
            b'f' => Some(Signal::Finished(id)),
            b'p' => Some(Signal::Policy),
            b'g' => Some(Signal::Plugins),
            b'm' => Some(Signal::Missed),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_survive_the_wire_and_unknown_kinds_are_left_out() {
        let signals = [
            Signal::Cancel(TaskId::generate()),
            Signal::Policy,
            Signal::Plugins,
            Signal::Finished(TaskId::generate()),
            Signal::Missed,
        ];
        let mut bytes = pack(&signals);
        assert!(unpack(&bytes).eq(signals.iter().cloned()));
        bytes[0] = b'?';
        bytes.push(b'c');
        assert!(unpack(&bytes).eq(signals[1..].iter().cloned()));
    }
}
