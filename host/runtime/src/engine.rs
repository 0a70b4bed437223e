//! The engine's configuration, and the reason for each knob.
//!
//! One engine serves every plugin: it owns the pool that instances are made from and the compiler's
//! settings, and both are part of the fingerprint that the code cache files its artefacts under.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};
use taskforge_domain::Limits;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    Strategy,
};

use crate::{RuntimeConfig, chunks};

/// Fuel between two yields of a busy guest, at which others run and its deadline is checked. A
/// short loop burns 6 units a nanosecond on a 2-core machine and so yields every 80 µs; a loop over
/// memory yields several times less often. A yield takes about 1 µs.
pub const YIELD_INTERVAL: u64 = 500_000;

/// The same for a guest with a large memory limit. The first touch of a page takes 1.3 µs and burns
/// 3 units of fuel, so this is 5 ms of first touches.
const YIELD_INTERVAL_LARGE: u64 = 12_000;

/// The memory in bytes whose first touch needs no yield in between: 8 ms.
const SMALL_MEMORY: u64 = 24 << 20;

/// The fuel between two yields of a guest with this memory limit, in bytes.
pub(crate) const fn yield_interval(memory: u64) -> u64 {
    if memory > SMALL_MEMORY { YIELD_INTERVAL_LARGE } else { YIELD_INTERVAL }
}

/// The stack of a fibre for host functions, besides the guest's own, in bytes.
const HOST_STACK: usize = (1 << 20) + (512 << 10);

/// Which pool knobs are on. [`PoolTuning::default`] is what the runtime uses; `benches/invoke.rs`
/// turns one knob at a time. Measured with fibonacci n=20 on a 2-core machine, Linux 6.7 or later,
/// unoptimised host code (`--profile dev`):
///
/// | setting | one invocation |
/// |---|---|
/// | as chosen | 16 µs |
/// | no pool | 61 µs |
/// | no copy-on-write image | 20 µs |
/// | no resident memory | 43 µs |
/// | 4 MiB of resident memory instead of 256 KiB | 19 µs |
/// | no resident tables | 28 µs |
/// | no warm slots | 26 µs |
/// | no `PAGEMAP_SCAN` | 57 µs |
#[derive(Debug, Clone)]
pub struct PoolTuning {
    /// Instances come from a pool of reserved slots. Off: each one maps and unmaps its own memory.
    pub pooling: bool,
    /// A memory starts as a copy-on-write image of the component's data segments. Off: the segments
    /// are copied in at each start.
    pub copy_on_write: bool,
    /// Bytes of a memory that are set back with `memset` when an instance ends. The rest is given
    /// back to the kernel and costs a page fault when it is touched again.
    pub memory_keep_resident: usize,
    /// The same for tables.
    pub table_keep_resident: usize,
    /// Slots that stay attached to the component that used them last, so that its image need not be
    /// mapped again.
    pub warm_slots: u32,
    /// Ask the kernel which pages were touched (`PAGEMAP_SCAN`, Linux 6.7), and set back only
    /// those.
    pub pagemap_scan: bool,
}

impl Default for PoolTuning {
    fn default() -> Self {
        Self {
            pooling: true,
            copy_on_write: true,
            // Small handlers touch a few dozen pages; up to this size setting them back by hand is
            // cheaper than page faults.
            memory_keep_resident: 256 << 10,
            table_keep_resident: 16 << 10,
            warm_slots: 100,
            pagemap_scan: true,
        }
    }
}

/// Builds the engine.
///
/// # Errors
/// When the machine cannot reserve the address space of the pool, or does not support what the
/// configuration asks for.
pub fn build(config: &RuntimeConfig, tuning: &PoolTuning) -> wasmtime::Result<Engine> {
    let mut engine = configure(tuning, config.ceilings.stack);
    if tuning.pooling {
        engine.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config, tuning)));
    }
    Engine::new(&engine)
}

/// Builds an engine that compiles for the one of [`build`] under the default tuning, and runs
/// nothing. It reserves no pool, which is not part of the fingerprint, and it works on the calling
/// thread only, so that its resources can be limited.
///
/// # Errors
/// When the machine does not support what the configuration asks for.
pub fn compiling() -> wasmtime::Result<Engine> {
    let mut engine = configure(&PoolTuning::default(), Limits::default().stack);
    engine.parallel_compilation(false);
    Engine::new(&engine)
}

fn configure(tuning: &PoolTuning, stack: u64) -> Config {
    let mut engine = Config::new();

    // Metering. Fuel both limits and yields. Epochs besides would cost another 10 % or more of a
    // short loop and add nothing, because deadline and cancellation act at the same yields.
    engine.consume_fuel(true);
    engine.epoch_interruption(false);

    // A version is compiled once and cached, so the optimizing compiler pays.
    engine.strategy(Strategy::Cranelift);
    engine.cranelift_opt_level(OptLevel::Speed);

    // One size for all stores, because it is a setting of the engine. What is not touched is only
    // address space.
    let stack = usize::try_from(stack).unwrap_or(usize::MAX).max(1);
    engine.max_wasm_stack(stack);
    engine.async_stack_size(stack.saturating_add(HOST_STACK));

    // Attack surface. Features that no toolchain for plain components emits are refused at load.
    // Shared memory would escape both the memory sum and the fresh instance, 64-bit memories cost a
    // bounds check at each access, and relaxed SIMD gives different results on different workers.
    engine.wasm_memory64(false);
    engine.wasm_relaxed_simd(false);
    engine.shared_memory(false);
    // WASI 0.2 only, which spares each call the bookkeeping of concurrent component tasks.
    engine.concurrency_support(false);

    // A trap's log line names functions when the component carries names; eight frames tell an
    // author where.
    engine.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8));

    engine.memory_init_cow(tuning.copy_on_write);
    engine
}

/// Sizes the pool so that it cannot run out: an attempt with a permit of the runtime's semaphore
/// finds a slot of every kind, however many its component takes. Slots are only address space until
/// they are used.
fn pool(config: &RuntimeConfig, tuning: &PoolTuning) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let ceilings = &config.ceilings;
    let each = |per_component: u32| config.max_instances.saturating_mul(per_component);

    pool.total_component_instances(config.max_instances);
    pool.total_stacks(config.max_instances);
    pool.total_core_instances(each(ceilings.instances));
    pool.total_memories(each(ceilings.memories));
    pool.total_tables(each(ceilings.tables));

    pool.max_core_instances_per_component(ceilings.instances);
    pool.max_memories_per_component(ceilings.memories);
    pool.max_tables_per_component(ceilings.tables);
    pool.max_memories_per_module(ceilings.memories);
    pool.max_tables_per_module(ceilings.tables);
    pool.max_memory_size(usize::try_from(ceilings.memory).unwrap_or(usize::MAX));
    pool.table_elements(usize::try_from(ceilings.table_elements).unwrap_or(usize::MAX));

    pool.linear_memory_keep_resident(tuning.memory_keep_resident);
    pool.table_keep_resident(tuning.table_keep_resident);
    pool.max_unused_warm_slots(tuning.warm_slots);
    pool.pagemap_scan(if tuning.pagemap_scan { Enabled::Auto } else { Enabled::No });
    pool
}

/// What compiled code depends on: the engine's version and settings, the CPU's features, and the
/// [rewriting](chunks) of components. Code of another fingerprint must not be loaded.
#[must_use]
pub fn fingerprint(engine: &Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    chunks::VERSION.hash(&mut hasher);
    hex::encode(&hasher.0.finalize()[..16])
}

/// A hash that stays the same between releases of the compiler, as file names should; the standard
/// library's may change.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}
