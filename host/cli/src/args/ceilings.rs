//! The most that the limits of plugins may be on this host.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use taskforge_domain::Limits;

/// Ceilings of the limits that whoever pushes a plugin may set.
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

    /// The most handles open at once [default: 1000000]
    #[arg(long, env = "TASKFORGE_MAX_HANDLES", value_name = "N")]
    pub(crate) max_handles: Option<u32>,

    /// The call stack that every attempt has [default: 1 MiB]
    #[arg(long, env = "TASKFORGE_MAX_STACK", value_name = "SIZE", value_parser = stack)]
    pub(crate) max_stack: Option<ByteSize>,

    /// The most elements of tables [default: 1000000]
    #[arg(long, env = "TASKFORGE_MAX_TABLE_ELEMENTS", value_name = "N")]
    pub(crate) max_table_elements: Option<u64>,

    /// The most core instances of a component [default: 1000]
    #[arg(long, env = "TASKFORGE_MAX_INSTANCES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_instances: Option<u32>,

    /// The most memories of a component. Address space is reserved for all of them, 4 GiB each, for
    /// as many attempts as may run [default: 16]
    #[arg(long, env = "TASKFORGE_MAX_MEMORIES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_memories: Option<u32>,

    /// The most tables of a component [default: 64]
    #[arg(long, env = "TASKFORGE_MAX_TABLES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tables: Option<u32>,

    /// The most HTTP requests [default: 10000]
    #[arg(long, env = "TASKFORGE_MAX_HTTP_REQUESTS", value_name = "N")]
    pub(crate) max_http_requests: Option<u32>,

    /// The most bytes of HTTP bodies, in each direction [default: 1 GiB]
    #[arg(long, env = "TASKFORGE_MAX_HTTP_BYTES", value_name = "SIZE")]
    pub(crate) max_http_bytes: Option<ByteSize>,

    /// The most e-mails of one attempt [default: 10000]
    #[arg(long, env = "TASKFORGE_MAX_MAILS", value_name = "N")]
    pub(crate) max_mails: Option<u32>,

    /// The most bytes of e-mail of one attempt [default: 256 MiB]
    #[arg(long, env = "TASKFORGE_MAX_MAIL_BYTES", value_name = "SIZE")]
    pub(crate) max_mail_bytes: Option<ByteSize>,

    /// The most e-mails of one version in an hour [default: 100000]
    #[arg(long, env = "TASKFORGE_MAX_MAILS_PER_HOUR", value_name = "N")]
    pub(crate) max_mails_per_hour: Option<u32>,

    /// The most bytes of e-mail of one version in an hour [default: 4 GiB]
    #[arg(long, env = "TASKFORGE_MAX_MAIL_BYTES_PER_HOUR", value_name = "SIZE")]
    pub(crate) max_mail_bytes_per_hour: Option<ByteSize>,
}

/// Stacks that a fibre can have and a handler can do something with.
fn stack(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if (ByteSize::kib(64)..=ByteSize::mib(256)).contains(&size) {
        Ok(size)
    } else {
        Err("from 64 KiB to 256 MiB".to_owned())
    }
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
            handles: self.max_handles.unwrap_or(default.handles),
            stack: size(self.max_stack, default.stack),
            table_elements: self.max_table_elements.unwrap_or(default.table_elements),
            instances: self.max_instances.unwrap_or(default.instances),
            memories: self.max_memories.unwrap_or(default.memories),
            tables: self.max_tables.unwrap_or(default.tables),
            http_requests: self.max_http_requests.unwrap_or(default.http_requests),
            http_bytes: size(self.max_http_bytes, default.http_bytes),
            mails: self.max_mails.unwrap_or(default.mails),
            mail_bytes: size(self.max_mail_bytes, default.mail_bytes),
            mails_per_hour: self.max_mails_per_hour.unwrap_or(default.mails_per_hour),
            mail_bytes_per_hour: size(self.max_mail_bytes_per_hour, default.mail_bytes_per_hour),
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
            "--max-stack=4 MiB",
            "--max-instances=7",
        ]);
        let expected = Limits {
            log: 1 << 20,
            deadline: Duration::from_secs(3600),
            fuel: 5,
            stack: 4 << 20,
            instances: 7,
            ..Limits::ceilings()
        };
        assert_eq!(set.ceilings.ceilings(), expected);
    }

    #[test]
    fn a_stack_that_no_fibre_can_have_is_refused() {
        for (text, good) in
            [("1 KiB", false), ("64 KiB", true), ("256 MiB", true), ("1 GiB", false)]
        {
            let set = Only::try_parse_from(["taskforge", "--max-stack", text]);
            assert_eq!(set.is_ok(), good, "{text}");
        }
        assert!(Only::try_parse_from(["taskforge", "--max-tables=0"]).is_err());
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
            default.handles.to_string(),
            ByteSize(default.stack).to_string(),
            default.table_elements.to_string(),
            default.instances.to_string(),
            default.memories.to_string(),
            default.tables.to_string(),
            default.http_requests.to_string(),
            ByteSize(default.http_bytes).to_string(),
            default.mails.to_string(),
            ByteSize(default.mail_bytes).to_string(),
            default.mails_per_hour.to_string(),
            ByteSize(default.mail_bytes_per_hour).to_string(),
        ] {
            let stated = stated.replace(".0 ", " ");
            assert!(help.contains(&format!("[default: {stated}]")), "{stated}: {help}");
        }
    }
}
