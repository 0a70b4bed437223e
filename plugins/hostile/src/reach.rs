//! Asking for what a sandbox does not have.

use std::{env, fs, io::Read, net::TcpStream};

use serde_json::{Value, json};
use taskforge_sdk::{Failure, OrFail};

/// What there is to see without asking for anything.
#[must_use]
pub fn environment() -> Value {
    let variables: Vec<_> = env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    let arguments: Vec<_> = env::args_os()
        .map(|text| text.to_string_lossy().into_owned())
        .collect();
    let mut input = Vec::new();
    let stdin = std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| error.to_string());
    let root = fs::read_dir("/")
        .map(Iterator::count)
        .map_err(|error| error.to_string());
    json!({ "variables": variables, "arguments": arguments, "stdin": stdin, "root": root })
}

/// Opens a file.
///
/// # Errors
/// A permanent failure with the system's reason.
pub fn read_file(path: &str) -> Result<Value, Failure> {
    let bytes = fs::read(path).or_permanent().context(path)?;
    Ok(json!({ "bytes": bytes.len() }))
}

/// Opens a raw TCP connection.
///
/// # Errors
/// A permanent failure with the system's reason.
pub fn connect(address: &str) -> Result<Value, Failure> {
    TcpStream::connect(address).or_permanent().context(address)?;
    Ok(json!({ "connected": address }))
}
