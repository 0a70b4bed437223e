//! Signals as bytes: 17 of each, its kind and its task's id.

use uuid::Uuid;

use crate::Signal;

const SIZE: usize = 17;

pub(super) fn pack(signals: &[Signal]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(signals.len() * SIZE);
    for signal in signals {
        let (kind, id) = signal.parts();
        bytes.push(kind);
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes
}

/// Leaves out kinds that a later version may have added.
pub(super) fn unpack(bytes: &[u8]) -> impl Iterator<Item = Signal> {
    let chunks = bytes.as_chunks::<SIZE>().0.iter();
    chunks.filter_map(|[kind, id @ ..]| Signal::of_parts(*kind, Uuid::from_bytes(*id)))
}

#[cfg(test)]
mod tests {
    use taskforge_domain::TaskId;

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
