//! Who vouches for a plugin's version, and for what of it.
//!
//! A signature is a DSSE envelope around a statement: which component this is, under which name and
//! version, whose, and what it may reach at most. So a signed component cannot pass under another
//! name, and nobody can grant it more than its signer meant it to have.
//!
//! | file | the concept |
//! |---|---|
//! | [`statement`] | what is signed |
//! | [`envelope`] | how a statement travels with its signatures |
//! | [`key`] | key pairs |
//! | [`policy`] | whose signatures this host takes |

pub mod envelope;
pub mod key;
pub mod policy;
pub mod statement;

pub use self::{
    envelope::{MAX_ENVELOPE, PAYLOAD_TYPE, sign, unverified},
    key::{KeyError, KeyPair, keygen},
    policy::{SignaturePolicy, TrustedKeys, Vouched},
    statement::Statement,
};
use taskforge_domain::{Excess, TaskType};

/// Why a signature, or its absence, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error(
        "{0} is not signed, and this host takes signed components only: sign it with `taskforge \
         plugin sign`, and push it with the signature, or attach that to a version that is stored \
         with `taskforge plugin attach`"
    )]
    Unsigned(TaskType),
    /// It is none.
    #[error("this is no signature of a plugin: {0}")]
    Form(String),
    /// It covers the component's bytes only, as those of earlier releases did.
    #[error(
        "this signature is of an earlier form, which covers the component's bytes and says nothing \
         of its name, version, owner and grants: sign the component again with `taskforge plugin \
         sign`"
    )]
    BytesOnly,
    /// A key that is trusted for others made it.
    #[error("{plugin} is signed with the key {key:?}, which is not trusted for {whose}")]
    NotTrusted {
        /// The plugin.
        plugin: TaskType,
        /// The key's name.
        key: String,
        /// `tenant acme`, or `shared plugins`.
        whose: String,
    },
    /// No known key made it.
    #[error("no key that this host trusts made the signature of {0}, or it was changed since")]
    NoMatch(TaskType),
    /// It is for something else.
    #[error("the signature is for {what} {said}, and this is {actual}")]
    Other {
        /// `version`, for example.
        what: &'static str,
        /// What the statement says.
        said: String,
        /// What is there.
        actual: String,
    },
    /// The settings allow more than the statement does.
    #[error("{0} is more than the signature allows")]
    Beyond(#[from] Excess),
}
