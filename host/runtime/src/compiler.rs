//! From a component to machine code: in this process, or apart, in one with limits on time, memory
//! and priority.
//!
//! No fuel bounds compilation: a file of some hundred kilobytes can ask for gigabytes and minutes.
//! So hosts that take components from strangers compile each one in a process of its own, which may
//! be killed and may crash without harm to others. It has none of the host's variables, connections
//! or secrets, and gives up all other access before it parses the component
//! ([`confinement`](crate::confinement)).

mod apart;

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Once,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

pub use apart::{CompileJob, compile_apart};

use crate::refusal::LoadError;

/// Wall time that a compiler may take, in multiples of its CPU time: on a busy machine it waits for
/// all other work.
const WALL_FACTOR: u32 = 10;

/// How much of the compiler's output is kept, in bytes.
const WORDS: u64 = 8 << 10;

/// Where components are compiled.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// In this process, on all its cores and without limits: for components of one's own.
    #[default]
    InProcess,
    /// In a process of its own for each component. Needs a
    /// [cache](crate::RuntimeConfig::cache_dir), through which the code comes back.
    Process(CompileProcess),
}

/// A program that calls [`compile_apart`].
#[derive(Debug, Clone)]
pub struct CompileProcess {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, before those of [`CompileJob`].
    pub args: Vec<OsString>,
    /// The memory that it may allocate, in bytes.
    pub memory: u64,
    /// The CPU time that it may use; full seconds count.
    pub time: Duration,
}

impl CompileProcess {
    /// A program with 2 GiB and 60 s: twice what an 18 MB interpreter takes.
    #[must_use]
    pub fn new(program: PathBuf, args: Vec<OsString>) -> Self {
        Self { program, args, memory: 2 << 30, time: Duration::from_secs(60) }
    }

    /// Compiles a component into an existing, empty file.
    pub(crate) async fn compile(
        &self,
        component: &[u8],
        output: &Path,
        fingerprint: &str,
    ) -> Result<(), LoadError> {
        let job = CompileJob {
            output: output.to_path_buf(),
            memory: self.memory,
            seconds: self.seconds(),
            fingerprint: fingerprint.to_owned(),
        };
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .args(job.args())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // If this future is dropped, nobody waits for the code any more. Should the whole host
            // die, the CPU time still ends it.
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                LoadError::internal(format!(
                    "the compiler {} cannot be started: {error}",
                    self.program.display()
                ))
            })?;
        let ended =
            tokio::time::timeout(self.time * WALL_FACTOR, attend(&mut child, component)).await;
        match ended {
            Ok(Ok((status, kept, words))) => {
                tell_once(&kept);
                self.judge(status, &words)
            }
            Ok(Err(error)) => {
                Err(LoadError::internal(format!("the compiler cannot be waited for: {error}")))
            }
            Err(_) => {
                child.kill().await.map_err(LoadError::internal)?;
                Err(LoadError::CompileTime(self.time))
            }
        }
    }

    /// Compiles the smallest component there is, to check that this works here, and to learn what
    /// the compiler cannot give up.
    pub(crate) async fn try_out(&self, output: &Path, fingerprint: &str) -> Result<(), LoadError> {
        const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
        self.compile(EMPTY, output, fingerprint).await
    }

    /// The kernel counts CPU time in seconds.
    fn seconds(&self) -> u64 {
        self.time.as_secs() + u64::from(self.time.subsec_nanos() > 0)
    }

    fn judge(&self, status: ExitStatus, words: &str) -> Result<(), LoadError> {
        if status.success() {
            return Ok(());
        }
        let said = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        // The words of the allocator and of the system for a lack of memory.
        if ["memory allocation of ", "(os error 12)"].iter().any(|text| words.contains(text)) {
            return Err(LoadError::CompileMemory(self.memory));
        }
        if words.contains("has overflowed its stack") {
            return Err(LoadError::Unsupported(
                "it nests deeper than the compiler can follow".to_owned(),
            ));
        }
        match (status.code(), status.signal()) {
            (Some(apart::REFUSED), _) => Err(LoadError::not_compiled(said)),
            (Some(apart::PANICKED), _) => {
                let place = words.lines().find(|line| line.contains("panicked at")).unwrap_or(said);
                tracing::error!(place, "the compiler panicked on a component");
                Err(LoadError::Unsupported(
                    "the compiler fails on it, which is a fault of the compiler".to_owned(),
                ))
            }
            (_, Some(signal)) if signal == Signal::XCPU.as_raw() => {
                Err(LoadError::CompileTime(self.time))
            }
            (_, Some(signal)) => {
                Err(LoadError::internal(format!("the compiler was ended by signal {signal}")))
            }
            _ => Err(LoadError::internal(format!("the compiler failed: {said}"))),
        }
    }
}

/// Logs what compilers could not give up, for the first of them: it is the same for all.
fn tell_once(kept: &str) {
    static TOLD: Once = Once::new();
    if kept.is_empty() {
        return;
    }
    TOLD.call_once(|| {
        for what in kept.lines() {
            tracing::warn!(what, "the compiler keeps what it does not need");
        }
    });
}

/// Sends a compiler its component and waits for its end. Returns what it could not give up, and its
/// error.
async fn attend(child: &mut Child, component: &[u8]) -> io::Result<(ExitStatus, String, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin
            // A compiler that ends early says why; a failed write adds nothing.
            && let Err(error) = stdin.write_all(component).await
        {
            tracing::debug!(%error, "the compiler did not read all of a component");
        }
    };
    let ((), kept, words, status) =
        tokio::join!(feed, listen(stdout), listen(stderr), child.wait());
    Ok((status?, kept?, words?))
}

/// The output of a process, up to a limit.
async fn listen(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut words = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(WORDS).read_to_end(&mut words).await?;
        // More output must not block the process.
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&words).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_compiler_has_its_sentence() {
        let process = CompileProcess {
            memory: 256 << 20,
            time: Duration::from_secs(1),
            ..CompileProcess::new(PathBuf::new(), Vec::new())
        };
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let signal = ExitStatus::from_raw;
        assert!(process.judge(exit(0), "").is_ok());
        for (status, words, sentence) in [
            (
                signal(24),
                "",
                "compiling this component took longer than 1s: make its functions smaller or fewer",
            ),
            (
                signal(6),
                "memory allocation of 4096 bytes failed",
                "compiling this component needed more than 256 MiB of memory: make its functions smaller or fewer",
            ),
            (
                signal(6),
                "\nthread 'main' has overflowed its stack\nfatal runtime error",
                "this component cannot be compiled: it nests deeper than the compiler can follow",
            ),
            (exit(apart::REFUSED), "a reason\n", "this component cannot be compiled: a reason"),
            (
                exit(apart::PANICKED),
                "thread 'main' panicked at x.rs:1",
                "this component cannot be compiled: the compiler fails on it, which is a fault of the compiler",
            ),
            (signal(9), "", "the plugin could not be loaded: the compiler was ended by signal 9"),
            (
                exit(2),
                "usage: ...",
                "the plugin could not be loaded: the compiler failed: usage: ...",
            ),
        ] {
            assert_eq!(process.judge(status, words).unwrap_err().to_string(), sentence);
        }
    }
}
