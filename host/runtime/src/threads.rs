//! The threads that attempts run on.
//!
//! This folder is for Linux, and does not compile elsewhere: it sets priorities and processors of
//! single threads and reads the machine's load from `/proc`. A port to another system replaces
//! [`processors`], whose functions may do nothing there. The threads then share the work in the same
//! way, but do not give way, so attempts that compute for long slow down claims and commits.
//!
//! | file | the concept |
//! |---|---|
//! | `background` | threads for attempts that compute for long, and which attempts begin there |
//! | `processors` | the share of the processors that these threads leave to others |

pub(crate) mod background;
pub(crate) mod processors;
