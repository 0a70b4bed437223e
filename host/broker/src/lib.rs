//! Tells workers which task to claim next.
//!
//! A broker queues *hints*: the ids of tasks that may be pending. That is faster and fairer than
//! polling the database. A hint may come twice, late or not at all, because the claim in the store
//! decides what runs. So a broker may lose everything: tasks are late then, until the sweeper has
//! filled the queue again.
//!
//! | file | the concept |
//! |---|---|
//! | [`broker`](mod@broker) | the trait: push and pop hints, publish and subscribe to signals |
//! | [`queue`] | the order of hints: pauses, priorities, ageing, fair tenants; bounded lanes |
//! | [`local`] | the broker inside one process |
//! | [`redis`](mod@redis) | the broker of a fleet: the same rules on a server |
//! | [`direct`] | no queue: claims go by the store, and notices say when to look |
//! | [`fleet`] | Redis while it is there, the store while it is away |
//! | `batch` | one command for many callers |
//! | `waiters` | the waiting pops and their types |
//! | `notice` | what processes tell each other through the store |
//! | [`health`] | metrics |
//!
//! The crate knows no database and no plugin.

mod batch;
pub mod broker;
pub mod direct;
pub mod fleet;
pub mod health;
pub mod local;
mod notice;
pub mod queue;
pub mod redis;
mod waiters;

pub use broker::{
    Broker, BrokerError, BrokerResult, Bulletin, LOOK_PAUSE, MAX_NOTICE, Mode, Popped, ShortLane,
    Signal, Signals, Want,
};
pub use direct::StoreBroker;
pub use fleet::FleetBroker;
pub use local::LocalBroker;
pub use redis::{Eviction, RedisBroker, RedisConfig};
pub use taskforge_domain::QueuedTask;
