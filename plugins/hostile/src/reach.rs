//! Asking for what a sandbox does not have.

use std::{env, fs, io::Read, net::TcpStream};

use serde_json::{Value, json};
use taskforge_sdk::{Failure, OrFail};

/// What there is to see without asking for anything.
#[must_use]
pub fn environment() -> Value {
    let variables: Vec<_> =
        env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let arguments: Vec<_> =
        env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let mut input = Vec::new();
    let stdin = std::io::stdin().read_to_end(&mut input).map_err(|error| error.to_string());
    let root = fs::read_dir("/").map(Iterator::count).map_err(|error| error.to_string());
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

/// What is at no address. Everything here traps.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "going where nothing is cannot be written otherwise")]
pub mod nowhere {
    use std::{hint::black_box, mem::transmute, process::abort};

    /// Reads a byte beyond the end of the memory.
    pub fn read() -> ! {
        let address = black_box(0x8000_0000_usize) as *const u8;
        // SAFETY: the engine checks each address and ends the instance at this one.
        black_box(unsafe { address.read_volatile() });
        abort()
    }

    /// Calls what the table of functions has no room for.
    pub fn call() -> ! {
        // SAFETY: the engine checks each index into the table and ends the instance at this one.
        let function = unsafe { transmute::<usize, fn()>(black_box(0x7fff_ffff)) };
        function();
        abort()
    }
}

/// Outside a component there is no engine that would check.
#[cfg(not(target_family = "wasm"))]
pub mod nowhere {
    /// Aborts.
    pub fn read() -> ! {
        std::process::abort()
    }

    /// Aborts.
    pub fn call() -> ! {
        std::process::abort()
    }
}
