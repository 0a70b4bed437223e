//! What a plugin may reach outside its sandbox.
//!
//! | file | the concept |
//! |---|---|
//! | `http` | hosts with ports and methods, and exceptions from the address guard |
//! | `host` | patterns of hosts and ports |
//! | `name` | the one spelling of a name |
//! | `network` | ranges of addresses |
//! | `check` | whether grants may be given as they are written |
//! | `address` | which addresses are public, in whatever spelling |
//! | `mail` | senders and recipients by domain |
//! | `keyvalue` | kept values and their quota |
//! | `within` | whether grants stay within an upper bound |

mod address;
mod check;
mod host;
mod http;
mod keyvalue;
mod mail;
mod name;
mod network;
mod within;

use serde::{Deserialize, Serialize};

pub use self::{
    check::InvalidGrant,
    host::{HostPattern, InvalidHostPattern},
    http::{HostRule, HttpGrant},
    keyvalue::KeyValueGrant,
    mail::{DomainPattern, MailGrant},
    network::parse_network,
    within::Excess,
};

/// The operator's permissions for one plugin. The default is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Outgoing HTTP.
    pub http: HttpGrant,
    /// Sending e-mail through the host's mailer.
    pub mail: MailGrant,
    /// Which of the plugin's secrets it reads through `wasi:config`, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Keeping values in `wasi:keyvalue`.
    pub keyvalue: KeyValueGrant,
}
