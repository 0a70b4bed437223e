//! Finds compiled plugins and hand-written components.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Names the folder that holds the plugins, for a build that keeps them elsewhere.
pub const FOLDER_VARIABLE: &str = "TASKFORGE_TEST_PLUGINS";

/// Where a plugin's component lies: `NAME.wasm` in `plugins/` (what ships) or `plugins-test/`
/// (attacks) of the target folder that the running test was built into.
///
/// # Panics
/// When there is none, with the command that makes it.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let file = format!("{name}.wasm");
    let tried = folders().into_iter().map(|folder| folder.join(&file)).find(|path| path.is_file());
    tried.unwrap_or_else(|| panic!("{file} is not built: run `make test-plugins` first"))
}

/// A plugin's component.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

/// The `fibonacci` plugin under another name and version, which it gives as its own: as many
/// different plugins as a test wants, without building any. The texts stand side by side in the
/// component and are overwritten, so each must be as long as what it replaces: `fibonacci` and
/// `0.1.0`.
///
/// # Panics
/// When it is not, or the plugin's own name and version are not found.
#[must_use]
pub fn variant(name: &str, version: &str) -> Vec<u8> {
    let (old, new) = ("fibonacci0.1.0", format!("{name}{version}"));
    assert_eq!((name.len(), version.len()), (9, 5), "{new} must be as long as {old}");
    let mut component = bytes("fibonacci");
    let place = component
        .windows(old.len())
        .position(|window| window == old.as_bytes())
        .expect("the plugin's name and version stand in its component");
    component[place..place + old.len()].copy_from_slice(new.as_bytes());
    component
}

/// The folder with the plugins that ship, settings files included.
///
/// # Panics
/// When they are not built.
#[must_use]
pub fn folder() -> PathBuf {
    path("fibonacci").parent().unwrap().to_path_buf()
}

/// A hand-written component's text: `NAME.wat` of `plugins/hostile/wat/`.
///
/// # Panics
/// When there is no such file.
#[must_use]
pub fn wat(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/hostile/wat");
    let path = folder.join(format!("{name}.wat"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
        return vec![PathBuf::from(folder)];
    }
    // target/debug/deps/test-0123 looks in target/debug/deps/plugins, target/debug/plugins,
    // target/plugins, …
    let test = env::current_exe().unwrap();
    test.ancestors()
        .skip(1)
        .flat_map(|folder| [folder.join("plugins"), folder.join("plugins-test")])
        .collect()
}
