//! Components that call one host function in a loop, each with the worst arguments that its type
//! allows. They are made from the WIT, so that no function is forgotten.

mod module;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Function, InterfaceId, Resolve, SizeAlign, Type, TypeDefKind, TypeId};

use self::module::Module;

/// What strings and lists are made of.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    /// The character of all text.
    pub character: u8,
    /// Lists hold short strings, rather than empty ones.
    pub short: bool,
    /// About as many bytes as one argument takes on the host, and every number.
    pub size: u32,
}

/// A host function as the linker knows it.
#[derive(Clone)]
pub struct HostFunction {
    pub interface: InterfaceId,
    /// `[resource-drop]NAME` if there is no function.
    pub name: String,
    function: Option<Function>,
    dropped: Option<TypeId>,
}

/// Everything that the host offers.
pub struct Offer {
    resolve: Resolve,
    sizes: SizeAlign,
    pub functions: Vec<HostFunction>,
}

impl Offer {
    /// Of the packages in these folders, without the interfaces that components export.
    pub fn new(folders: &[&std::path::Path], exported: &[&str]) -> Self {
        let mut resolve = Resolve::default();
        for folder in folders {
            resolve.push_dir(folder).unwrap();
        }
        let mut sizes = SizeAlign::default();
        sizes.fill(&resolve);
        let mut functions = Vec::new();
        for (id, interface) in &resolve.interfaces {
            let name = resolve.id_of(id).unwrap();
            if exported.iter().any(|exported| name.starts_with(exported)) {
                continue;
            }
            for function in interface.functions.values() {
                functions.push(HostFunction {
                    interface: id,
                    name: function.name.clone(),
                    function: Some(function.clone()),
                    dropped: None,
                });
            }
            for (name, ty) in &interface.types {
                if matches!(resolve.types[*ty].kind, TypeDefKind::Resource) {
                    functions.push(HostFunction {
                        interface: id,
                        name: format!("[resource-drop]{name}"),
                        function: None,
                        dropped: Some(*ty),
                    });
                }
            }
        }
        Self { resolve, sizes, functions }
    }

    /// The interface and the function.
    pub fn full_name(&self, function: &HostFunction) -> String {
        format!("{}#{}", self.resolve.id_of(function.interface).unwrap(), function.name)
    }

    /// Whether its arguments can be of any size.
    pub fn is_sized(&self, function: &HostFunction) -> bool {
        let params = function.function.iter().flat_map(|function| &function.params);
        params.into_iter().any(|param| self.has_size(&param.ty))
    }

    fn has_size(&self, ty: &Type) -> bool {
        let Type::Id(id) = ty else {
            return matches!(ty, Type::String | Type::U32 | Type::U64);
        };
        match &self.resolve.types[*id].kind {
            TypeDefKind::List(_) => true,
            TypeDefKind::Type(ty) | TypeDefKind::Option(ty) => self.has_size(ty),
            TypeDefKind::Record(record) => {
                record.fields.iter().any(|field| self.has_size(&field.ty))
            }
            TypeDefKind::Tuple(tuple) => tuple.types.iter().any(|ty| self.has_size(ty)),
            TypeDefKind::Variant(variant) => variant
                .cases
                .iter()
                .any(|case| case.ty.as_ref().is_some_and(|ty| self.has_size(ty))),
            TypeDefKind::Result(result) => {
                [&result.ok, &result.err].into_iter().flatten().any(|ty| self.has_size(ty))
            }
            _ => false,
        }
    }

    /// A command that calls the function until it is stopped. `None`: no host function gives the
    /// handles that it needs.
    pub fn component(&self, function: &HostFunction, arguments: Arguments) -> Option<Vec<u8>> {
        let mut module = Module::new(self);
        let body = module.call(function, arguments)?;
        let text = module.finish(&body, arguments);
        let mut bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut resolve = self.resolve.clone();
        let imports: String =
            module.interfaces.keys().map(|interface| format!("import {interface};\n")).collect();
        let world = format!(
            "package test:attack;\nworld attack {{\n{imports}export wasi:cli/run@0.2.12;\n}}"
        );
        let package = resolve.push_str("attack.wit", &world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).unwrap();
        let encoded = ComponentEncoder::default().module(&bytes).unwrap().encode();
        Some(encoded.unwrap_or_else(|error| panic!("{error:#}\n{text}")))
    }
}
