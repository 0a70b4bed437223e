//! A core module whose bulk memory is in chunks.

use std::{collections::BTreeMap, ops::Range};

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataCountSection, DataSection, Encode as _, FunctionSection,
    Instruction, Module, RawSection, TypeSection, ValType,
};
use wasmparser::{
    BinaryReader, Data, DataKind, FunctionBody, FunctionSectionReader, Operator, OperatorsReader,
    Parser, Payload, TypeRef, TypeSectionReader,
};

use super::{CHUNK, Unreadable, functions, straight::Straight};

/// The largest active data segment that stays whole, in bytes, and the size of the pieces of a
/// larger one. An instance begins with them: the guest yields between two of them.
pub(super) const SEGMENT: usize = 1 << 20;

/// A bulk instruction, as far as it is the same wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bulk {
    /// `memory.fill`
    Fill { memory: u32 },
    /// `memory.copy`
    Copy { to: u32, from: u32 },
    /// `memory.init`; of the segment's number in the rewritten module, and its length in bytes.
    Init { memory: u32, segment: u32, length: u32 },
}

/// What stands at some bytes of a function.
enum Edit {
    /// Nothing yet. An empty loop comes here, at whose head fuel is looked at.
    Check,
    /// A call of the function that does this in chunks.
    Call(Bulk),
    /// `memory.init` of a segment that has another number now.
    Init { memory: u32, segment: u32 },
    /// `data.drop`, likewise.
    Drop { segment: u32 },
}

/// What was seen of a module.
#[derive(Default)]
struct Seen<'a> {
    types: u32,
    /// Functions that it imports.
    imported: u32,
    /// Functions of its own.
    own: u32,
    bodies: Vec<FunctionBody<'a>>,
    segments: Vec<Data<'a>>,
}

/// What is to be changed.
#[derive(Default)]
struct Plan {
    /// By the place in the module, in order.
    edits: Vec<(Range<usize>, Edit)>,
    /// Functions to add, with their numbers.
    added: BTreeMap<Bulk, u32>,
    /// The new number of each segment. Empty if all keep theirs.
    numbers: Vec<u32>,
}

/// A module with its bulk memory in chunks. `None`: it needs no change.
///
/// # Errors
/// When it cannot be parsed.
pub(super) fn rewrite(module: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let seen = Seen::of(module)?;
    let plan = seen.plan()?;
    if plan.edits.is_empty() && plan.numbers.is_empty() {
        return Ok(None);
    }
    plan.apply(module, &seen).map(Some)
}

impl<'a> Seen<'a> {
    fn of(module: &'a [u8]) -> Result<Self, Unreadable> {
        let mut seen = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(types) => seen.types = count_types(types)?,
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let function =
                            matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                        seen.imported += u32::from(function);
                    }
                }
                Payload::FunctionSection(functions) => seen.own = functions.count(),
                Payload::CodeSectionEntry(body) => seen.bodies.push(body),
                Payload::DataSection(segments) => {
                    seen.segments = segments.into_iter().collect::<Result<_, _>>()?;
                }
                _ => {}
            }
        }
        Ok(seen)
    }

    fn plan(&self) -> Result<Plan, Unreadable> {
        let mut plan = Plan::default();
        if self.segments.iter().any(|segment| pieces(segment) > 1) {
            let mut next = 0;
            plan.numbers = self
                .segments
                .iter()
                .map(|segment| {
                    let number = next;
                    next += pieces(segment);
                    number
                })
                .collect();
        }
        for body in &self.bodies {
            self.plan_body(body, &mut plan)?;
        }
        // Too many is not valid, which is said when the whole is validated.
        let first = self.imported.saturating_add(self.own);
        for (number, function) in (first..).zip(plan.added.values_mut()) {
            *function = number;
        }
        Ok(plan)
    }

    fn plan_body(&self, body: &FunctionBody<'a>, plan: &mut Plan) -> Result<(), Unreadable> {
        let mut operators = body.get_operators_reader()?;
        let mut straight = Straight::default();
        // What stands right before an instruction is its last operand.
        let mut constant = None;
        while !operators.eof() {
            let (operator, start) = operators.read_with_offset()?;
            let small = constant.is_some_and(|size| size <= CHUNK);
            if straight.is_long_before(&operator) {
                plan.edits.push((start..start, Edit::Check));
            }
            let edit = match operator {
                Operator::MemoryFill { mem } if !small => {
                    Some(Edit::Call(Bulk::Fill { memory: mem }))
                }
                Operator::MemoryCopy { dst_mem, src_mem } if !small => {
                    Some(Edit::Call(Bulk::Copy { to: dst_mem, from: src_mem }))
                }
                Operator::MemoryInit { data_index, mem } => self.init(data_index, mem, small, plan),
                Operator::DataDrop { data_index } => {
                    let moved = plan.moved(data_index);
                    moved.map(|segment| Edit::Drop { segment })
                }
                _ => None,
            };
            constant = match operator {
                Operator::I32Const { value } => Some(value.cast_unsigned()),
                _ => None,
            };
            if let Some(edit) = edit {
                if let Edit::Call(bulk) = edit {
                    plan.added.insert(bulk, 0);
                }
                plan.edits.push((start..operators.original_position(), edit));
            }
        }
        Ok(())
    }

    fn init(&self, segment: u32, memory: u32, small: bool, plan: &Plan) -> Option<Edit> {
        let moved = plan.moved(segment);
        // One that does not exist is the engine's to refuse.
        let data = self.segments.get(segment as usize)?.data;
        let length = u32::try_from(data.len()).ok()?;
        let segment = moved.unwrap_or(segment);
        if !small && length > CHUNK {
            return Some(Edit::Call(Bulk::Init { memory, segment, length }));
        }
        moved.map(|segment| Edit::Init { memory, segment })
    }
}

fn count_types(types: TypeSectionReader<'_>) -> Result<u32, Unreadable> {
    let mut count = 0;
    for group in types {
        count += u32::try_from(group?.types().len()).unwrap_or(u32::MAX);
    }
    Ok(count)
}

/// How many segments one becomes.
fn pieces(segment: &Data<'_>) -> u32 {
    match segment.kind {
        DataKind::Active { .. } => {
            u32::try_from(segment.data.len().div_ceil(SEGMENT)).unwrap_or(u32::MAX).max(1)
        }
        DataKind::Passive => 1,
    }
}

impl Plan {
    /// The new number of a segment, if it has one.
    fn moved(&self, segment: u32) -> Option<u32> {
        self.numbers.get(segment as usize).copied()
    }

    fn apply(&self, module: &[u8], seen: &Seen<'_>) -> Result<Vec<u8>, Unreadable> {
        let mut copy = Module::new();
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            let Some((id, range)) = payload.as_section() else {
                continue;
            };
            let data = module.get(range).ok_or(Unreadable::CutShort)?;
            match payload {
                Payload::TypeSection(_) => {
                    let data = &types(data)?;
                    copy.section(&RawSection { id, data });
                }
                Payload::FunctionSection(functions) => {
                    copy.section(&self.functions(functions, seen)?);
                }
                Payload::CodeSectionStart { .. } => {
                    copy.section(&self.code(module, seen));
                }
                Payload::DataCountSection { .. } => {
                    let count = seen.segments.iter().map(pieces).sum();
                    copy.section(&DataCountSection { count });
                }
                Payload::DataSection(_) => {
                    copy.section(&segments(module, seen));
                }
                // They name places in functions, which have moved.
                Payload::CustomSection(custom) if custom.name().starts_with("metadata.code.") => {}
                Payload::CustomSection(custom) if custom.name().starts_with(".debug_") => {}
                _ => {
                    copy.section(&RawSection { id, data });
                }
            }
        }
        Ok(copy.finish())
    }

    /// The functions that are added follow the module's own, and so does their type.
    fn functions(
        &self,
        own: FunctionSectionReader<'_>,
        seen: &Seen<'_>,
    ) -> Result<FunctionSection, Unreadable> {
        let mut functions = FunctionSection::new();
        for ty in own {
            functions.function(ty?);
        }
        for _ in &self.added {
            functions.function(seen.types);
        }
        Ok(functions)
    }

    fn code(&self, module: &[u8], seen: &Seen<'_>) -> CodeSection {
        let mut code = CodeSection::new();
        let mut edits = self.edits.as_slice();
        for body in &seen.bodies {
            let range = body.range();
            let (here, after) =
                edits.split_at(edits.partition_point(|(place, _)| place.start < range.end));
            edits = after;
            code.raw(&self.edited(module, range, here));
        }
        for bulk in self.added.keys() {
            code.function(&functions::in_chunks(*bulk));
        }
        code
    }

    /// A function's bytes with its edits.
    fn edited(
        &self,
        module: &[u8],
        range: Range<usize>,
        edits: &[(Range<usize>, Edit)],
    ) -> Vec<u8> {
        let mut copy = Vec::with_capacity(range.len() + 8 * edits.len());
        let mut from = range.start;
        for (place, edit) in edits {
            copy.extend_from_slice(&module[from..place.start]);
            from = place.end;
            let instruction = match *edit {
                Edit::Check => {
                    Instruction::Loop(BlockType::Empty).encode(&mut copy);
                    Instruction::End
                }
                Edit::Call(bulk) => {
                    Instruction::Call(self.added.get(&bulk).copied().unwrap_or_default())
                }
                Edit::Init { memory, segment } => {
                    Instruction::MemoryInit { mem: memory, data_index: segment }
                }
                Edit::Drop { segment } => Instruction::DataDrop(segment),
            };
            instruction.encode(&mut copy);
        }
        copy.extend_from_slice(&module[from..range.end]);
        copy
    }
}

/// The type section with the type of the functions that are added, which comes last.
fn types(section: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut reader = BinaryReader::new(section, 0);
    let count = reader.read_var_u32()?;
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32; 3], []);
    let mut one = Vec::new();
    types.encode(&mut one);
    let mut copy = Vec::with_capacity(section.len() + 16);
    count.saturating_add(1).encode(&mut copy);
    copy.extend_from_slice(&section[reader.original_position()..]);
    // Without its size and count, which are a byte each.
    copy.extend_from_slice(&one[2..]);
    Ok(copy)
}

/// The data section with its large active segments in pieces, which are initialized in this order.
fn segments(module: &[u8], seen: &Seen<'_>) -> DataSection {
    let mut section = DataSection::new();
    for segment in &seen.segments {
        match &segment.kind {
            DataKind::Active { memory_index, offset_expr } if pieces(segment) > 1 => {
                let offset = offset_expr.get_binary_reader().range();
                // Without its end.
                let offset = &module[offset.start..offset.end - 1];
                for (piece, data) in segment.data.chunks(SEGMENT).enumerate() {
                    section.active(
                        *memory_index,
                        &further(offset, piece * SEGMENT),
                        data.iter().copied(),
                    );
                }
            }
            _ => {
                section.raw(&module[segment.range.clone()]);
            }
        }
    }
    section
}

/// An offset and so many bytes. A constant stays one, so that the image of a memory can be made
/// when the component is compiled.
fn further(offset: &[u8], bytes: usize) -> ConstExpr {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    let mut reader = OperatorsReader::new(BinaryReader::new(offset, 0));
    match (reader.read(), reader.eof()) {
        (Ok(Operator::I32Const { value }), true) => ConstExpr::i32_const(value.wrapping_add(bytes)),
        _ => ConstExpr::raw(offset.iter().copied()).with_i32_const(bytes).with_i32_add(),
    }
}
