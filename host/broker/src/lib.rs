//! The hint.
//!
//! A broker tells workers which task to try next, sooner and more fairly than asking the database would. It carries ids and never
//! the truth: a hint may come twice, late or not at all, and a claim in the store decides. So a broker may lose everything, and the cost
//! is latency until the sweeper has filled it again.
//!
//! | file | the concept |
//! |---|---|
//! | [`broker`](mod@broker) | the trait: hints in, hints out, and signals between processes |
//! | [`local`] | the broker inside one process |
//! | [`queue`] | who goes first: priorities, ageing, fair tenants |
//!
//! It knows no database and no plugin.

pub mod broker;
pub mod local;
pub mod queue;

pub use broker::{Broker, BrokerError, BrokerResult, Hint, Signal, Signals, Want};
pub use local::LocalBroker;
