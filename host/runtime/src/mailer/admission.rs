//! Limits on mail: turns among tenants, and a limit for each version and hour.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use taskforge_domain::{PluginInfo, TaskType, TenantId};

use super::{MailError, MailMessage, MailReceipt, Mailer};
use crate::fair::FairSemaphore;

/// Messages that are sent at once, each on a connection of its own.
const SENDS: usize = 16;

/// Messages of one tenant that may wait for their turn.
const WAITING: usize = 1_000;

/// An amount of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailAmount {
    /// Messages, one for each recipient.
    pub messages: u64,
    /// Bytes of addresses, headers, bodies and attachments, as the handler wrote them.
    pub bytes: u64,
}

impl MailAmount {
    pub(crate) fn of(message: &MailMessage) -> Self {
        let recipients = message.to.len() + message.cc.len() + message.bcc.len();
        Self { messages: recipients.max(1) as u64, bytes: message.size() }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Whether neither part is more than the other's.
    #[must_use]
    pub const fn is_within(self, limit: Self) -> bool {
        self.messages <= limit.messages && self.bytes <= limit.bytes
    }
}

/// Counts what versions of plugins send in each hour of the clock.
#[async_trait]
pub trait MailCounter: Send + Sync + 'static {
    /// Counts what is about to be sent, if the sum of this hour stays within `limit`. `false`: it
    /// does not, and nothing was counted.
    ///
    /// # Errors
    /// When it cannot be counted now.
    async fn count(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailAmount,
        limit: MailAmount,
    ) -> Result<bool, MailError>;
}

/// Counts for one process, and forgets with it.
#[derive(Debug, Default)]
pub struct MemoryMailCounter {
    hours: Mutex<HashMap<(TaskType, String), (i64, MailAmount)>>,
}

#[async_trait]
impl MailCounter for MemoryMailCounter {
    async fn count(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailAmount,
        limit: MailAmount,
    ) -> Result<bool, MailError> {
        let hour = Timestamp::now().as_second() / 3600;
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        hours.retain(|_, (then, _)| *then == hour);
        let key = (plugin.clone(), version.to_owned());
        let (counted, amount) = hours.entry(key).or_default();
        if *counted < hour {
            (*counted, *amount) = (hour, MailAmount::default());
        }
        let sum = amount.plus(sent);
        let is_within = sum.is_within(limit);
        if is_within {
            *amount = sum;
        }
        Ok(is_within)
    }
}

/// The mailer, behind its limits.
pub(crate) struct Admission {
    mailer: Arc<dyn Mailer>,
    counter: Arc<dyn MailCounter>,
    sends: FairSemaphore,
}

impl Admission {
    pub(crate) fn new(mailer: Arc<dyn Mailer>, counter: Option<Arc<dyn MailCounter>>) -> Self {
        Self {
            mailer,
            counter: counter.unwrap_or_else(|| Arc::new(MemoryMailCounter::default())),
            sends: FairSemaphore::new(SENDS, WAITING),
        }
    }

    /// Sends a message when it is the tenant's turn, if the version may send it in this hour. A
    /// message that the mailer then refuses is counted too.
    pub(crate) async fn send(
        &self,
        tenant: &TenantId,
        plugin: &PluginInfo,
        message: MailMessage,
    ) -> Result<MailReceipt, MailError> {
        let sent = MailAmount::of(&message);
        let limit = MailAmount {
            messages: plugin.limits.mails_per_hour.into(),
            bytes: plugin.limits.mail_bytes_per_hour,
        };
        let turn = self.sends.acquire(tenant).await;
        let _turn = turn.map_err(|refused| MailError::unavailable(refused.to_string()))?;
        let counted = self.counter.count(&plugin.name, &plugin.version, sent, limit);
        if !counted.await? {
            return Err(MailError::unavailable(format!(
                "mail was refused until the next hour: all attempts of {} {} together may send {} messages \
                 and {} bytes in one (`mails_per_hour` and `mail_bytes_per_hour` under [limits])",
                plugin.name, plugin.version, limit.messages, limit.bytes
            )));
        }
        self.mailer.send(message).await
    }
}
