//! What handles cost, and their charges.
//!
//! WASI's own implementation keeps the objects behind handles in a table without sizes. So a
//! function that makes a handle charges for it here, one that changes its object measures it again,
//! and one that drops the handle gives the charge back.

use http::HeaderMap;
use wasmtime::component::Resource;
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        bindings::http::types::{Method, Scheme},
        types::HostOutgoingRequest,
    },
};

use super::HostState;
use crate::budget::{Charge, OverBudget};

/// Any handle, in bytes: its entries in the tables of guest and host, and its object without what
/// that points to. The largest of these objects takes about 350.
pub(super) const HANDLE: u64 = 512;

/// A body on its way out, in bytes, without what was written to it: two channels of one block each.
pub(super) const BODY: u64 = 4 << 10;

/// The charges of live handles, by their number in the table.
#[derive(Debug, Default)]
pub(super) struct Handles(Vec<Option<Charge>>);

impl Handles {
    /// Keeps the charge of a handle. If its number is used again, its old object is gone, and the
    /// old charge is given back.
    pub(super) fn keep<T: 'static>(&mut self, handle: &Resource<T>, charge: Charge) {
        let at = handle.rep() as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(charge);
    }

    /// Takes the charge out: to drop it, or for what lives on.
    pub(super) fn release(&mut self, handle: u32) -> Option<Charge> {
        self.0.get_mut(handle as usize)?.take()
    }

    fn resize(&mut self, handle: u32, what: &'static str, bytes: u64) -> Result<(), OverBudget> {
        match self.0.get_mut(handle as usize) {
            Some(Some(charge)) => charge.resize(what, bytes),
            _ => Ok(()),
        }
    }
}

impl HostState {
    /// Charges for a handle, makes it, and keeps the charge while it lives.
    pub(super) fn making<T: 'static>(
        &mut self,
        what: &'static str,
        bytes: u64,
        make: impl FnOnce(&mut Self) -> wasmtime::Result<Resource<T>>,
    ) -> wasmtime::Result<Resource<T>> {
        let charge = self.budget.charge(what, bytes)?;
        let made = make(self)?;
        self.handles.keep(&made, charge);
        Ok(made)
    }

    /// [`Self::making`] for a function that makes one only the first time.
    pub(super) fn making_once<T: 'static>(
        &mut self,
        what: &'static str,
        bytes: u64,
        make: impl FnOnce(&mut Self) -> wasmtime::Result<Result<Resource<T>, ()>>,
    ) -> wasmtime::Result<Result<Resource<T>, ()>> {
        let charge = self.budget.charge(what, bytes)?;
        let made = make(self)?;
        if let Ok(made) = &made {
            self.handles.keep(made, charge);
        }
        Ok(made)
    }

    /// Charges for a header map as it is now.
    pub(super) fn measure_fields(&mut self, handle: u32) -> wasmtime::Result<()> {
        let fields: &FieldMap = self.table.get(&Resource::new_borrow(handle))?;
        let bytes = HANDLE + headers(fields);
        Ok(self.handles.resize(handle, "the header map", bytes)?)
    }

    /// Charges for a request as it is now.
    pub(super) fn measure_request(&mut self, handle: u32) -> wasmtime::Result<()> {
        let request: &HostOutgoingRequest = self.table.get(&Resource::new_borrow(handle))?;
        let texts = [
            match &request.method {
                Method::Other(text) => text.capacity(),
                _ => 0,
            },
            match &request.scheme {
                Some(Scheme::Other(text)) => text.capacity(),
                _ => 0,
            },
            request.authority.as_ref().map_or(0, String::capacity),
            request.path_with_query.as_ref().map_or(0, String::capacity),
        ];
        let body = if request.body.is_some() { BODY } else { 0 };
        let bytes = HANDLE + texts.iter().sum::<usize>() as u64 + headers(&request.headers) + body;
        Ok(self.handles.resize(handle, "the HTTP request", bytes)?)
    }
}

/// The memory of a header map, in bytes: an entry and an index for each name that it has room for,
/// a node for each further value in a vector that may be half empty, and an allocation for each
/// text.
pub(crate) fn headers(map: &HeaderMap) -> u64 {
    const ENTRY: usize = 112;
    const FURTHER: usize = 2 * 72;
    const BLOCKS: usize = 64;
    let texts: usize =
        map.iter().map(|(name, value)| name.as_str().len() + value.len() + BLOCKS).sum();
    let further = map.len().saturating_sub(map.keys_len());
    (map.capacity() * ENTRY + further * FURTHER + texts) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, RESERVE};

    #[test]
    fn a_charge_lives_as_long_as_its_handle() {
        let budget = Budget::new(0);
        let mut handles = Handles::default();
        let handle = |number| Resource::<FieldMap>::new_own(number);
        for number in [7, 3] {
            handles.keep(&handle(number), budget.charge("the handle", 100).unwrap());
        }
        handles.resize(7, "the handle", 300).unwrap();
        assert_eq!(budget.room(), RESERVE - 400);
        assert!(handles.resize(7, "the handle", RESERVE).is_err());
        drop(handles.release(3));
        assert!(handles.release(3).is_none() && handles.release(99).is_none());
        // The table gave the number away again, without a word.
        handles.keep(&handle(7), budget.charge("the handle", 10).unwrap());
        assert_eq!(budget.room(), RESERVE - 10);
        drop(handles);
        assert_eq!(budget.room(), RESERVE);
    }

    #[test]
    fn a_header_map_counts_what_it_has_room_for() {
        let mut map = HeaderMap::new();
        assert_eq!(headers(&map), 0);
        for number in 0..1000_u32 {
            let name = http::HeaderName::from_bytes(format!("x{number}").as_bytes()).unwrap();
            map.insert(name, http::HeaderValue::from_static("v"));
        }
        let size = headers(&map);
        assert!((150_000..300_000).contains(&size), "{size}");
        for _ in 0..1000 {
            map.append("x1", http::HeaderValue::from_static("v"));
        }
        assert!(headers(&map) > size + 200_000);
    }
}
