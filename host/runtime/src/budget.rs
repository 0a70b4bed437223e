//! The memory of an attempt: the sum of the guest's memory and of what the host holds for it.
//!
//! A guest can make the host use memory without growing its own: strings of requests, header maps,
//! unread bodies, log lines. So both draw on one [`Budget`], bounded by `limits.memory`. Every
//! object of the host that outlives the call that made it has a [`Charge`], which is taken before
//! the object is made and given back when it is dropped.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

/// What the host may use beyond `limits.memory`, in bytes, so that a guest that uses all of it can
/// still log, call the host and return an output of the default size.
pub(crate) const RESERVE: u64 = (1 << 20) + (64 << 10);

/// The budget of one attempt. Clones share it, because a body outlives the call that handed it
/// over.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Sums>);

#[derive(Debug)]
struct Sums {
    limit: u64,
    guest: AtomicU64,
    // Bytes of guest and host together.
    held: AtomicU64,
    peak: AtomicU64,
}

/// The budget has no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} of {bytes} bytes did not fit into the memory limit of {limit} bytes: \
     the handler had {guest} of them, and the host held {host} for it"
)]
pub(crate) struct OverBudget {
    what: &'static str,
    bytes: u64,
    limit: u64,
    guest: u64,
    host: u64,
}

impl Budget {
    /// A budget of `limits.memory` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self(Arc::new(Sums {
            limit,
            guest: AtomicU64::new(0),
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }))
    }

    /// The most that guest and host used together, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }

    /// What the host may still use, in bytes.
    pub(crate) fn room(&self) -> u64 {
        let most = self.0.limit.saturating_add(RESERVE);
        most.saturating_sub(self.0.held.load(Relaxed))
    }

    /// Takes bytes for the guest's memories and tables, for good: these do not shrink.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        self.take("memory", bytes, self.0.limit)?;
        self.0.guest.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Charges for something that the host is about to keep. `what` begins a sentence: "the header
    /// map".
    pub(crate) fn charge(&self, what: &'static str, bytes: u64) -> Result<Charge, OverBudget> {
        let mut charge = Charge::empty(self);
        charge.resize(what, bytes)?;
        Ok(charge)
    }

    /// Makes bytes whose charge lasts as long as any part of them.
    pub(crate) fn bytes(
        &self,
        what: &'static str,
        bytes: impl Into<Bytes>,
    ) -> Result<Bytes, OverBudget> {
        let bytes = bytes.into();
        let charge = self.charge(what, bytes.len() as u64)?;
        Ok(Bytes::from_owner(Charged { bytes, _charge: charge }))
    }

    fn take(&self, what: &'static str, bytes: u64, most: u64) -> Result<(), OverBudget> {
        let Sums { held, peak, .. } = &*self.0;
        let taken = held.fetch_update(Relaxed, Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| *sum <= most)
        });
        match taken {
            Ok(before) => {
                peak.fetch_max(before + bytes, Relaxed);
                Ok(())
            }
            Err(held) => {
                let guest = self.0.guest.load(Relaxed);
                Err(OverBudget {
                    what,
                    bytes,
                    limit: self.0.limit,
                    guest,
                    host: held.saturating_sub(guest),
                })
            }
        }
    }
}

/// A part of the budget that is taken. Its drop gives it back.
pub(crate) struct Charge {
    budget: Budget,
    bytes: u64,
}

impl Charge {
    /// A charge of nothing, for something that will grow.
    pub(crate) fn empty(budget: &Budget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// The bytes that are taken.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the charge to so many bytes. An error leaves it as it was.
    pub(crate) fn resize(&mut self, what: &'static str, bytes: u64) -> Result<(), OverBudget> {
        let sums = &self.budget.0;
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(what, more, sums.limit.saturating_add(RESERVE))?,
            None => {
                sums.held.fetch_sub(self.bytes - bytes, Relaxed);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Gives all of it back.
    pub(crate) fn clear(&mut self) {
        if self.bytes > 0 {
            self.budget.0.held.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
        }
    }

    /// Takes so many bytes more.
    pub(crate) fn add(&mut self, what: &'static str, bytes: u64) -> Result<(), OverBudget> {
        self.resize(what, self.bytes.saturating_add(bytes))
    }

    /// Reserves room in the buffer that this charge is for, and charges for its capacity.
    pub(crate) fn buffer(
        &mut self,
        what: &'static str,
        buffer: &mut Vec<u8>,
        more: usize,
    ) -> Result<(), OverBudget> {
        let needed = buffer.len().saturating_add(more);
        if needed > buffer.capacity() {
            let capacity = needed.checked_next_power_of_two().unwrap_or(needed);
            self.resize(what, capacity as u64)?;
            buffer.reserve_exact(capacity - buffer.len());
        }
        Ok(())
    }

    /// Adds another charge of the same budget to this one.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({})", self.bytes)
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_and_host_draw_on_one_sum() {
        let budget = Budget::new(10 << 20);
        budget.grow(6 << 20).unwrap();
        let charge = budget.charge("the body", 3 << 20).unwrap();
        assert!(budget.grow(2 << 20).is_err(), "the host holds it");
        drop(charge);
        budget.grow(4 << 20).unwrap();
        assert_eq!(budget.peak(), 10 << 20);
    }

    #[test]
    fn a_guest_with_all_its_memory_leaves_the_host_its_reserve() {
        let budget = Budget::new(1 << 20);
        budget.grow(1 << 20).unwrap();
        assert_eq!(budget.room(), RESERVE);
        let error = budget.charge("the body", RESERVE + 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body of 1114113 bytes did not fit into the memory limit of 1048576 bytes: the handler had 1048576 \
             of them, and the host held 0 for it"
        );
        drop(budget.charge("the body", RESERVE).unwrap());
        assert_eq!(budget.peak(), (1 << 20) + RESERVE);
    }

    #[test]
    fn a_charge_that_cannot_grow_stays_as_it_was() {
        let budget = Budget::new(0);
        let mut charge = budget.charge("the log", 1000).unwrap();
        assert!(charge.add("the log", RESERVE).is_err());
        assert_eq!(budget.room(), RESERVE - 1000);
        charge.resize("the log", 10).unwrap();
        charge.absorb(budget.charge("the body", 5).unwrap());
        assert_eq!(budget.room(), RESERVE - 15);
        drop(charge);
        assert_eq!(budget.room(), RESERVE);
        assert!(budget.charge("the log", u64::MAX).is_err());
    }

    #[test]
    fn bytes_are_charged_for_until_their_last_part_is_gone() {
        let budget = Budget::new(0);
        let bytes = budget.bytes("the body", vec![7; 1000]).unwrap();
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((budget.room(), part.len()), (RESERVE - 1000, 10));
        drop(part);
        assert_eq!(budget.room(), RESERVE);
    }
}
