//! The memory allocator of the process.
//!
//! The host frees the memory of attempts when they end, but the GNU C library returns little of it
//! to the system if it was in small pieces: a worker kept 1.6 GiB after 32 attempts with many long
//! request paths, besides the memory of the guests that ran next. jemalloc returns unused pages
//! after a while.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod jemalloc {
    use tikv_jemallocator::Jemalloc;

    #[global_allocator]
    static ALLOCATOR: Jemalloc = Jemalloc;

    /// Within a tenth of a second, because by then the guests of the next attack begin to touch
    /// their memory. `_RJEM_MALLOC_CONF` overrides it.
    ///
    /// <https://jemalloc.net/jemalloc.3.html#tuning>
    #[allow(unsafe_code)]
    // SAFETY: jemalloc reads this symbol as a C string: it is one, and nothing else defines it.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static CONFIGURATION: &[u8; 36] = b"dirty_decay_ms:100,muzzy_decay_ms:0\0";

    pub(super) fn purge_in_background() {
        if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
            tracing::warn!(%error, "freed memory goes back to the system only while threads allocate");
        }
    }
}

/// Starts a thread that gives pages back, because threads that are idle after an attack would not.
/// Not in the process that compiles a component, which is to have one thread, under a filter of
/// system calls.
pub(crate) fn purge_in_background() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    jemalloc::purge_in_background();
}
