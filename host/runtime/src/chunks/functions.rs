//! The functions that do bulk memory in chunks.
//!
//! Each has the operands of its instruction. A small operation is done at once. So is one that is
//! out of bounds: it traps before it changes anything, with the engine's own trap. The rest is a
//! loop over chunks, each of which costs fuel by its size, and the guest yields at its head.

use wasm_encoder::{BlockType, Function, InstructionSink};

use super::{CHUNK, module::Bulk};

/// The parameters: where to, where from (or which byte), and how many bytes.
const TO: u32 = 0;
const FROM: u32 = 1;
const COUNT: u32 = 2;

/// The function for an instruction.
pub(super) fn in_chunks(bulk: Bulk) -> Function {
    let mut function = Function::new([]);
    let mut body = function.instructions();
    // One chunk at the most.
    body.local_get(COUNT).i32_const(chunk()).i32_le_u();
    at_once(&mut body, bulk);
    // Beyond the memory or the segment.
    match bulk {
        Bulk::Fill { memory } => beyond_memory(&mut body, TO, memory),
        Bulk::Copy { to, from } => {
            beyond_memory(&mut body, TO, to);
            beyond_memory(&mut body, FROM, from);
            body.i32_or();
        }
        Bulk::Init { memory, length, .. } => {
            beyond_memory(&mut body, TO, memory);
            end(&mut body, FROM);
            body.i64_const(length.into()).i64_gt_u().i32_or();
        }
    }
    at_once(&mut body, bulk);
    if let Bulk::Copy { .. } = bulk {
        // A copy into what it still has to read begins at the end. Two indices may be one memory.
        body.local_get(TO).local_get(FROM).i32_gt_u();
        body.if_(BlockType::Empty);
        backwards(&mut body, bulk);
        body.return_().end();
    }
    forwards(&mut body, bulk);
    body.end();
    function
}

/// If the value on the stack is not zero: all of it, and no more.
fn at_once(body: &mut InstructionSink<'_>, bulk: Bulk) {
    body.if_(BlockType::Empty);
    body.local_get(TO).local_get(FROM).local_get(COUNT);
    instruction(body, bulk);
    body.return_().end();
}

/// Whether the bytes from a parameter on end beyond a memory.
fn beyond_memory(body: &mut InstructionSink<'_>, start: u32, memory: u32) {
    end(body, start);
    // Pages of 64 KiB: the engine takes no others.
    body.memory_size(memory).i64_extend_i32_u().i64_const(16).i64_shl().i64_gt_u();
}

/// Where the bytes from a parameter on end.
fn end(body: &mut InstructionSink<'_>, start: u32) {
    body.local_get(start).i64_extend_i32_u();
    body.local_get(COUNT).i64_extend_i32_u().i64_add();
}

/// Chunks from the start on, and the rest.
fn forwards(body: &mut InstructionSink<'_>, bulk: Bulk) {
    body.loop_(BlockType::Empty);
    body.local_get(TO).local_get(FROM).i32_const(chunk());
    instruction(body, bulk);
    body.local_get(TO).i32_const(chunk()).i32_add().local_set(TO);
    if !matches!(bulk, Bulk::Fill { .. }) {
        body.local_get(FROM).i32_const(chunk()).i32_add().local_set(FROM);
    }
    fewer(body);
    again_while_large(body);
    body.local_get(TO).local_get(FROM).local_get(COUNT);
    instruction(body, bulk);
}

/// Chunks from the end on, and the rest.
fn backwards(body: &mut InstructionSink<'_>, bulk: Bulk) {
    body.loop_(BlockType::Empty);
    fewer(body);
    body.local_get(TO).local_get(COUNT).i32_add();
    body.local_get(FROM).local_get(COUNT).i32_add();
    body.i32_const(chunk());
    instruction(body, bulk);
    again_while_large(body);
    body.local_get(TO).local_get(FROM).local_get(COUNT);
    instruction(body, bulk);
}

fn fewer(body: &mut InstructionSink<'_>) {
    body.local_get(COUNT).i32_const(chunk()).i32_sub().local_set(COUNT);
}

fn again_while_large(body: &mut InstructionSink<'_>) {
    body.local_get(COUNT).i32_const(chunk()).i32_gt_u().br_if(0).end();
}

fn instruction(body: &mut InstructionSink<'_>, bulk: Bulk) {
    match bulk {
        Bulk::Fill { memory } => body.memory_fill(memory),
        Bulk::Copy { to, from } => body.memory_copy(to, from),
        Bulk::Init { memory, segment, .. } => body.memory_init(memory, segment),
    };
}

const fn chunk() -> i32 {
    CHUNK.cast_signed()
}
