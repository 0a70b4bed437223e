//! Less of a processor for the calling thread.

use std::io;

use rustix::process::getpriority_process;

/// A tenth of the share of a thread that is not niced. With less, what runs under it would starve beside a busy neighbour until its time is
/// over.
pub(crate) const NICENESS: i32 = 10;

/// The shortest slice that Linux grants, in nanoseconds. A thread that wakes up waits until the running one's slice is over, even if that is
/// far less important; the usual slice is some milliseconds.
const SLICE: u64 = 100_000;

/// The arguments of `sched_setattr(2)`, in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Lowers the priority of the calling thread, and of the processes that it starts, and lets others interrupt it soon (Linux 6.12; older
/// kernels ignore the wish for short slices).
pub(crate) fn lower() -> io::Result<()> {
    let attributes = Attributes {
        size: u32::try_from(size_of::<Attributes>()).unwrap_or(0),
        policy: libc::SCHED_OTHER.unsigned_abs(),
        flags: 0,
        nice: getpriority_process(None)?.saturating_add(NICENESS).min(19),
        priority: 0,
        runtime: SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: zero is the calling thread, and the attributes outlive the call, which only reads as many bytes of them as they say.
    #[allow(unsafe_code)]
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
