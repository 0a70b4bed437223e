//! How quickly plugins go live, what a swap costs the tasks that run beside it, and how far attacks
//! reach. It prints figures and judges nothing.
//!
//! `cargo bench --workspace --bench plugins -- live swap attacks` on servers of its
//! own; without names, all of them. Names beside `attacks` choose among the attacks: `attacks
//! memory recursion`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs
)]

mod attacks;
#[path = "../../tests/fleet/bed.rs"]
mod bed;
#[path = "../../tests/common/binary.rs"]
mod binary;
mod latency;
mod live;
#[path = "../../tests/fleet/node.rs"]
mod node;
mod swap;

const PARTS: [&str; 3] = ["live", "swap", "attacks"];

fn main() {
    // Cargo adds flags of its own.
    let named: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_chosen = |name: &str| named.is_empty() || named.iter().any(|other| other == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if is_chosen("live") {
            live::measure().await;
        }
        if is_chosen("swap") {
            swap::measure().await;
        }
        if is_chosen("attacks") {
            let options = named.iter().filter(|name| !PARTS.contains(&name.as_str()));
            attacks::measure(&options.map(String::as_str).collect::<Vec<_>>()).await;
        }
    });
}
