//! The core module that calls a host function, as text.

use std::{collections::BTreeMap, fmt::Write as _};

use wit_parser::{
    Function, Handle, Int, Resolve, Type, TypeDefKind, TypeId,
    abi::{AbiVariant, WasmType},
};

use super::{Arguments, HostFunction, Offer};

/// Where arguments that do not fit into parameters are written, and where results go.
const ARGUMENTS: u32 = 0x1000;
const RESULTS: u32 = 0x8000;
/// Text of one character, repeated.
const TEXT: u32 = 16 << 20;
/// Pairs of a pointer to one character and the length 1: lists of short strings.
const PAIRS: u32 = 24 << 20;
/// Zeros: lists of empty strings, empty lists, zeros.
const ZEROS: u32 = 32 << 20;
/// What the host asks for.
const HEAP: u32 = 48 << 20;

/// Little enough that a call succeeds.
const LITTLE: Arguments = Arguments { character: b'a', short: false, size: 1 };

/// A core module under construction.
pub(super) struct Module<'a> {
    offer: &'a Offer,
    pub(super) interfaces: BTreeMap<String, ()>,
    imports: BTreeMap<(String, String), (String, String)>,
    makers: BTreeMap<TypeId, Option<String>>,
}

impl<'a> Module<'a> {
    pub(super) fn new(offer: &'a Offer) -> Self {
        Self {
            offer,
            interfaces: BTreeMap::new(),
            imports: BTreeMap::new(),
            makers: BTreeMap::new(),
        }
    }

    fn resolve(&self) -> &'a Resolve {
        &self.offer.resolve
    }

    fn import(&mut self, function: &HostFunction) -> String {
        let interface = self.resolve().id_of(function.interface).unwrap();
        let signature = match &function.function {
            Some(function) => {
                let signature = self.resolve().wasm_signature(AbiVariant::GuestImport, function);
                let list = |what: &str, types: &[WasmType]| -> String {
                    types.iter().map(|ty| format!(" ({what} {})", name_of(*ty))).collect()
                };
                list("param", &signature.params) + &list("result", &signature.results)
            }
            None => " (param i32)".to_owned(),
        };
        self.interfaces.insert(interface.clone(), ());
        let number = self.imports.len();
        let entry = self.imports.entry((interface, function.name.clone()));
        entry.or_insert_with(|| (format!("$f{number}"), signature)).0.clone()
    }

    /// Instructions that call a function once and drop what it gives.
    pub(super) fn call(&mut self, function: &HostFunction, arguments: Arguments) -> Option<String> {
        if let Some(resource) = function.dropped {
            let own = self.own(resource)?;
            let import = self.import(function);
            return Some(format!("{own} call {import}\n"));
        }
        let callee = function.function.clone()?;
        let signature = self.resolve().wasm_signature(AbiVariant::GuestImport, &callee);
        let mut text = self.pass(&callee, arguments)?;
        let import = self.import(function);
        writeln!(text, "call {import}").unwrap();
        for _ in &signature.results {
            text.push_str("drop\n");
        }
        Some(text)
    }

    /// Instructions that put a function's arguments where they belong.
    fn pass(&mut self, callee: &Function, arguments: Arguments) -> Option<String> {
        let signature = self.resolve().wasm_signature(AbiVariant::GuestImport, callee);
        let mut text = String::new();
        if signature.indirect_params {
            let types: Vec<_> = callee.params.iter().map(|param| param.ty).collect();
            let mut at = ARGUMENTS;
            for ty in &types {
                at = at.next_multiple_of(self.align(ty));
                self.store(ty, at, arguments, &mut text)?;
                at += self.size(ty);
            }
            writeln!(text, "i32.const {ARGUMENTS}").unwrap();
        } else {
            for param in &callee.params {
                for (_, value) in self.flat(&param.ty, arguments)? {
                    writeln!(text, "{value}").unwrap();
                }
            }
        }
        if signature.retptr {
            writeln!(text, "i32.const {RESULTS}").unwrap();
        }
        Some(text)
    }

    /// A call of the function that makes such a resource.
    fn own(&mut self, resource: TypeId) -> Option<String> {
        let resource = self.root(resource);
        if let Some(made) = self.makers.get(&resource) {
            return made.as_ref().map(|_| format!("(call $own{})", resource.index()));
        }
        // Not by itself.
        self.makers.insert(resource, None);
        let mut sources: Vec<_> = self
            .offer
            .functions
            .iter()
            .filter_map(|source| {
                let function = source.function.as_ref()?;
                let gives = self.gives(function.result.as_ref()?, resource)?;
                Some((function.params.len(), source, gives))
            })
            .collect();
        // Methods last: they need another handle, which may be one that is never given.
        sources.sort_by_key(|(params, source, _)| {
            (*params, source.name.starts_with('['), source.name.clone())
        });
        for (_, source, (tag, offset)) in sources {
            let Some(function) = source.function.clone() else {
                continue;
            };
            let Some(passed) = self.pass(&function, LITTLE) else {
                continue;
            };
            let import = self.import(source);
            let taken = match tag {
                None => String::new(),
                Some(tag) => format!(
                    "(if (i32.ne (i32.load8_u (i32.const {RESULTS})) (i32.const {tag})) (then unreachable))\n\
                     (i32.load (i32.const {}))",
                    RESULTS + offset
                ),
            };
            self.makers.insert(resource, Some(format!("{passed} call {import}\n{taken}")));
            return self.own(resource);
        }
        None
    }

    /// Where a result holds such a resource: the tag that says so, and the offset.
    fn gives(&self, ty: &Type, resource: TypeId) -> Option<(Option<u8>, u32)> {
        let Type::Id(id) = ty else { return None };
        match &self.resolve().types[*id].kind {
            TypeDefKind::Handle(Handle::Own(given)) if self.root(*given) == resource => {
                Some((None, 0))
            }
            TypeDefKind::Type(ty) => self.gives(ty, resource),
            TypeDefKind::Option(ty) => self.gives(ty, resource).map(|_| (Some(1), 4)),
            TypeDefKind::Result(result) => {
                self.gives(result.ok.as_ref()?, resource)?;
                let cases = [result.ok.as_ref(), result.err.as_ref()];
                let offset = self.offer.sizes.payload_offset(Int::U8, cases);
                Some((Some(0), u32::try_from(offset.size_wasm32()).unwrap()))
            }
            _ => None,
        }
    }

    /// The resource behind the names under which interfaces use it.
    fn root(&self, mut id: TypeId) -> TypeId {
        while let TypeDefKind::Type(Type::Id(next)) = self.resolve().types[id].kind {
            id = next;
        }
        id
    }

    fn handle(&mut self, handle: Handle) -> Option<String> {
        match handle {
            Handle::Own(resource) => self.own(resource),
            // Made once, and lent to each call.
            Handle::Borrow(resource) => {
                self.own(resource)?;
                Some(format!("(call $lend{})", self.root(resource).index()))
            }
        }
    }

    /// A value's parameters.
    fn flat(&mut self, ty: &Type, arguments: Arguments) -> Option<Vec<(WasmType, String)>> {
        use WasmType::{F32, F64, I32, I64};
        let size = arguments.size;
        let number =
            |ty: WasmType, value: u64| vec![(ty, format!("{}.const {value}", name_of(ty)))];
        let id = match ty {
            Type::String => return Some(pair(TEXT, size)),
            Type::U64 | Type::S64 => return Some(number(I64, size.into())),
            Type::F32 => return Some(number(F32, 1)),
            Type::F64 => return Some(number(F64, 1)),
            Type::U32 | Type::S32 => return Some(number(I32, size.into())),
            Type::Id(id) => *id,
            _ => return Some(number(I32, 1)),
        };
        let kind = self.resolve().types[id].kind.clone();
        match &kind {
            TypeDefKind::Type(ty) => self.flat(ty, arguments),
            TypeDefKind::Handle(handle) => Some(vec![(I32, self.handle(*handle)?)]),
            TypeDefKind::List(element) => {
                let (at, count) = self.list(element, arguments);
                let mut values = pair(at, count);
                if let Some(fill) = self.fill_with_handles(element, at, count)? {
                    values[0].1 = format!("{fill}\ni32.const {at}");
                }
                Some(values)
            }
            TypeDefKind::Record(record) => {
                let types: Vec<_> = record.fields.iter().map(|field| field.ty).collect();
                self.flat_all(&types, arguments)
            }
            TypeDefKind::Tuple(tuple) => self.flat_all(&tuple.types, arguments),
            TypeDefKind::Flags(_) => Some(number(I32, 0)),
            TypeDefKind::Enum(_) => Some(number(I32, 0)),
            _ => {
                let cases = cases(&kind);
                let joined = self.joined(&cases);
                let (tag, payload) = self.choose(&cases, arguments)?;
                let mut values = number(I32, tag);
                for (index, ty) in joined.into_iter().enumerate() {
                    let value = match payload.get(index) {
                        Some((from, value)) => format!("{value}{}", convert(*from, ty)),
                        None => format!("{}.const 0", name_of(ty)),
                    };
                    values.push((ty, value));
                }
                Some(values)
            }
        }
    }

    fn flat_all(
        &mut self,
        types: &[Type],
        arguments: Arguments,
    ) -> Option<Vec<(WasmType, String)>> {
        let mut all = Vec::new();
        for ty in types {
            all.extend(self.flat(ty, arguments)?);
        }
        Some(all)
    }

    /// The case that carries most, of those whose handles can be had; in a call that is to succeed
    /// the one that carries least.
    fn choose(
        &mut self,
        cases: &[Option<Type>],
        arguments: Arguments,
    ) -> Option<(u64, Vec<(WasmType, String)>)> {
        let mut possible = Vec::new();
        for (tag, case) in cases.iter().enumerate() {
            let payload = match case {
                Some(ty) => self.flat(ty, arguments),
                None => Some(Vec::new()),
            };
            let sized = case.is_some_and(|ty| self.offer.has_size(&ty));
            possible.extend(payload.map(|payload| (sized, tag as u64, payload)));
        }
        if arguments.size == LITTLE.size {
            possible.reverse();
            possible.sort_by_key(|(sized, _, payload)| (!sized, usize::MAX - payload.len()));
        } else {
            possible.sort_by_key(|(sized, _, payload)| (*sized, payload.len()));
        }
        possible.pop().map(|(_, tag, payload)| (tag, payload))
    }

    /// The parameters that hold any of the cases.
    fn joined(&self, cases: &[Option<Type>]) -> Vec<WasmType> {
        let mut joined: Vec<WasmType> = Vec::new();
        for ty in cases.iter().flatten() {
            for (index, ty) in self.shape(ty).into_iter().enumerate() {
                match joined.get_mut(index) {
                    Some(there) => *there = join(*there, ty),
                    None => joined.push(ty),
                }
            }
        }
        joined
    }

    /// The parameters of a type, also of one whose handles cannot be had.
    fn shape(&self, ty: &Type) -> Vec<WasmType> {
        let function = Function {
            name: "shape".to_owned(),
            kind: wit_parser::FunctionKind::Freestanding,
            params: vec![wit_parser::Param {
                name: "it".to_owned(),
                ty: *ty,
                span: wit_parser::Span::default(),
            }],
            result: None,
            docs: wit_parser::Docs::default(),
            stability: wit_parser::Stability::default(),
            span: wit_parser::Span::default(),
            external_id: None,
        };
        self.resolve().wasm_signature(AbiVariant::GuestImport, &function).params
    }

    /// Where a list is, and how many elements it has.
    fn list(&self, element: &Type, arguments: Arguments) -> (u32, u32) {
        let size = self.size(element).max(1);
        let bytes = arguments.size;
        let in_host = match size {
            1 => 1,
            2..=4 => 16,
            _ => 3 * size + 1,
        };
        let at = match (size, arguments.short) {
            (1, _) => TEXT,
            (_, true) => PAIRS,
            (_, false) => ZEROS,
        };
        (at, bytes / in_host)
    }

    /// A list of handles is the same handle again and again. `None` inside: it holds none.
    fn fill_with_handles(&mut self, element: &Type, at: u32, count: u32) -> Option<Option<String>> {
        let Type::Id(id) = element else { return Some(None) };
        let TypeDefKind::Handle(handle) = self.resolve().types[*id].kind else {
            return Some(None);
        };
        let made = self.handle(handle)?;
        Some(Some(format!("(call $handles (i32.const {at}) (i32.const {count}) {made})")))
    }

    /// Instructions that write a value to memory.
    fn store(&mut self, ty: &Type, at: u32, arguments: Arguments, text: &mut String) -> Option<()> {
        let Type::Id(id) = ty else {
            for (index, (wasm, value)) in self.flat(ty, arguments)?.into_iter().enumerate() {
                let at = at + 4 * u32::try_from(index).unwrap();
                let narrow = match self.size(ty) {
                    1 => "8",
                    2 => "16",
                    _ => "",
                };
                writeln!(text, "i32.const {at} {value} {}.store{narrow}", name_of(wasm)).unwrap();
            }
            return Some(());
        };
        let kind = self.resolve().types[*id].kind.clone();
        match &kind {
            TypeDefKind::Type(ty) => self.store(ty, at, arguments, text)?,
            TypeDefKind::Record(record) => {
                let types: Vec<_> = record.fields.iter().map(|field| field.ty).collect();
                self.store_all(&types, at, arguments, text)?;
            }
            TypeDefKind::Tuple(tuple) => self.store_all(&tuple.types, at, arguments, text)?,
            TypeDefKind::Handle(_) | TypeDefKind::List(_) => {
                for (index, (_, value)) in self.flat(ty, arguments)?.into_iter().enumerate() {
                    let at = at + 4 * u32::try_from(index).unwrap();
                    writeln!(text, "(i32.store (i32.const {at}) (block (result i32) {value}))")
                        .unwrap();
                }
            }
            TypeDefKind::Flags(_) | TypeDefKind::Enum(_) => {}
            _ => {
                let cases = cases(&kind);
                let (tag, _) = self.choose(&cases, arguments)?;
                writeln!(text, "i32.const {at} i32.const {tag} i32.store8").unwrap();
                if let Some(payload) = cases[usize::try_from(tag).unwrap()] {
                    let offset =
                        self.offer.sizes.payload_offset(Int::U8, cases.iter().map(Option::as_ref));
                    let offset = u32::try_from(offset.size_wasm32()).unwrap();
                    self.store(&payload, at + offset, arguments, text)?;
                }
            }
        }
        Some(())
    }

    fn store_all(
        &mut self,
        types: &[Type],
        mut at: u32,
        arguments: Arguments,
        text: &mut String,
    ) -> Option<()> {
        for ty in types {
            at = at.next_multiple_of(self.align(ty));
            self.store(ty, at, arguments, text)?;
            at += self.size(ty);
        }
        Some(())
    }

    fn size(&self, ty: &Type) -> u32 {
        u32::try_from(self.offer.sizes.size(ty).size_wasm32()).unwrap()
    }

    fn align(&self, ty: &Type) -> u32 {
        u32::try_from(self.offer.sizes.align(ty).align_wasm32()).unwrap()
    }

    pub(super) fn finish(&self, body: &str, arguments: Arguments) -> String {
        let mut text = String::from("(module\n");
        for ((interface, name), (id, signature)) in &self.imports {
            writeln!(text, "(import \"{interface}\" \"{name}\" (func {id}{signature}))").unwrap();
        }
        let byte = arguments.character;
        write!(
            text,
            r#"(memory (export "memory") 2048)
            (global $top (mut i32) (i32.const {HEAP}))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
              (global.get $top)
              (global.set $top (i32.add (global.get $top) (local.get 3))))
            (func $handles (param $at i32) (param $count i32) (param $handle i32)
              (block $done (loop $next
                (br_if $done (i32.eqz (local.get $count)))
                (i32.store (local.get $at) (local.get $handle))
                (local.set $at (i32.add (local.get $at) (i32.const 4)))
                (local.set $count (i32.sub (local.get $count) (i32.const 1)))
                (br $next))))
            (func (export "wasi:cli/run@0.2.12#run") (result i32) (local $at i32)
              (memory.fill (i32.const {TEXT}) (i32.const {byte}) (i32.const 4194304))
              (local.set $at (i32.const {PAIRS}))
              (loop $pairs
                (i32.store (local.get $at) (i32.const {TEXT}))
                (i32.store offset=4 (local.get $at) (i32.const 1))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $pairs (i32.lt_u (local.get $at) (i32.const {ZEROS}))))
              (loop $again
                (global.set $top (i32.const {HEAP}))
                {body}
                (br $again))
              unreachable)
            "#,
        )
        .unwrap();
        for (resource, maker) in &self.makers {
            let Some(maker) = maker else { continue };
            let id = resource.index();
            write!(
                text,
                "(func $own{id} (result i32) {maker})
                (global $lent{id} (mut i32) (i32.const 0))
                (func $lend{id} (result i32)
                  (if (i32.eqz (global.get $lent{id})) (then (global.set $lent{id} (call $own{id}))))
                  (global.get $lent{id}))\n"
            )
            .unwrap();
        }
        text.push(')');
        text
    }
}

fn pair(at: u32, length: u32) -> Vec<(WasmType, String)> {
    [at, length].map(|value| (WasmType::I32, format!("i32.const {value}"))).to_vec()
}

fn cases(kind: &TypeDefKind) -> Vec<Option<Type>> {
    match kind {
        TypeDefKind::Option(ty) => vec![None, Some(*ty)],
        TypeDefKind::Result(result) => vec![result.ok, result.err],
        TypeDefKind::Variant(variant) => variant.cases.iter().map(|case| case.ty).collect(),
        other => panic!("no host function takes a {}", other.as_str()),
    }
}

fn name_of(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}

fn join(one: WasmType, other: WasmType) -> WasmType {
    match (name_of(one), name_of(other)) {
        (a, b) if a == b => one,
        ("i32", "f32") | ("f32", "i32") => WasmType::I32,
        _ => WasmType::I64,
    }
}

fn convert(from: WasmType, to: WasmType) -> &'static str {
    match (name_of(from), name_of(to)) {
        (a, b) if a == b => "",
        ("i32", "i64") => " i64.extend_i32_u",
        ("f32", "i32") => " i32.reinterpret_f32",
        ("f32", "i64") => " i32.reinterpret_f32 i64.extend_i32_u",
        ("f64", "i64") => " i64.reinterpret_f64",
        (a, b) => panic!("{a} is never passed as {b}"),
    }
}
