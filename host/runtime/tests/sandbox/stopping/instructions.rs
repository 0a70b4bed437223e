//! What a component does without the host: bulk memory, tables, growth, its own beginning and end.

use std::fmt::Write as _;

use serde_json::json;
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::Invoked;

use super::{DEADLINE, best, broken};
use crate::bed::Bed;

/// A command of one core module, whose `run` does this until it is stopped.
fn command(fields: &str, body: &str) -> String {
    format!(
        r#"(component
          (core module $m {fields}
            (func (export "run") (result i32) (loop $again {body} (br $again)) unreachable))
          (core instance $i (instantiate $m))
          {RUN})"#
    )
}

/// The export of a command, from the core instance `$i`.
const RUN: &str = r#"(func $run (result (result)) (canon lift (core func $i "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.12" (instance $command))"#;

/// Nearly a gigabyte, which is what an attempt may have, and half of that.
const LARGE: u32 = 16_000 << 16;
const HALF: u32 = LARGE / 2;

/// A command that begins with a data segment of 16 MiB whose place only an instance knows, and with
/// a thousand tables' worth of elements.
fn slow_start() -> String {
    let mut elements = String::new();
    for _ in 0..1000 {
        write!(elements, "(elem (i32.const 0) func {})", "$f ".repeat(100)).unwrap();
    }
    format!(
        r#"(component
          (core module $place (global (export "base") i32 (i32.const 65536)) (memory (export "memory") 1024))
          (core instance $p (instantiate $place))
          (core module $m
            (import "place" "base" (global $base i32)) (import "place" "memory" (memory 1024))
            (table 100 funcref) (func $f) {elements}
            (data (global.get $base) "{data}")
            (func (export "run") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m (with "place" (instance $p))))
          {RUN})"#,
        data = "abcdefgh".repeat(2 << 20),
    )
}

fn attacks() -> Vec<(&'static str, String)> {
    let filled = |fields: &str, body: String| command(fields, &body);
    let large = "(memory 16000)";
    vec![
        (
            "memory.fill",
            filled(large, format!("(memory.fill (i32.const 0) (i32.const 1) (i32.const {LARGE}))")),
        ),
        (
            "memory.copy forwards",
            filled(large, format!("(memory.copy (i32.const 0) (i32.const 4096) (i32.const {HALF}))")),
        ),
        (
            "memory.copy backwards",
            filled(large, format!("(memory.copy (i32.const 4096) (i32.const 0) (i32.const {HALF}))")),
        ),
        (
            "memory.copy between memories",
            filled(
                "(memory $a 8000) (memory $b 8000)",
                "(memory.copy $a $b (i32.const 0) (i32.const 0) (i32.const 524288000))".to_owned(),
            ),
        ),
        (
            "memory.init",
            filled(
                &format!("(memory 1024) (data $d \"{}\")", "abcdefgh".repeat(2 << 20)),
                "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 16777216))".to_owned(),
            ),
        ),
        (
            "the first touch of each page",
            filled(
                "(memory 16000) (global $at (mut i32) (i32.const 0))",
                "(i32.store (global.get $at) (i32.const 1))
                 (global.set $at (i32.rem_u (i32.add (global.get $at) (i32.const 4096)) (i32.const 1048576000)))"
                    .to_owned(),
            ),
        ),
        (
            "the first touch of pages by code without a loop",
            filled(
                "(memory 16000)",
                (0..LARGE / 4096).fold(String::new(), |mut code, page| {
                    write!(code, "(i32.store (i32.const {}) (i32.const 1))", page * 4096).unwrap();
                    code
                }),
            ),
        ),
        (
            "memory.grow by a page",
            filled("(memory 0)", "(drop (memory.grow (i32.const 1)))".to_owned()),
        ),
        (
            "memory.grow by a gigabyte",
            filled("(memory 0)", "(drop (memory.grow (i32.const 16384)))".to_owned()),
        ),
        (
            "table.grow",
            filled("(table 0 funcref)", "(drop (table.grow (ref.null func) (i32.const 99000)))".to_owned()),
        ),
        (
            "table.fill",
            filled(
                "(table 99000 funcref) (elem declare func $f) (func $f)",
                "(table.fill (i32.const 0) (ref.func $f) (i32.const 99000))".to_owned(),
            ),
        ),
        (
            "table.copy",
            filled(
                "(table 99000 funcref)",
                "(table.copy (i32.const 1) (i32.const 0) (i32.const 98000))".to_owned(),
            ),
        ),
        (
            "table.init",
            filled(
                &format!("(table 99000 funcref) (func $f) (elem $e func {})", "$f ".repeat(90_000)),
                "(table.init $e (i32.const 0) (i32.const 0) (i32.const 90000))".to_owned(),
            ),
        ),
        (
            "recursion",
            filled("(func $f (call $f) (call $f))", "(call $f)".to_owned()),
        ),
        ("a slow start", slow_start()),
    ]
}

fn is_late(invoked: &Invoked) -> bool {
    matches!(&invoked.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Deadline)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_instruction_holds_a_thread() {
    let bed = Bed::new().await;
    let limits = json!({
        "memory": "1 GiB", "fuel": u64::MAX >> 2, "deadline": format!("{}ms", DEADLINE.as_millis()),
    });
    let mut all = Vec::new();
    for (name, text) in attacks() {
        let component = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let plugin = bed.shaped(component, json!({"limits": limits})).await;
        let invoked = best(&bed, &plugin, json!(null)).await;
        println!("{name}: {:?} {:?}", invoked.effort, invoked.outcome);
        let ends_by_itself = ["recursion", "a slow start"].contains(&name);
        assert!(ends_by_itself || is_late(&invoked), "{name}: {:?}", invoked.outcome);
        all.extend(broken(name, &invoked));
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// A component in which one part hands another a string of so many bytes, which the engine's own
/// code carries over in UTF-16.
fn transcoding(bytes: u32) -> String {
    format!(
        r#"(component
          (component $taker
            (core module $m (memory (export "memory") 600)
              (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
              (func (export "take") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "take") (param "text" string)
              (canon lift (core func $i "take") (memory (core memory $i "memory"))
                (realloc (core func $i "realloc")) string-encoding=utf16)))
          (component $giver
            (import "take" (func $take (param "text" string)))
            (core module $libc (memory (export "memory") 600))
            (core instance $l (instantiate $libc))
            (core func $lowered (canon lower (func $take) (memory (core memory $l "memory"))))
            (core module $m (import "t" "take" (func $take (param i32 i32)))
              (func (export "run") (result i32)
                (loop $again (call $take (i32.const 0) (i32.const {bytes})) (br $again)) unreachable))
            (core instance $i (instantiate $m (with "t" (instance (export "take" (func $lowered))))))
            (func (export "run") (result (result)) (canon lift (core func $i "run"))))
          (instance $t (instantiate $taker))
          (instance $g (instantiate $giver (with "take" (func $t "take"))))
          (instance $command (export "run" (func $g "run")))
          (export "wasi:cli/run@0.2.12" (instance $command)))"#
    )
}

/// The figure in `docs/security.md` under "What is not protected".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_string_between_parts_of_a_component_is_carried_over_whole() {
    let bed = Bed::new().await;
    let limits = json!({
        "memory": "128 MiB", "fuel": u64::MAX >> 2, "deadline": format!("{}ms", DEADLINE.as_millis()),
    });
    let mut took = Vec::new();
    for mebibytes in [1, 16] {
        let component = wat::parse_str(transcoding(mebibytes << 20)).unwrap();
        let plugin = bed.shaped(component, json!({"limits": limits})).await;
        let invoked = best(&bed, &plugin, json!(null)).await;
        println!("{mebibytes} MiB: {:?} {:?}", invoked.effort, invoked.outcome);
        assert!(is_late(&invoked), "{:?}", invoked.outcome);
        took.push(invoked.effort.longest);
    }
    assert!(took[0] <= super::LONGEST, "{took:?}");
}
