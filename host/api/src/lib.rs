//! The door.
//!
//! Everything that reaches TaskForge over HTTP comes in here, is checked here, and is refused here if it is wrong: a task that gets
//! past this room has a known type, an input that matches that type's schema, and is committed before the client hears of it.
//!
//! | file | the concept |
//! |---|---|
//! | [`config`] | the limits of the door |
//! | `server` | accept loop, graceful end; `spare` keeps descriptors for it |
//! | `seats` | how many connections there may be, of one address and in all, and room for probes |
//! | `connection`, `socket` | one connection: cut off while silent or not reading, closed so that its last answer arrives |
//! | `target` | what HTTP asks of a request's target and `Host` |
//! | `guard` | whose web page a request comes from, where no key decides |
//! | `request` | around every request: id, span, metrics, security headers, problems written out |
//! | `key` | the one key that opens the door |
//! | [`problem`] | RFC 9457 problem details, the only form of an error |
//! | `turns` | whose component is received next |
//! | `extract`, `body` | tenant, ids, query parameters and bodies, each with an error that names what is wrong |
//! | `json` | reading JSON text strictly, without rewriting it |
//! | `submission`, `fields` | from a client's JSON to a `NewTask` |
//! | [`catalog`] | the task types that the fleet knows |
//! | `enqueue` | a commit, then its hints, whether or not the client still waits |
//! | `requeue` | dead letters that run again |
//! | `handout`, `report`, `completion`, `lease_token` | workers outside the fleet: what they get, what they say, what comes of it, how they prove that it is theirs |
//! | `finishes` | who waits for which task to end |
//! | `plugin_view`, `refusal` | plugins and their versions as clients see them, and why the registry refuses |
//! | `view`, `story` | tasks and their logs as clients see them |
//! | `routes` | the routes; `openapi` and `docs` describe and show them |
//! | `vitals`, [`metrics`](mod@metrics) | what a process says about itself |
//! | [`admin`] | the same for processes without a door |
//!
//! In: HTTP/1.1 requests. Out: rows through [`taskforge_store::Store`], hints and signals through [`taskforge_broker::Broker`], changes of
//! plugins through [`taskforge_registry::Registry`], and answers. It never runs a task, and never knows which database or broker it talks to.

pub mod admin;
mod body;
pub mod catalog;
mod completion;
pub mod config;
mod connection;
mod docs;
mod enqueue;
mod extract;
mod fields;
mod finishes;
mod guard;
mod handout;
mod json;
mod key;
mod lease_token;
pub mod metrics;
mod openapi;
mod plugin_view;
pub mod problem;
mod refusal;
mod report;
mod request;
mod requeue;
mod routes;
mod seats;
mod server;
mod services;
mod socket;
mod spare;
mod state;
mod story;
mod submission;
mod target;
mod turns;
mod view;
mod vitals;

pub use admin::AdminServices;
pub use catalog::{Catalog, CatalogError, ExternalType};
pub use config::ApiConfig;
pub use extract::Tenant;
pub use key::{ApiKey, InvalidApiKey};
pub use metrics::{Metrics, MetricsError};
pub use openapi::openapi;
pub use problem::{FieldError, Problem, ProblemKind};
pub use routes::router;
pub use server::{BindError, ServeError, Server, bind};
pub use services::{AlwaysReady, Readiness, Services};
