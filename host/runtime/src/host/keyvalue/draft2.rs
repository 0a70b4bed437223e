//! The second draft of the interface: numbers have a sign, cursors are keys, and a value can be
//! swapped.

use wasmtime::component::{HasSelf, Linker, Resource};

use super::{Bucket, key_fits};
use crate::{
    contract::{
        keyvalue::store::Error as FirstError,
        keyvalue_draft2::{
            atomics::{self, CasError},
            batch,
            store::{self, Error, KeyResponse},
        },
    },
    host::{HostState, handles::HANDLE},
    keyvalue::{MAX_BUCKET, MAX_KEY, Seen, seen},
};

/// A value as it was seen, as a digest, so that a guest may keep many without filling the host's
/// memory. Public because the generated bindings export it again; nothing leaves this crate.
pub struct Cas {
    bucket: Bucket,
    key: String,
    seen: Seen,
}

/// What a call returns: a trap outside, the interface's own error inside.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl From<FirstError> for Error {
    fn from(error: FirstError) -> Self {
        match error {
            FirstError::NoSuchStore => Self::NoSuchStore,
            FirstError::AccessDenied => Self::AccessDenied,
            FirstError::Other(text) => Self::Other(text),
        }
    }
}

impl Cas {
    async fn of(bucket: Bucket, key: String) -> Result<Self, FirstError> {
        let value = bucket.get(&key).await?;
        Ok(Self { bucket, key, seen: seen(value.as_deref()) })
    }
}

impl HostState {
    fn hold_cas(&mut self, cas: Cas) -> wasmtime::Result<Resource<Cas>> {
        self.making("the value's state", HANDLE + (MAX_BUCKET + MAX_KEY) as u64, |state| {
            Ok(state.table.push(cas)?)
        })
    }
}

impl store::Host for HostState {
    async fn open(&mut self, name: String) -> Answer<Resource<Bucket>> {
        match self.open_bucket(name) {
            Ok(bucket) => Ok(Ok(self.hold_bucket(bucket)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }
}

impl store::HostBucket for HostState {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let bucket = self.table.get(&bucket)?;
        let value = bucket.get(&key).await.map_err(Error::from);
        self.carry_value(&value)?;
        Ok(value)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.set(vec![(key, value)]).await.map_err(Error::from))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.delete(vec![key]).await.map_err(Error::from))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let bucket = self.table.get(&bucket)?;
        let value = bucket.get(&key).await.map_err(Error::from);
        Ok(value.map(|value| value.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Answer<KeyResponse> {
        let bucket = self.table.get(&bucket)?;
        if cursor.as_ref().is_some_and(|cursor| cursor.len() > MAX_KEY) {
            return Ok(Err(Error::Other("this cursor is not known".to_owned())));
        }
        let page = bucket.page(cursor.as_deref()).await.map_err(Error::from);
        self.carry_keys(page.as_ref().map_or(&[], |(keys, _)| keys))?;
        Ok(page.map(|(keys, cursor)| KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.drop_bucket(bucket)
    }
}

impl atomics::HostCas for HostState {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        let bucket = self.table.get(&bucket)?.clone();
        match Cas::of(bucket, key).await {
            Ok(cas) => Ok(Ok(self.hold_cas(cas)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        let cas = self.table.get_mut(&cas)?;
        let value = cas.bucket.get(&cas.key).await.map_err(Error::from);
        if let Ok(value) = &value {
            cas.seen = seen(value.as_deref());
        }
        self.carry_value(&value)?;
        Ok(value)
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        let handle = cas.rep();
        self.table.delete(cas)?;
        self.handles.release(handle);
        Ok(())
    }
}

impl atomics::Host for HostState {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Answer<i64> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.add(&key, delta).await.map_err(Error::from))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), CasError>> {
        let handle = cas.rep();
        let Cas { bucket, key, seen } = self.table.delete(cas)?;
        self.handles.release(handle);
        let swapped = async {
            key_fits(&key)?;
            if bucket.swap(&key, seen, value).await? {
                return Ok(None);
            }
            Cas::of(bucket, key).await.map(Some)
        };
        Ok(match swapped.await {
            Ok(None) => Ok(()),
            Ok(Some(cas)) => Err(CasError::CasFailed(self.hold_cas(cas)?)),
            Err(error) => Err(CasError::StoreError(error.into())),
        })
    }
}

impl batch::Host for HostState {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        let most = self.batch_room();
        let bucket = self.table.get(&bucket)?;
        let found = bucket.get_many(keys, most).await.map_err(Error::from);
        self.carry_batch(&found)?;
        Ok(found)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        values: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.set(values).await.map_err(Error::from))
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.delete(keys).await.map_err(Error::from))
    }
}

pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    atomics::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    batch::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)
}
