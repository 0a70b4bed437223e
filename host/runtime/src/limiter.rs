//! The guest's part of the memory budget, and the other limits that the engine checks.
//!
//! The engine asks before each growth of one memory or table. A limit on each alone would allow a
//! component with thirty memories thirty times as much, so all growth draws on the attempt's
//! [`Budget`].

use async_trait::async_trait;
use taskforge_domain::Limits;
use wasmtime::ResourceLimiterAsync;

use crate::budget::Budget;

/// Bytes that a table element takes in the host.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// Keeps the sums of one instance.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    budget: Budget,
    element_limit: u64,
    instances: u32,
    memories: u32,
    tables: u32,
    bytes: u64,
    elements: u64,
    denied: Option<String>,
}

impl MemoryLimiter {
    pub(crate) fn new(limits: &Limits, budget: Budget) -> Self {
        Self {
            budget,
            element_limit: limits.table_elements,
            instances: limits.instances,
            memories: limits.memories,
            tables: limits.tables,
            bytes: 0,
            elements: 0,
            denied: None,
        }
    }

    /// The latest refusal, as a sentence. `None` if everything was granted.
    pub(crate) fn denied(&self) -> Option<&str> {
        self.denied.as_deref()
    }

    fn grow(&mut self, bytes: u64, elements: u64) -> bool {
        let count = self.elements.saturating_add(elements);
        if count > self.element_limit {
            self.denied = Some(format!(
                "{count} table elements were asked for and the limit is {}",
                self.element_limit
            ));
            return false;
        }
        if let Err(over) = self.budget.grow(bytes) {
            self.denied = Some(over.to_string());
            return false;
        }
        self.elements = count;
        self.bytes += bytes;
        true
    }

    /// A granted growth stays taken even if the engine could not carry it out. The engine also
    /// reports failures of growth that it never asked for, and a guest could use those to lower its
    /// sum. Growth beyond a maximum, the usual cause, is refused before.
    fn failed(&mut self, error: &wasmtime::Error) {
        self.denied.get_or_insert_with(|| error.to_string());
    }
}

/// Whether the growth exceeds the maximum of the memory or table, or the size of the pool's slot.
fn exceeds(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_some_and(|maximum| desired > maximum)
}

// A refusal is `Ok(false)`, which the guest sees as -1, and not an error, which would trap at once:
// an interpreter may collect its garbage and go on. If a guest traps after a refusal, the refusal
// is taken for the cause (see `ending`).
#[async_trait]
impl ResourceLimiterAsync for MemoryLimiter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if exceeds(desired, maximum) {
            self.denied = Some(format!(
                "a memory of {desired} bytes was asked for, more than its own maximum"
            ));
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64, 0))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if exceeds(desired, maximum) {
            self.denied = Some(format!(
                "a table of {desired} elements was asked for, more than its own maximum"
            ));
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(ELEMENT), elements))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances as usize
    }

    fn tables(&self) -> usize {
        self.tables as usize
    }

    fn memories(&self) -> usize {
        self.memories as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(memory: u64, table_elements: u64) -> MemoryLimiter {
        let limits = Limits { memory, table_elements, ..Limits::default() };
        MemoryLimiter::new(&limits, Budget::new(memory))
    }

    #[tokio::test]
    async fn memories_and_tables_share_one_sum() {
        let mut limiter = limiter(1000, 100);
        assert!(limiter.memory_growing(0, 500, None).await.unwrap());
        assert!(limiter.memory_growing(0, 400, None).await.unwrap());
        assert!(limiter.table_growing(0, 10, None).await.unwrap());
        assert!(!limiter.memory_growing(500, 600, None).await.unwrap());
        let denied = limiter.denied().unwrap();
        assert!(
            denied.contains("memory of 100 bytes") && denied.contains("had 980 of them"),
            "{denied}"
        );
        assert_eq!(limiter.budget.peak(), 980);
    }

    #[tokio::test]
    async fn a_reported_failure_takes_nothing_off_the_sum() {
        let mut limiter = limiter(1000, 100);
        assert!(limiter.memory_growing(0, 900, None).await.unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("beyond the type's limits")).unwrap();
        assert!(!limiter.memory_growing(900, 1001, None).await.unwrap());
    }

    #[tokio::test]
    async fn growth_beyond_a_memorys_own_maximum_is_not_counted() {
        let mut limiter = limiter(1000, 100);
        assert!(!limiter.memory_growing(0, 900, Some(800)).await.unwrap());
        assert!(limiter.memory_growing(0, 1000, None).await.unwrap());
    }
}
