//! The life of a plugin: pushed, checked, activated, tried, rolled back, and served by every
//! process.
//!
//! The registry is in the store, so every process finds the same: names, immutable versions, the
//! bytes, and which versions run. Whoever changes it goes through [`Registry`], whichever way a
//! component came. Every process learns of a change by a signal, or by looking each second, and
//! swaps what it serves once the new code is ready; attempts end on the version that they began
//! with.
//!
//! | file | the concept |
//! |---|---|
//! | [`registry`] | the one way to change what is registered |
//! | [`push`] | how a component comes in: signature, checks, compilation, and only then the store |
//! | `rollout` | which versions run: activate, roll back, canary, pause, retire |
//! | `settings` | whether settings make sense |
//! | [`review`] | what a component imports beside what it was granted |
//! | [`advice`] | limits suggested from what attempts used |
//! | [`signature`] | who vouches for a version, and for what of it |
//! | [`collect`] | versions that nothing refers to are deleted |
//! | [`secrets`] | what a plugin may know and nobody may read |
//! | [`catalog`] | the task types that this process knows, with their compiled schemas |
//! | [`follow`] | subscribes to changes, and has the catalog read them |
//! | [`live`] | what of the catalog is ready to run here |
//! | [`loader`] | makes ready what changed, and swaps it in |
//! | [`folder`] | a folder of components as a way to push |
//! | [`trial`] | takes back a canary that is worse than the stable version |
//! | [`usage`] | what attempts used, written each second |
//! | [`source`] | components for the sandbox, from the store |
//! | [`values`] | what plugins keep, in the store |
//! | [`mail`] | how much mail versions send, counted in the store |
//!
//! In: components, and what operators say of them. Out: plugins that are ready to run. It knows no
//! task's state, no HTTP and no SQL.

pub mod advice;
pub mod catalog;
pub mod collect;
pub mod error;
pub mod folder;
pub mod follow;
pub mod live;
pub mod loader;
pub mod mail;
pub mod push;
pub mod registry;
pub mod review;
mod rollout;
pub mod secrets;
mod settings;
pub mod signature;
pub mod source;
pub mod trial;
pub mod usage;
pub mod values;

pub use advice::{Advice, Figure};
pub use catalog::{Catalog, CatalogError, ExternalType, Handler, KnownPlugin, KnownTypes};
pub use collect::{Collector, Pruned, Retention};
pub use error::{RegistryError, RegistryResult};
pub use folder::{Folder, FolderProgress};
pub use follow::Follower;
pub use live::{Live, Serving};
pub use loader::{Loader, LoaderParts};
pub use mail::StoredMailCounter;
pub use push::{Push, Pushed, SameVersion, SettingsFrom};
pub use registry::{DEFAULT_QUOTA, Parts, Registry, SecretInfo};
pub use review::{Reviewed, review};
pub use rollout::Force;
pub use secrets::{Keyring, KeyringError, SecretError};
pub use signature::{SignatureError, SignaturePolicy, Statement, TrustedKeys, Vouched};
pub use source::StoredComponents;
pub use taskforge_runtime::LoadError;
pub use trial::Trials;
pub use usage::UsageBoard;
pub use values::StoredValues;
