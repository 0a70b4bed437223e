//! The table of host functions against what the linker offers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use wasmtime::component::Linker;
use wit_parser::Resolve;

use super::HostState;

/// An interface and a function, as the table writes them.
type Named = (String, String);

/// This machine's triple: what is for other platforms only need not be there.
fn platform() -> String {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(rustc.stdout).unwrap();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

/// The folders of the crates whose WIT the bindings are made from.
fn sources() -> Vec<PathBuf> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .args(["--filter-platform", &platform()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let folder = |name: &str| {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        manifest.parent().unwrap().to_owned()
    };
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    vec![
        folder("wasmtime-wasi").join("src/p2/wit"),
        folder("wasmtime-wasi-http").join("wit"),
        own.join("../../wit"),
        own.join("wit"),
    ]
}

/// Every function that any of the packages knows, by the linker's names.
fn known() -> BTreeSet<Named> {
    let mut known = BTreeSet::new();
    for source in sources() {
        let mut resolve = Resolve::default();
        resolve.push_dir(&source).unwrap();
        for (_, interface) in &resolve.interfaces {
            let (Some(name), Some(package)) = (&interface.name, interface.package) else {
                continue;
            };
            let name = resolve.packages[package].name.interface_id(name);
            known.extend(
                interface.functions.keys().map(|function| (name.clone(), function.clone())),
            );
        }
    }
    // Other names of an interface that is known.
    for other in super::config::DRAFTS {
        known.extend(["get", "get-all"].map(|function| (other.to_owned(), function.to_owned())));
    }
    known
}

/// Whether the linker has such a function: then no other can be put there.
fn offers(linker: &mut Linker<HostState>, (interface, function): &Named) -> bool {
    let mut instance = linker.instance(interface).unwrap();
    instance.func_wrap(function, |_, (): ()| Ok(())).is_err()
}

/// The version of WASI goes without saying, and so does what kind of function it is.
fn written((interface, function): &Named) -> Named {
    let interface = ["@0.2.12", "@0.1.0-draft", "@0.1.0"]
        .iter()
        .find_map(|version| interface.strip_suffix(version))
        .unwrap_or(interface);
    let function = match function.strip_prefix("[constructor]") {
        Some(resource) => format!("{resource}.constructor"),
        None => function.trim_start_matches("[method]").trim_start_matches("[static]").to_owned(),
    };
    (interface.to_owned(), function)
}

fn table() -> Vec<Named> {
    let page = include_str!("../../../../docs/host-functions.md");
    let names = |cell: &str| -> Vec<String> {
        cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect()
    };
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            let cells: Vec<_> = line.split('|').collect();
            let (interface, functions) = (names(cells[1]).remove(0), names(cells[2]));
            assert!(!cells[3].trim().is_empty(), "{line} does not say what it may hold");
            functions.into_iter().map(move |function| (interface.clone(), function))
        })
        .collect()
}

#[test]
fn every_host_function_has_a_row() {
    let engine = wasmtime::Engine::default();
    let mut linker = Linker::new(&engine);
    super::link(&mut linker).unwrap();
    let offered: BTreeSet<_> =
        known().iter().filter(|named| offers(&mut linker, named)).map(written).collect();
    assert!(offered.len() > 150, "only {} functions were found: {offered:?}", offered.len());
    let rows = table();
    let listed: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), listed.len(), "a function has two rows");
    let without: Vec<_> = offered.difference(&listed).collect();
    assert!(without.is_empty(), "no row in docs/host-functions.md: {without:?}");
    let gone: Vec<_> = listed.difference(&offered).collect();
    assert!(gone.is_empty(), "rows for functions that are not there: {gone:?}");
}
