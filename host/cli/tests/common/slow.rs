//! Components that are hard to compile.

use std::fmt::Write as _;

/// A component with this core module, that says it is a handler.
pub(crate) fn component(module: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (core module {module}) (instance $i) (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Each loop's beginning merges each local: the square of what is written.
pub(crate) fn locals_in_loops(locals: usize, loops: usize) -> Vec<u8> {
    let mut body = String::new();
    for index in 0..loops {
        write!(body, "(loop ").unwrap();
        for step in 0..4 {
            let (to, from) = ((index * 7 + step) % locals, (index * 13 + step * 5) % locals);
            write!(body, "(local.set {to} (i32.add (local.get {to}) (local.get {from})))").unwrap();
        }
        write!(body, "(br_if 0 (local.get {})))", index % locals).unwrap();
    }
    component(&format!("(func (local {}) {body})", "i32 ".repeat(locals)))
}

/// A component that takes minutes to compile, and is larger than any that does not.
pub(crate) fn slow() -> Vec<u8> {
    let mut component = locals_in_loops(8000, 5000);
    // A section of a megabyte that nobody reads: its kind, its length in LEB128, its name.
    let payload = vec![0; 1 << 20];
    let length = payload.len() + 2;
    component.push(0);
    component.extend([0, 7, 14].map(|shift| (length >> shift) as u8 | 0x80));
    component.push((length >> 21) as u8);
    component.extend([1, b'x']);
    component.extend(payload);
    component
}
