//! The process that a host starts to compile one component, under limits that it cannot lift.

use std::{io, process::ExitCode};

use taskforge_runtime::compiler::{CompileJob, compile_apart};

use crate::args::CompileArgs;

/// Runs before any other thread starts, and without the runtime, whose memory would count towards
/// the component's.
pub(crate) fn run(args: &CompileArgs) -> ExitCode {
    let job = CompileJob {
        output: args.output.clone(),
        memory: args.memory,
        seconds: args.seconds,
        fingerprint: args.fingerprint.clone(),
    };
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    compile_apart(&job, &mut input, &mut output, &mut io::stderr().lock())
}
