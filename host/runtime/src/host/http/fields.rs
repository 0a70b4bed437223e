//! Header maps. They are measured after a change, because a limit of their own bounds their size
//! (`WasiHttpCtx::set_field_size_limit`).

use wasmtime::component::Resource;
use wasmtime_wasi_http::{
    FieldMap,
    p2::{HeaderError, HeaderResult, bindings::http::types},
};

use super::super::{HostState, handles::HANDLE};

type Fields = Resource<FieldMap>;

impl HostState {
    /// Measures a map that a function may have changed, whatever it returned.
    fn changed<T>(&mut self, fields: u32, returned: HeaderResult<T>) -> HeaderResult<T> {
        self.measure_fields(fields).map_err(HeaderError::trap)?;
        returned
    }

    /// Makes a handle to a map that belongs to another resource, or to a copy of it. Each is
    /// charged in full.
    pub(super) fn sharing_fields(
        &mut self,
        make: impl FnOnce(&mut Self) -> wasmtime::Result<Fields>,
    ) -> wasmtime::Result<Fields> {
        let made = self.making("the header map", HANDLE, make)?;
        self.measure_fields(made.rep())?;
        Ok(made)
    }
}

impl types::HostFields for HostState {
    fn new(&mut self) -> wasmtime::Result<Fields> {
        self.making("the header map", HANDLE, |state| {
            types::HostFields::new(&mut state.uncounted_http())
        })
    }

    fn from_list(&mut self, entries: Vec<(String, Vec<u8>)>) -> HeaderResult<Fields> {
        let charge = self.budget.charge("the header map", HANDLE);
        let charge = charge.map_err(HeaderError::trap)?;
        let made = types::HostFields::from_list(&mut self.uncounted_http(), entries)?;
        self.handles.keep(&made, charge);
        self.measure_fields(made.rep()).map_err(HeaderError::trap)?;
        Ok(made)
    }

    fn get(&mut self, fields: Fields, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        types::HostFields::get(&mut self.uncounted_http(), fields, name)
    }

    fn has(&mut self, fields: Fields, name: String) -> wasmtime::Result<bool> {
        types::HostFields::has(&mut self.uncounted_http(), fields, name)
    }

    fn set(&mut self, fields: Fields, name: String, values: Vec<Vec<u8>>) -> HeaderResult<()> {
        let handle = fields.rep();
        let returned = types::HostFields::set(&mut self.uncounted_http(), fields, name, values);
        self.changed(handle, returned)
    }

    fn delete(&mut self, fields: Fields, name: String) -> HeaderResult<()> {
        let handle = fields.rep();
        let returned = types::HostFields::delete(&mut self.uncounted_http(), fields, name);
        self.changed(handle, returned)
    }

    fn append(&mut self, fields: Fields, name: String, value: Vec<u8>) -> HeaderResult<()> {
        let handle = fields.rep();
        let returned = types::HostFields::append(&mut self.uncounted_http(), fields, name, value);
        self.changed(handle, returned)
    }

    fn entries(&mut self, fields: Fields) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        types::HostFields::entries(&mut self.uncounted_http(), fields)
    }

    fn clone(&mut self, fields: Fields) -> wasmtime::Result<Fields> {
        self.sharing_fields(|state| types::HostFields::clone(&mut state.uncounted_http(), fields))
    }

    fn drop(&mut self, fields: Fields) -> wasmtime::Result<()> {
        let handle = fields.rep();
        types::HostFields::drop(&mut self.uncounted_http(), fields)?;
        self.handles.release(handle);
        Ok(())
    }
}
