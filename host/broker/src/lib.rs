//! The hint.
//!
//! A broker tells workers which task to try next, sooner and more fairly than asking the database
//! would. It carries ids and never the truth: a hint may come twice, late or not at all, and a
//! claim in the store decides. So a broker may lose everything, and the cost is latency until the
//! sweeper has filled it again.
//!
//! | file | the concept |
//! |---|---|
//! | [`broker`](mod@broker) | the trait: hints in, hints out, and signals between processes |
//! | [`queue`] | who goes first: pauses, priorities, ageing, fair tenants; lanes that know where they stop |
//! | [`local`] | the broker inside one process |
//! | [`redis`](mod@redis) | the broker of a fleet: the same rules on a server |
//! | [`direct`] | no broker at all: the store, and a bulletin that says when to look |
//! | [`fleet`] | Redis while it is there, the store while it is away |
//! | `batch` | many callers, one command |
//! | `waiters` | who waits for which types |
//! | `notice` | what processes tell each other on the bulletin |
//! | [`health`] | what metrics say |
//!
//! It knows no database and no plugin.

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
    Broker, BrokerError, BrokerResult, Bulletin, Hint, LOOK_PAUSE, MAX_NOTICE, Mode, Popped,
    ShortLane, Signal, Signals, Want,
};
pub use direct::StoreBroker;
pub use fleet::FleetBroker;
pub use local::LocalBroker;
pub use redis::{Eviction, RedisBroker, RedisConfig};
