//! A compilation apart, as the process does it that was started for it.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use rustix::process::Resource;

use crate::{
    chunks,
    confinement::{self, lower},
    engine,
    threads::processors::Share,
};

/// The exit code when a component cannot be compiled; the reason is printed.
pub(super) const REFUSED: i32 = 65;

/// The exit code that Rust gives to a panic.
pub(super) const PANICKED: i32 = 101;

/// The exit code of a compiler that could not begin.
const FAILED: u8 = 70;

/// Address space that the program takes before it allocates anything.
const PROGRAM: u64 = 1 << 30;

/// The job of a compiler process.
#[derive(Debug, Clone)]
pub struct CompileJob {
    /// An existing file for the code.
    pub output: PathBuf,
    /// The memory that may be allocated, in bytes.
    pub memory: u64,
    /// The CPU time that may be used, in seconds.
    pub seconds: u64,
    /// The fingerprint of the engine that will run the code.
    pub fingerprint: String,
}

impl CompileJob {
    /// The job as arguments: `--output FILE --memory BYTES --seconds N --fingerprint TEXT`.
    pub(super) fn args(self) -> Vec<OsString> {
        vec![
            "--output".into(),
            self.output.into(),
            "--memory".into(),
            self.memory.to_string().into(),
            "--seconds".into(),
            self.seconds.to_string().into(),
            "--fingerprint".into(),
            self.fingerprint.into(),
        ]
    }

    /// Limits itself, for good, to what the compilation may use.
    fn confine(&self) -> io::Result<()> {
        // The lowest priority of all, so that a compilation gets only what attempts leave. Where
        // this is forbidden the compilation goes on all the same. It prints nothing, because the
        // first line of output is taken for the reason of a failure.
        Share::of_this_thread().confine().ok();
        // No core dumps: a crash on a stranger's file must not fill the disk.
        lower(Resource::Core, 0, 0)?;
        lower(Resource::Cpu, self.seconds, self.seconds + 1)?;
        // Bounds allocations of all kinds. The bound on address space is for kernels that do not
        // count those.
        lower(Resource::Data, self.memory, self.memory)?;
        let space = self.memory.saturating_add(PROGRAM);
        lower(Resource::As, space, space)?;
        lower(Resource::Fsize, self.memory, self.memory)
    }
}

/// Compiles the component in `input` under limits that the process cannot lift again. Writes one
/// line to `errors` if that fails, and a line to `output` for each thing that it could not give up.
/// For a process that does nothing else, has one thread and has opened nothing.
pub fn compile_apart(
    job: &CompileJob,
    input: &mut impl Read,
    output: &mut impl Write,
    errors: &mut impl Write,
) -> ExitCode {
    let (code, reason) = match compile(job, input, output) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Ending::Refused(reason)) => (u8::try_from(REFUSED).unwrap_or(FAILED), reason),
        Err(Ending::Failed(reason)) => (FAILED, reason),
    };
    let line: Vec<_> = reason.split_whitespace().collect();
    match writeln!(errors, "{}", line.join(" ")) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::FAILURE,
    }
}

enum Ending {
    Refused(String),
    Failed(String),
}

fn compile(job: &CompileJob, input: &mut impl Read, output: &mut impl Write) -> Result<(), Ending> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Ending::Failed(format!("{what}: {error}"));
    job.confine().map_err(|error| failed("its limits cannot be set", &error))?;
    let mut kept = confinement::before_reading();
    let mut component = Vec::new();
    input
        .read_to_end(&mut component)
        .map_err(|error| failed("the component cannot be read", &error))?;
    let engine = engine::compiling().map_err(|error| failed("the engine cannot start", &error))?;
    if engine::fingerprint(&engine) != job.fingerprint {
        return Err(Ending::Failed("it is of another version than the host".to_owned()));
    }
    // Never created: if the file is gone, nobody waits for the code. Opened before anything parses
    // the component, because nothing can be opened after that.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&job.output)
        .map_err(|error| failed("the code cannot be written", &error))?;
    kept.extend(confinement::before_compiling());
    for what in kept {
        writeln!(output, "{what}").map_err(|error| failed("its host does not listen", &error))?;
    }
    let code = chunks::precompile(&engine, &component)
        .map_err(|error| Ending::Refused(format!("{error:#}")))?;
    file.write_all(&code).map_err(|error| failed("the code cannot be written", &error))
}
