//! What every request goes through, whatever it is about, from its connection to its answer.
//!
//! | file | the concept |
//! |---|---|
//! | `server` | accept loop, graceful end |
//! | `connection_permits` | how many connections there may be, of one address and in all, and room for probes |
//! | `reserved_descriptors` | how the accept loop goes on when the process has no descriptors left |
//! | `connection`, `socket` | one connection: cut off while silent or not reading, closed so that its last answer arrives |
//! | `request` | around every request: id, span, metrics, time limit, security headers, problems written out |
//! | `target` | what HTTP asks of a request's target and `Host` |
//! | `guard` | whose web page a request comes from, where no key decides |
//! | `key` | the API key |
//! | `path`, `query`, `body` | what a request says, each with an error that names what is wrong |
//! | `json`, `fields` | reading JSON strictly, without rewriting it, and its objects field by field |
//! | `answer`, `problem` | answers, and RFC 9457 problem details, the only form of an error |

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod connection_permits;
pub(crate) mod fields;
pub(crate) mod guard;
pub(crate) mod json;
pub(crate) mod key;
pub(crate) mod path;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod request;
mod reserved_descriptors;
pub(crate) mod server;
mod socket;
mod target;
