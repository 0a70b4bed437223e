//! How quickly plugins go live, what a swap costs the tasks that run beside it, and how far attacks
//! reach. Figures, no verdicts.
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
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if is_wanted("live") {
            live::measure().await;
        }
        if is_wanted("swap") {
            swap::measure().await;
        }
        if is_wanted("attacks") {
            let chosen = wanted.iter().filter(|name| !PARTS.contains(&name.as_str()));
            attacks::measure(&chosen.map(String::as_str).collect::<Vec<_>>()).await;
        }
    });
}
