use wasmtime::{Config, Engine, Instance, Module, Store, Trap, Val};

use super::*;

/// Exports each bulk instruction as a function, over two memories that are exported, and a segment
/// of each kind that is larger than a chunk and than a piece.
fn subject() -> Vec<u8> {
    let data = |byte: u8, length: usize| format!("\\{byte:02x}").repeat(length);
    let passive: String = (0..(CHUNK as usize) + 1000)
        .map(|n| format!("\\{:02x}", (n * 7 + n / 251) % 256))
        .collect();
    let text = format!(
        r#"(module
        (import "host" "base" (global $base i32))
        (memory $a (export "a") 64) (memory $b (export "b") 64)
        (data $first (memory $a) (global.get $base) "{first}")
        (data $passive "{passive}")
        (data $over (memory $a) (i32.const 1048570) "over")
        (func $start i32.const 0 i32.const 0 i32.const 0 memory.init $b $over)
        (start $start)
        (func (export "fill") (param i32 i32 i32)
          local.get 0 local.get 1 local.get 2 memory.fill $a)
        (func (export "copy") (param i32 i32 i32)
          local.get 0 local.get 1 local.get 2 memory.copy $a $a)
        (func (export "across") (param i32 i32 i32)
          local.get 0 local.get 1 local.get 2 memory.copy $b $a)
        (func (export "init") (param i32 i32 i32)
          local.get 0 local.get 1 local.get 2 memory.init $b $passive)
        (func (export "init first") (param i32 i32 i32)
          local.get 0 local.get 1 local.get 2 memory.init $b $first)
        (func (export "small") (param i32 i32 i32)
          local.get 0 local.get 1 i32.const 100 memory.fill $a)
        (func (export "drop") (param i32 i32 i32) data.drop $passive))"#,
        first = data(0x5a, module::SEGMENT + 4321),
    );
    wat::parse_str(text).unwrap()
}

struct Bed {
    store: Store<()>,
    instance: Instance,
}

impl Bed {
    fn new(module: &[u8]) -> Self {
        let engine = Engine::new(&Config::new()).unwrap();
        let module = Module::new(&engine, module).unwrap();
        let mut store = Store::new(&engine, ());
        let ty = wasmtime::GlobalType::new(wasmtime::ValType::I32, wasmtime::Mutability::Const);
        let base = wasmtime::Global::new(&mut store, ty, Val::I32(65_000)).unwrap();
        let instance = Instance::new(&mut store, &module, &[base.into()]).unwrap();
        Self { store, instance }
    }

    fn call(&mut self, name: &str, [to, from, count]: [u32; 3]) -> Option<Trap> {
        let function =
            self.instance.get_typed_func::<(u32, u32, u32), ()>(&mut self.store, name).unwrap();
        let ended = function.call(&mut self.store, (to, from, count));
        ended.err().map(|error| *error.downcast_ref::<Trap>().unwrap())
    }

    fn memory(&mut self, name: &str) -> &[u8] {
        let memory = self.instance.get_memory(&mut self.store, name).unwrap();
        memory.data(&self.store)
    }
}

const MEMORY: u32 = 64 << 16;

/// Ranges of all sizes, most of them in bounds and larger than a chunk.
fn range() -> [u32; 3] {
    let place = || match fastrand::u32(..10) {
        0 => fastrand::u32(..),
        1 => MEMORY - fastrand::u32(..10),
        _ => fastrand::u32(..MEMORY),
    };
    let (to, from) = (place(), place());
    let room = MEMORY.saturating_sub(to.max(from));
    let count = match fastrand::u32(..10) {
        0 => fastrand::u32(..),
        1 => room,
        2 => room.saturating_add(1),
        3 => CHUNK * fastrand::u32(..5),
        4 => CHUNK + 1,
        _ => fastrand::u32(..=room),
    };
    [to, from, count]
}

#[test]
fn whatever_is_done_in_chunks_leaves_the_same_memory_and_the_same_traps() {
    let original = subject();
    let chunked = module::rewrite(&original).unwrap().unwrap();
    let (mut a, mut b) = (Bed::new(&original), Bed::new(&chunked));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::seed(seed);
    let (mut trapped, mut done) = (0, 0);
    for round in 0..600 {
        let mut names = ["fill", "copy", "copy", "across", "init", "init first", "small"].to_vec();
        if round == 500 {
            names = vec!["drop"];
        }
        let name = fastrand::choice(&names).unwrap();
        let mut range = range();
        if name.starts_with("init") && fastrand::bool() {
            range[1] = fastrand::u32(..2000);
            range[2] = CHUNK + 1000 - range[1].min(1000) + fastrand::u32(..2);
        }
        let (first, second) = (a.call(name, range), b.call(name, range));
        assert_eq!(first, second, "{name} {range:?}");
        if first.is_some() {
            trapped += 1;
        } else {
            done += 1;
        }
        for memory in ["a", "b"] {
            assert!(a.memory(memory) == b.memory(memory), "{name} {range:?} in {memory}");
        }
    }
    assert!(trapped > 50 && done > 200, "{trapped} trapped, {done} did not");
}

#[test]
fn what_is_small_or_has_no_bulk_memory_stays_as_it_is() {
    for text in [
        "(module (memory 1) (func i32.const 0 i32.const 0 i32.const 262144 memory.fill))",
        "(module (memory 1) (data $d \"abc\") (func (param i32) i32.const 0 i32.const 0 local.get 0 memory.init $d))",
        "(module (func))",
    ] {
        let module = wat::parse_str(text).unwrap();
        assert_eq!(module::rewrite(&module).unwrap(), None, "{text}");
    }
    // A constant counts only right before the instruction.
    let module = wat::parse_str(
        "(module (memory 1) (func (param i32) i32.const 0 i32.const 0 local.get 0 i32.const 5 i32.add memory.fill))",
    );
    assert!(module::rewrite(&module.unwrap()).unwrap().is_some());
}

#[test]
fn components_in_components_are_found_and_names_and_sums_survive() {
    let text = r#"(component $outer
        (core module $plain (func (export "f")))
        (component $inner
          (core module $m (memory 1)
            (func $named (export "f") (param i32) i32.const 0 i32.const 0 local.get 0 memory.fill))
          (core instance $i (instantiate $m))
          (@custom "note" "kept"))
        (@custom "note" "kept too"))"#;
    let component = wat::parse_str(text).unwrap();
    let chunked = rewrite(&component).unwrap().unwrap();
    let printed = |bytes: &[u8]| {
        let found = |text: &str| {
            bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
        };
        ["note", "kept", "kept too", "named", "outer", "inner"].map(found)
    };
    assert_eq!(printed(&component), printed(&chunked));
    let engine = engine();
    engine.precompile_component(&chunked).unwrap();
    assert_eq!(rewrite(&chunked).unwrap().map(|again| again.len() > chunked.len()), Some(true));
    let plain = wat::parse_str("(component (core module (func)) (component))").unwrap();
    assert_eq!(rewrite(&plain).unwrap(), None);
}

#[test]
fn what_cannot_be_read_is_refused_in_the_engines_words() {
    let engine = engine();
    let good = wat::parse_str("(component (core module (memory 1) (func (export \"f\") (param i32) i32.const 0 i32.const 0 local.get 0 memory.fill)))").unwrap();
    for length in 8..good.len() {
        let bad = &good[..length];
        let (own, engines) = (precompile(&engine, bad), engine.precompile_component(bad));
        assert_eq!(own.is_err(), engines.is_err(), "{length}");
    }
    for index in 8..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            let (own, engines) = (precompile(&engine, &bad), engine.precompile_component(&bad));
            assert_eq!(own.is_err(), engines.is_err(), "{index} {bit}");
        }
    }
}

fn engine() -> Engine {
    crate::engine::compiling().unwrap()
}

#[test]
fn code_without_a_loop_gets_the_head_of_one() {
    let heads = |body: &str| {
        let module =
            wat::parse_str(format!("(module (memory 1) (func (local i32) {body}))")).unwrap();
        let chunked = module::rewrite(&module).unwrap()?;
        Module::validate(&engine(), &chunked).unwrap();
        let loops =
            |bytes: &[u8]| bytes.windows(3).filter(|bytes| *bytes == [3, 0x40, 0x0b]).count();
        Some(loops(&chunked) - loops(&module))
    };
    let row = |count: u32| "nop ".repeat(count as usize);
    let long = straight::LONGEST;
    assert_eq!(heads(&row(long - 1)), None);
    assert_eq!(heads(&row(2 * long + 1)), Some(2));
    assert_eq!(heads(&format!("{0} (loop {0}) {0}", row(long / 2 - 10))), None);
    // Looks that are jumped over do not count.
    let skipped = format!("(block (br 0) {})", row(2 * long));
    assert_eq!(heads(&format!("{skipped} nop")), Some(3));
    let arms = format!("(if (local.get 0) (then {0}) (else {0})) nop", row(long / 2));
    assert_eq!(heads(&arms), Some(2));
}
