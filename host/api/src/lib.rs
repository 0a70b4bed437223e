//! The HTTP API.
//!
//! Everything that reaches TaskForge over HTTP comes in here, is checked here, and is refused here
//! if it is wrong: a task that gets past this crate has a known type, an input that matches that
//! type's schema, and is committed before the client hears of it.
//!
//! Each feature has a folder with its routes, bodies and views:
//!
//! | folder | the feature |
//! |---|---|
//! | `tasks` | tasks, from a client's JSON to a `NewTask`; their commits and hints; logs; who waits for which to end |
//! | `dead_letters` | tasks that have failed for good: listed, grouped, run again, deleted |
//! | `external_workers` | workers outside the fleet: leases, their tokens, and how attempts end |
//! | `queues` | pauses, caps and weights |
//! | `plugins` | the registry: components pushed, versions, rollouts, secrets, and why it refuses |
//! | `operations` | health, readiness, metrics; [`admin`] has the same for processes without an API |
//!
//! and they share
//!
//! | file | the concept |
//! |---|---|
//! | `http` | what every request goes through: connections, key, reading and answering |
//! | `checks` | what clients are told of unknown types, and of values that do not fit a schema |
//! | `openapi` | the document that describes the routes, and the pages that show it |
//! | `routes` | the routes of all features, put together |
//! | `state`, `services`, [`config`] | what handlers are given, what the process gives, and the limits |
//!
//! In: HTTP/1.1 requests. Out: rows through [`taskforge_store::Store`], hints and signals through
//! [`taskforge_broker::Broker`], changes of plugins through [`taskforge_registry::Registry`], and
//! answers. It never runs a task, and never knows which database or broker it talks to.

mod checks;
pub mod config;
mod dead_letters;
mod external_workers;
mod http;
mod openapi;
mod operations;
mod plugins;
mod queues;
mod routes;
mod services;
mod state;
mod tasks;

pub use self::http::{
    key::{ApiKey, InvalidApiKey},
    path::Tenant,
    problem::{FieldError, Problem, ProblemKind},
    server::{BindError, ServeError, Server, bind},
};
pub use config::ApiConfig;
pub use operations::{
    admin::{self, AdminServices},
    metrics::{Metrics, MetricsError},
};
pub use routes::{openapi, router};
pub use services::{AlwaysReady, Readiness, Services};
