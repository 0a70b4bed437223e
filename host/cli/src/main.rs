//! The binary `taskforge`: parses, wires the crates together, starts roles.
//!
//! | file | the concept |
//! |---|---|
//! | [`args`] | every flag and variable, and its help |
//! | [`dev`] | all roles in one process, on embedded stores |
//! | [`stack`] | the wiring of one process: store, broker, sandbox, workers, sweeper, API |
//! | [`serve`], [`worker`] | the roles of a fleet |
//! | [`fleet`] | what they share: the database, and the broker before it |
//! | [`migrate`] | the fleet's database: its schema, and what is forgotten |
//! | [`health`] | whether a process can do its work |
//! | [`external`] | task types that have no component |
//! | [`signals`] | SIGTERM and Ctrl-C |
//! | [`plugin_folder`] | where the folder with plugins is, and their settings files |
//! | [`registry`] | the registry's side of a process |
//! | [`task`], [`dlq`], [`queue`] | the client commands, over HTTP |
//! | [`plugin`] | running and inspecting a component without a server |
//! | [`compile`] | the process that a host starts to compile one component |
//! | [`demo`] | a load with progress bars and a summary |
//! | [`bench`] | a fleet, measured beside the ceiling of bare SQL |
//! | [`client`], [`answer`] | the HTTP client and its errors; what a server answers, number for number |
//! | [`exit`] | exit codes, and errors for people and for programs |
//! | [`address`] | addresses as people type them, and default ports that are taken |
//! | [`waiting`] | what a person who waits is told |
//! | [`confirm`] | commands that delete say how much, and ask |
//! | [`output`] | tables for people, JSON for programs; the one place that prints |
//! | [`data_folder`] | the folder of a role, closed to others, with the key and the address in it |
//! | [`authorities`] | the certificate authorities that are believed |
//! | [`descriptors`] | how many files and connections the process may have open |
//! | [`allocator`] | what the process does with memory that is free |

mod address;
mod allocator;
mod answer;
mod args;
mod authorities;
mod bench;
mod client;
mod compile;
mod confirm;
mod data_folder;
mod demo;
mod descriptors;
mod dev;
mod dlq;
mod exit;
mod external;
mod fleet;
mod health;
mod logging;
mod mailers;
mod migrate;
mod output;
mod plugin;
mod plugin_folder;
mod queue;
mod registry;
mod serve;
mod signals;
mod stack;
mod task;
mod waiting;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::{
    args::{Cli, Command},
    signals::Interrupted,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error)
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") =>
        {
            return exit::tell_usage(&error.render().to_string());
        }
        // Help, the version, or what is wrong, for people.
        Err(error) => error.exit(),
    };
    logging::init(
        &cli.logging,
        matches!(cli.command, Command::Dev(_) | Command::Serve(_) | Command::Worker(_)),
    );
    if let Command::CompileComponent(args) = &cli.command {
        return compile::run(args);
    }
    allocator::purge_in_background();
    // Two cryptography providers can be compiled in; this is the one that the whole process uses.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a cryptography provider was installed already");
    }
    authorities::set(cli.ca_file.clone());
    if matches!(cli.command, Command::Dev(_) | Command::Serve(_) | Command::Worker(_)) {
        authorities::warn_of_proxies();
    }
    let as_json = cli.json;
    if as_json {
        output::leave_asides_out();
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => exit::tell_interrupt(&error, as_json),
        Err(error) => {
            tracing::debug!(?error, "failed");
            exit::tell(&error, as_json)
        }
    }
}

/// The script that completes this program's commands in a shell.
fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskforge", &mut script);
    output::raw(&script);
    ExitCode::SUCCESS
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(*args).await,
            Command::Serve(args) => serve::run(*args).await,
            Command::Worker(args) => worker::run(*args).await,
            Command::Migrate(args) => migrate::run(args, cli.json).await,
            Command::Health(args) => health::run(args).await,
            Command::Db(args) => migrate::db(args, cli.json).await,
            Command::Task(args) => task::run(args, cli.json).await,
            Command::Dlq(args) => dlq::run(args, cli.json).await,
            Command::Queue(args) => queue::run(args, cli.json).await,
            Command::Plugin(args) => plugin::run(args, cli.json).await,
            Command::Demo(args) => demo::run(args, cli.json).await,
            Command::Bench(args) => bench::run(*args, cli.json).await,
            Command::Completions { shell } => Ok(completions(shell)),
            Command::CompileComponent(args) => Ok(compile::run(&args)),
        }
    });
    // A compilation or a name look-up on the blocking pool is no reason to stay.
    runtime.shutdown_background();
    result
}
