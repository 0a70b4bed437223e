//! What every database says in the same words.
//!
//! The files in `sql/` are not modules of this one: `postgres.rs` and `sqlite.rs` each include them
//! with `#[path]`, so that each database compiles them for its own types. There `super` is the
//! module of the database, of which they use
//!
//! - `driver`: what a connection, a transaction, a row and an answer are; how a transaction begins;
//!   how a list becomes a parameter; and the pieces of SQL that differ, as macros for [`concat!`]
//!   and as constants;
//! - `bulk`: the statements whose rows travel by the dozen;
//! - `components`: where the bytes of components are;
//! - `param`: [`crate::param`], and what the database adds to it.
//!
//! | file | the concept |
//! |---|---|
//! | `plugins` | the registry: `registry`, `versions`, `collect`, `secrets`, changed through `edit`; `usage`; `values`; `mail` |
//! | `list`, `read` | the read side |
//! | `operate`, `dead` | what a person does: cancel, retry, prune; dead letters |
//! | `lead`, `sweep`, `workers` | leadership, due tasks, lapses; who works |
//! | `policy` | how the fleet is shared out |
//! | `row` | rows into domain types |
//!
//! A statement that differs in more than a piece, and every statement of the hot operations
//! (enqueue, claim, complete, progress), is the database's own.
//!
//! A third database brings these four files, its hot operations and the same list of `#[path]`s. It
//! has to take `$1` for a parameter.
