//! The binary under test.

use std::process::Command;

/// `taskforge`, without the developer's own settings, with the built-in plugins and the cache that
/// all tests share.
pub(crate) fn taskforge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskforge"));
    let ours = |name: &str| {
        name.starts_with("TASKFORGE_") || ["DATABASE_URL", "REDIS_URL"].contains(&name)
    };
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    let plugins = taskforge_testing::guests::folder();
    // Each component is compiled once for all tests; the sandbox's own tests are about the cache.
    command.env("TASKFORGE_CACHE_DIR", plugins.with_file_name("test-cache"));
    command.env("TASKFORGE_PLUGINS", plugins);
    command
}
