//! The most that the limits of plugins may be on this host.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use taskforge_domain::Limits;

/// Ceilings of the limits that whoever pushes a plugin may set. The counts of instances, memories and tables have fixed
/// ones, by which the pool of instances reserves its address space.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ceilings of plugins' limits")]
pub(crate) struct CeilingArgs {
    /// The most fuel that a plugin's limits may give one attempt [default: 100000000000000]
    #[arg(long, env = "TASKFORGE_MAX_FUEL", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_fuel: Option<u64>,

    /// The most memory: the handler's own and what the host holds for it [default: 1 GiB]
    #[arg(long, env = "TASKFORGE_MAX_MEMORY", value_name = "SIZE")]
    pub(crate) max_memory: Option<ByteSize>,

    /// The latest deadline [default: 1day]
    #[arg(long, env = "TASKFORGE_MAX_DEADLINE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) max_deadline: Option<Duration>,

    /// The largest output [default: 16 MiB]
    #[arg(long, env = "TASKFORGE_MAX_OUTPUT", value_name = "SIZE")]
    pub(crate) max_output: Option<ByteSize>,

    /// The largest log [default: 4 MiB]
    #[arg(long, env = "TASKFORGE_MAX_LOG", value_name = "SIZE")]
    pub(crate) max_log: Option<ByteSize>,

    /// The most calls from the handler to the host [default: 1000000000]
    #[arg(long, env = "TASKFORGE_MAX_HOST_CALLS", value_name = "N")]
    pub(crate) max_host_calls: Option<u64>,

    /// The most HTTP requests [default: 10000]
    #[arg(long, env = "TASKFORGE_MAX_HTTP_REQUESTS", value_name = "N")]
    pub(crate) max_http_requests: Option<u32>,

    /// The most bytes of HTTP bodies, in each direction [default: 1 GiB]
    #[arg(long, env = "TASKFORGE_MAX_HTTP_BYTES", value_name = "SIZE")]
    pub(crate) max_http_bytes: Option<ByteSize>,
}

impl CeilingArgs {
    /// What was set, over the defaults.
    pub(crate) fn ceilings(&self) -> Limits {
        let default = Limits::ceilings();
        let size = |set: Option<ByteSize>, default: u64| set.map_or(default, |size| size.as_u64());
        Limits {
            fuel: self.max_fuel.unwrap_or(default.fuel),
            memory: size(self.max_memory, default.memory),
            deadline: self.max_deadline.unwrap_or(default.deadline),
            output: size(self.max_output, default.output),
            log: size(self.max_log, default.log),
            host_calls: self.max_host_calls.unwrap_or(default.host_calls),
            http_requests: self.max_http_requests.unwrap_or(default.http_requests),
            http_bytes: size(self.max_http_bytes, default.http_bytes),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        ceilings: CeilingArgs,
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let set = Only::parse_from([
            "taskforge",
            "--max-log=1 MiB",
            "--max-deadline=1h",
            "--max-fuel=5",
        ]);
        let expected = Limits {
            log: 1 << 20,
            deadline: Duration::from_secs(3600),
            fuel: 5,
            ..Limits::ceilings()
        };
        assert_eq!(set.ceilings.ceilings(), expected);
    }

    #[test]
    fn the_help_states_the_defaults() {
        let mut help = Vec::new();
        let mut command = <Only as clap::CommandFactory>::command();
        command.write_long_help(&mut help).unwrap();
        let help = String::from_utf8(help).unwrap();
        let default = Limits::ceilings();
        for stated in [
            default.fuel.to_string(),
            ByteSize(default.memory).to_string(),
            humantime::format_duration(default.deadline).to_string(),
            ByteSize(default.output).to_string(),
            ByteSize(default.log).to_string(),
            default.host_calls.to_string(),
            default.http_requests.to_string(),
            ByteSize(default.http_bytes).to_string(),
        ] {
            let stated = stated.replace(".0 ", " ");
            assert!(help.contains(&format!("[default: {stated}]")), "{stated}: {help}");
        }
    }
}
