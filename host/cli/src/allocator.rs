//! The memory allocator of the process.
//!
//! What the host holds for attempts is freed when they end, but the GNU C library gives back to the system little of
//! what was in small pieces: 1.6 GiB stayed with a worker after 32 attempts that held requests with long paths, beside
//! the memory of the guests that ran next. jemalloc gives pages back that were not used for a while.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod jemalloc {
    use tikv_jemallocator::Jemalloc;

    #[global_allocator]
    static ALLOCATOR: Jemalloc = Jemalloc;

    /// A thread of its own gives pages back, because threads that are idle after an attack would not; within a second,
    /// because by then the guests of the next one have touched theirs. `_RJEM_MALLOC_CONF` overrides it.
    ///
    /// <https://jemalloc.net/jemalloc.3.html#tuning>
    #[allow(unsafe_code)]
    // SAFETY: jemalloc reads this symbol as a C string: it is one, and nothing else defines it.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static CONFIGURATION: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
}
