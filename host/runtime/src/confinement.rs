//! Privileges that processes give up for good because they do not need them.
//!
//! The compiler is a large program that parses a stranger's file. Should the file make it run other
//! code, that code finds no variables and no descriptors but its input and output, and it cannot
//! open a file or a socket, start a process or touch another one. Two mechanisms ensure this
//! independently of each other: limits of the process, which every Unix has, and a filter of system
//! calls, which Linux has.
//!
//! Each function returns what could not be given up, as one sentence each.

use std::{fmt::Display, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets a limit, unless it is lower already.
pub(crate) fn lower(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(soft.min(ceiling)), maximum: Some(hard.min(ceiling)) };
    Ok(setrlimit(resource, limit)?)
}

/// What could not be given up, in sentences.
#[derive(Debug, Default)]
struct Kept(Vec<String>);

impl Kept {
    fn unless<E: Display>(&mut self, given_up: Result<(), E>, what: &str) {
        if let Err(error) = given_up {
            self.0.push(format!("{what}: {error}"));
        }
    }
}

/// For a process that hosts components: programs that it starts gain no privileges, and other
/// processes of its user cannot read its memory and variables, which hold keys. That also turns its
/// core dumps off.
#[must_use]
pub fn host() -> Vec<String> {
    let mut kept = Kept::default();
    unprivileged(&mut kept);
    kept.0
}

/// For a process that compiles a component, before it reads it: gives up its terminal, its
/// privileges and inherited descriptors. Closes everything but standard input, output and error, so
/// the caller must not have opened anything.
#[must_use]
pub fn before_reading() -> Vec<String> {
    let mut kept = Kept::default();
    unprivileged(&mut kept);
    // A leader of a group cannot begin a session, and has one of its own.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => kept.0.push(format!("its session: {error}")),
    }
    kept.unless(close_inherited(), "descriptors that it has inherited");
    kept.0
}

/// For a process that compiles a component, before it parses it, on its one thread: gives up all
/// system calls but those for memory and for reading and writing open descriptors.
#[must_use]
pub fn before_compiling() -> Vec<String> {
    let mut kept = Kept::default();
    kept.unless(lower(Resource::Nofile, 0, 0), "opening files and sockets");
    kept.unless(lower(Resource::Nproc, 0, 0), "starting processes");
    kept.unless(filter_calls(), "system calls that it does not need");
    kept.0
}

#[cfg(target_os = "linux")]
fn unprivileged(kept: &mut Kept) {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    kept.unless(rustix::thread::set_no_new_privs(true), "privileges of other programs");
    kept.unless(
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        "letting other processes look into it",
    );
}

#[cfg(not(target_os = "linux"))]
fn unprivileged(kept: &mut Kept) {
    kept.unless(lower(Resource::Core, 0, 0), "core dumps");
    kept.0.push("privileges of other programs: only Linux has a way".to_owned());
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn close_inherited() -> io::Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd")?;
    // The list's own descriptor is in it and closed with it: to close that again is an error, which
    // says nothing.
    let open: Vec<i32> =
        listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: this process has opened nothing itself, so no object owns the descriptor.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn close_inherited() -> io::Result<()> {
    Err(io::Error::other("only Linux lists them"))
}

#[cfg(target_os = "linux")]
fn filter_calls() -> Result<(), String> {
    calls::filter().map_err(|error| error.to_string())
}

#[cfg(not(target_os = "linux"))]
fn filter_calls() -> Result<(), String> {
    Err("only Linux filters them".to_owned())
}

#[cfg(target_os = "linux")]
mod calls {
    //! The filter of system calls. A call that is not listed fails as not permitted, so that a
    //! library which tries something better goes on without.

    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule, apply_filter,
    };

    /// Memory, reading and writing open descriptors, waiting for locks, time, random numbers, exit.
    const ALLOWED: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    pub(super) fn filter() -> Result<(), Error> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        // A program that aborts sends itself a signal, and may send none to others.
        let itself = SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(std::process::id()),
        )?;
        rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![itself])?]);
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into()?,
        )?;
        let program: BpfProgram = filter.try_into()?;
        apply_filter(&program)
    }
}
