//! A WASI command: a plain `main` that knows nothing of TaskForge. The input says what it is to do.

#![allow(clippy::print_stdout, reason = "standard output is a command's output")]
#![allow(clippy::panic, reason = "that is one of the things that it is told to do")]

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    process,
};

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// Says what it was given.
    Echo { value: Value },
    /// Says nothing.
    Nothing,
    /// Prints a text as it is.
    Print { text: String },
    /// Prints so many bytes.
    Flood { bytes: usize },
    /// Complains on standard error and exits.
    Exit { code: i32, complaint: String },
    /// Prints a text and aborts, as TinyGo's programs do when they panic.
    Abort { text: String },
    /// Returns an error from `main`.
    Fail,
    /// Panics.
    Panic,
    /// Never ends.
    Loop,
    /// Returns the standard error of so many lines, and an output.
    Chat { lines: u32 },
}

fn main() -> Result<(), String> {
    let input = io::read_to_string(io::stdin()).map_err(|error| error.to_string())?;
    match serde_json::from_str(&input).map_err(|error| error.to_string())? {
        Order::Echo { value } => {
            let variables: BTreeMap<String, String> = env::vars().collect();
            let arguments: Vec<String> = env::args().collect();
            let output = json!({ "value": value, "input": input, "variables": variables, "arguments": arguments });
            println!("{output}");
        }
        Order::Nothing => {}
        Order::Print { text } => print!("{text}"),
        Order::Flood { bytes } => flood(bytes).map_err(|error| error.to_string())?,
        Order::Exit { code, complaint } => {
            eprintln!("{complaint}");
            process::exit(code);
        }
        Order::Abort { text } => {
            print!("{text}");
            io::stdout().flush().map_err(|error| error.to_string())?;
            process::abort();
        }
        Order::Fail => return Err("it did not work out".to_owned()),
        Order::Panic => panic!("on purpose"),
        Order::Loop => loop {
            std::hint::spin_loop();
        },
        Order::Chat { lines } => {
            for line in 0..lines {
                eprintln!("line {line}");
            }
            println!("{lines}");
        }
    }
    io::stdout().flush().map_err(|error| error.to_string())
}

fn flood(bytes: usize) -> io::Result<()> {
    let piece = [b' '; 4096];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        io::stdout().write_all(&piece[..now])?;
        left -= now;
    }
    Ok(())
}
