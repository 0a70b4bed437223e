//! The most that the limits of any plugin may be on one host.

use std::{fmt::Display, time::Duration};

use crate::Limits;

/// A limit that is more than its ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{field} is {given}; this host allows at most {allowed}")]
pub struct AboveCeiling {
    /// Which limit.
    pub field: &'static str,
    /// The value in the settings.
    pub given: String,
    /// The ceiling of the host.
    pub allowed: String,
}

fn check<T: PartialOrd + Display>(
    field: &'static str,
    given: &T,
    allowed: &T,
) -> Result<(), AboveCeiling> {
    if given <= allowed {
        return Ok(());
    }
    Err(AboveCeiling { field, given: given.to_string(), allowed: allowed.to_string() })
}

impl Limits {
    /// The default ceilings: a multiple of what one task should need, and far below what would harm
    /// the host. The stack and the counts of memories and tables are
    /// those of [`Limits::default`], because address space is reserved for them.
    #[must_use]
    pub fn ceilings() -> Self {
        Self {
            fuel: 100_000_000_000_000,
            memory: 1 << 30,
            deadline: Duration::from_secs(24 * 3600),
            output: 16 << 20,
            log: 4 << 20,
            host_calls: 1_000_000_000,
            handles: 1_000_000,
            table_elements: 1_000_000,
            instances: 1_000,
            http_requests: 10_000,
            http_bytes: 1 << 30,
            mails: 10_000,
            mail_bytes: 256 << 20,
            mails_per_hour: 100_000,
            mail_bytes_per_hour: 4 << 30,
            ..Self::default()
        }
    }

    /// Checks that no limit is above its ceiling. [`Limits::concurrency`] has none, because it
    /// concerns the fleet and no single host.
    ///
    /// # Errors
    /// The first limit that is.
    pub fn within(&self, ceilings: &Self) -> Result<(), AboveCeiling> {
        // Destructured, so that a new limit cannot lack a ceiling.
        let Self {
            fuel,
            memory,
            deadline,
            output,
            log,
            host_calls,
            handles,
            stack,
            table_elements,
            instances,
            memories,
            tables,
            http_requests,
            http_bytes,
            mails,
            mail_bytes,
            mails_per_hour,
            mail_bytes_per_hour,
            concurrency: _,
        } = self;
        check("fuel", fuel, &ceilings.fuel)?;
        check("memory", memory, &ceilings.memory)?;
        check(
            "deadline",
            &humantime::Duration::from(*deadline),
            &humantime::Duration::from(ceilings.deadline),
        )?;
        check("output", output, &ceilings.output)?;
        check("log", log, &ceilings.log)?;
        check("host_calls", host_calls, &ceilings.host_calls)?;
        check("handles", handles, &ceilings.handles)?;
        check("stack", stack, &ceilings.stack)?;
        check("table_elements", table_elements, &ceilings.table_elements)?;
        check("instances", instances, &ceilings.instances)?;
        check("memories", memories, &ceilings.memories)?;
        check("tables", tables, &ceilings.tables)?;
        check("http_requests", http_requests, &ceilings.http_requests)?;
        check("http_bytes", http_bytes, &ceilings.http_bytes)?;
        check("mails", mails, &ceilings.mails)?;
        check("mail_bytes", mail_bytes, &ceilings.mail_bytes)?;
        check("mails_per_hour", mails_per_hour, &ceilings.mails_per_hour)?;
        check("mail_bytes_per_hour", mail_bytes_per_hour, &ceilings.mail_bytes_per_hour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_are_within_the_default_ceilings() {
        Limits::default().within(&Limits::ceilings()).unwrap();
        Limits::ceilings().within(&Limits::ceilings()).unwrap();
    }

    #[test]
    fn every_limit_has_a_ceiling() {
        let ceilings = Limits::ceilings();
        let fields = serde_json::to_value(&ceilings).unwrap();
        for (field, allowed) in fields.as_object().unwrap() {
            let mut above = fields.clone();
            above[field] = match allowed.as_u64() {
                Some(number) => (number + 1).into(),
                None => "1day 1ms".into(),
            };
            let limits: Limits = serde_json::from_value(above).unwrap();
            let error = limits.within(&ceilings).unwrap_err();
            assert_eq!(error.field, field);
        }
        let absurd = Limits { deadline: Duration::from_secs(u64::MAX >> 20), ..Limits::default() };
        let error = absurd.within(&ceilings).unwrap_err().to_string();
        assert!(
            error.starts_with("limits.deadline is ")
                && error.ends_with("this host allows at most 1day"),
            "{error}"
        );
    }
}
