//! Plugins: run and inspected here without a server, and in the other files below pushed to one and
//! steered there.

mod inspect;
mod push;
mod rollout;
mod run;
mod sandbox;
mod secret;
mod show;
mod sign;
mod view;

use std::process::ExitCode;

use crate::args::PluginCommand;

pub(crate) async fn run(command: PluginCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::Run(args) => run::run(*args, json).await,
        PluginCommand::Inspect(args) => inspect::describe(args, json).await,
        command => on_server(command, json).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn on_server(command: PluginCommand, json: bool) -> anyhow::Result<()> {
    match command {
        // Handled above.
        PluginCommand::Run(_) | PluginCommand::Inspect(_) => Ok(()),
        PluginCommand::Push(args) => push::push(*args, json).await,
        PluginCommand::List(args) => show::list(args, json).await,
        PluginCommand::Show(args) => show::plugin(args, json).await,
        PluginCommand::Versions(args) => show::versions(args, json).await,
        PluginCommand::Events(args) => show::events(args, json).await,
        PluginCommand::Advise(args) => show::advice(args, json).await,
        PluginCommand::Activate(args) => rollout::activate(args, json).await,
        PluginCommand::Rollback(args) => rollout::steer(args, "rollback", json).await,
        PluginCommand::Pause(args) => rollout::steer(args, "pause", json).await,
        PluginCommand::Resume(args) => rollout::steer(args, "resume", json).await,
        PluginCommand::Canary(args) => rollout::start_canary(args, json).await,
        PluginCommand::CanaryStop(args) => rollout::stop_canary(args, json).await,
        PluginCommand::Retire(args) => rollout::retire(args, json).await,
        PluginCommand::Settings(args) => push::settings(args, json).await,
        PluginCommand::Secret(command) => secret::run(command, json).await,
        PluginCommand::Keygen(args) => sign::keygen(&args, json),
        PluginCommand::Sign(args) => sign::sign(*args, json).await,
        PluginCommand::Attach(args) => sign::attach(args, json).await,
        PluginCommand::Prune(args) => rollout::prune(args, json).await,
    }
}
