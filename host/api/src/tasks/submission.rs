//! From a client's JSON to a [`NewTask`].
//!
//! Every field is read on its own, so that one answer names everything that is wrong, each by its JSON pointer.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, value::RawValue};
use taskforge_domain::{Json, NewTask, Priority, RetryPolicy, TaskId, TaskType, TenantId, Timestamp};
use taskforge_schema::MAX_ERRORS;
use utoipa::ToSchema;

use crate::{
    FieldError, Problem,
    catalog::{Entry, Plugins},
    http::{
        fields::{self, DurationText, Fields, duration, finish},
        json,
    },
};

/// Tasks in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;
/// The furthest that a task may be put off.
const MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A task as a client asks for it.
///
/// Durations are text for people (`"1500ms"`, `"30s"`, `"2h"`) or a number of seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTask, example = json!({"task_type": "fibonacci", "input": {"n": 10}, "priority": 4}))]
#[expect(
    dead_code,
    reason = "describes the body for OpenAPI; `Submitter` reads it field by field"
)]
pub(crate) struct NewTaskBody {
    /// The plugin that handles it.
    #[schema(pattern = "^[A-Za-z][A-Za-z0-9_.-]{0,99}$", example = "fibonacci")]
    task_type: String,
    /// Must match the plugin's input schema. Kept exactly as written.
    #[schema(value_type = Value, required = false, default = json!({}))]
    input: Option<Value>,
    /// Another name for `input`. Use one of them.
    #[schema(value_type = Value, required = false, deprecated)]
    input_data: Option<Value>,
    /// Another name for `input`. Use one of them.
    #[schema(value_type = Value, required = false, deprecated)]
    payload: Option<Value>,
    /// 1 (lowest) to 5 (highest).
    #[schema(minimum = 1, maximum = 5, default = 3)]
    priority: Option<u8>,
    /// Attempts after the first one.
    #[schema(minimum = 0, maximum = 100, default = 3)]
    max_retries: Option<u32>,
    /// Upper bound of the delay before the first retry; it doubles with every further one. At most 7 days.
    #[schema(value_type = Option<DurationText>, required = false, default = "1s")]
    retry_base: Option<Value>,
    /// No delay between attempts is longer. At most 7 days, and not less than `retry_base`.
    #[schema(value_type = Option<DurationText>, required = false, default = "5m")]
    retry_cap: Option<Value>,
    /// Not before this time (RFC 3339). A time that has passed means at once. Not together with `delay`.
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<Timestamp>,
    /// Not before this much time has passed. Not together with `run_at`. At most 10 years.
    #[schema(value_type = Option<DurationText>, required = false)]
    delay: Option<Value>,
}

/// Many tasks, accepted together or not at all.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body for OpenAPI; `Submitter` reads it")]
pub(crate) struct BatchBody {
    /// At least one, at most 10,000.
    #[schema(min_items = 1, max_items = 10_000)]
    tasks: Vec<NewTaskBody>,
}

const FIELDS: [&str; 10] = [
    "task_type",
    "input",
    "input_data",
    "payload",
    "priority",
    "max_retries",
    "retry_base",
    "retry_cap",
    "run_at",
    "delay",
];

/// Reads tasks out of bodies.
pub(crate) struct Submitter {
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) tenant: TenantId,
    pub(crate) now: Timestamp,
}

impl Submitter {
    /// Reads the body of `POST /tasks`.
    pub(crate) fn one(&self, body: &[u8]) -> Result<NewTask, Problem> {
        let text = json::text(body)?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| json::malformed(&e))?;
        let mut errors = Vec::new();
        let task = self.task(raw, "", &mut errors);
        finish(task, errors)
    }

    /// Reads the body of `POST /tasks/batch`.
    pub(crate) fn batch(&self, body: &[u8]) -> Result<Vec<NewTask>, Problem> {
        fields::body(body, &["tasks"], |fields, errors| self.tasks(fields, errors))
    }

    fn tasks(&self, fields: &Fields<'_>, errors: &mut Vec<FieldError>) -> Option<Vec<NewTask>> {
        let Some(raw) = fields.get("tasks") else {
            errors.push(FieldError::at("/tasks", "is required"));
            return None;
        };
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
            errors.push(FieldError::at("/tasks", "must be an array"));
            return None;
        };
        if items.is_empty() || items.len() > MAX_BATCH {
            let detail = format!("must hold 1 to {MAX_BATCH} tasks, not {}", items.len());
            errors.push(FieldError::at("/tasks", detail));
            return None;
        }
        let mut tasks = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            tasks.extend(self.task(item, &format!("/tasks/{index}"), errors));
            if errors.len() >= MAX_ERRORS {
                break;
            }
        }
        Some(tasks)
    }

    /// Reads one task; adds what is wrong to `errors`, and returns `None` only if it added something.
    fn task(&self, raw: &RawValue, pointer: &str, errors: &mut Vec<FieldError>) -> Option<NewTask> {
        let fields = Fields::read(raw, pointer, &FIELDS, errors)?;
        // First: which version of a plugin will run it, and so what its input must be, depends on it.
        let id = TaskId::at(self.now);
        let task_type = self.plugin(&fields, id, errors);
        let entry = task_type.as_ref().map(|(_, entry)| *entry);
        let input = input(&fields, entry, errors);
        let priority = fields.parse("priority", errors, |raw| {
            let level = serde_json::from_str::<u8>(raw)
                .ok()
                .and_then(|level| Priority::new(level).ok());
            level.ok_or_else(|| "must be a whole number from 1 (lowest) to 5 (highest)".to_owned())
        });
        let retry = retry_policy(&fields, errors);
        let run_at = self.run_at(&fields, errors);
        Some(NewTask {
            id,
            tenant: self.tenant.clone(),
            task_type: task_type?.0,
            input: input?,
            priority: priority.unwrap_or_default(),
            retry,
            run_at,
            created_at: self.now,
        })
    }

    fn plugin(
        &self,
        fields: &Fields<'_>,
        id: TaskId,
        errors: &mut Vec<FieldError>,
    ) -> Option<(TaskType, &Entry)> {
        if fields.get("task_type").is_none() {
            errors.push(FieldError::at(fields.pointer("task_type"), "is required"));
            return None;
        }
        fields.parse("task_type", errors, |raw| {
            let name: String = serde_json::from_str(raw).map_err(|_| "must be a string".to_owned())?;
            let name = TaskType::new(&name).map_err(|e| e.to_string())?;
            let offer = self.plugins.find(&self.tenant, &name);
            let offer = offer.ok_or_else(|| self.plugins.unknown(&self.tenant, &name))?;
            Ok((name, offer.for_task(id)?))
        })
    }

    fn run_at(&self, fields: &Fields<'_>, errors: &mut Vec<FieldError>) -> Option<Timestamp> {
        let latest = later(self.now, MAX_AHEAD);
        let at = fields.parse("run_at", errors, |raw| {
            let at = serde_json::from_str::<String>(raw)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok());
            let at =
                at.ok_or_else(|| "must be a time in RFC 3339, such as \"2030-01-31T08:00:00Z\"".to_owned())?;
            if at > latest {
                Err("must be less than 10 years ahead".to_owned())
            } else {
                Ok(at)
            }
        });
        let delay = fields.parse("delay", errors, |raw| duration(raw, MAX_AHEAD, "10 years"));
        if at.is_some() && delay.is_some() {
            errors.push(FieldError::at(
                fields.pointer("delay"),
                "cannot be given together with run_at",
            ));
        }
        at.or_else(|| delay.map(|delay| later(self.now, delay)))
    }
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    now.checked_add(delay).unwrap_or(Timestamp::MAX)
}

fn input(fields: &Fields<'_>, entry: Option<&Entry>, errors: &mut Vec<FieldError>) -> Option<Json> {
    let mut given = ["input", "input_data", "payload"]
        .into_iter()
        .filter_map(|name| Some((name, fields.get(name)?)));
    let (name, text) = given
        .next()
        .map_or(("input", "{}"), |(name, raw)| (name, raw.get()));
    if let Some((other, _)) = given.next() {
        let detail = format!("is another name for {name}, which is given too; give one of them");
        errors.push(FieldError::at(fields.pointer(other), detail));
        return None;
    }
    let pointer = fields.pointer(name);
    let tree = match json::tree(text) {
        Ok(tree) => tree,
        Err(error) => {
            errors.push(FieldError::at(pointer, error.to_string()));
            return None;
        }
    };
    entry?.check_input(&tree, text.len(), &pointer, errors);
    // The text has parsed, so this cannot fail; it is an error all the same, not a panic.
    Json::parse(text.to_owned())
        .map_err(|e| errors.push(FieldError::at(pointer, e.to_string())))
        .ok()
}

fn retry_policy(fields: &Fields<'_>, errors: &mut Vec<FieldError>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let max_retries = fields.parse("max_retries", errors, |raw| {
        let count = serde_json::from_str::<u32>(raw)
            .ok()
            .filter(|count| *count <= RetryPolicy::MAX_RETRIES);
        count.ok_or_else(|| format!("must be a whole number from 0 to {}", RetryPolicy::MAX_RETRIES))
    });
    let delay = |raw: &str| duration(raw, RetryPolicy::MAX_DELAY, "7 days");
    let base = fields.parse("retry_base", errors, delay);
    let cap = fields.parse("retry_cap", errors, delay);
    let policy = RetryPolicy {
        max_retries: max_retries.unwrap_or(default.max_retries),
        base: base.unwrap_or_else(|| cap.map_or(default.base, |cap| cap.min(default.base))),
        cap: cap.unwrap_or_else(|| base.map_or(default.cap, |base| base.max(default.cap))),
    };
    if policy.base > policy.cap {
        errors.push(FieldError::at(
            fields.pointer("retry_base"),
            "must not be longer than retry_cap",
        ));
    }
    policy
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_documented_fields_are_the_fields_that_are_read() {
        let schema = serde_json::to_value(NewTaskBody::schema()).unwrap();
        let mut documented: Vec<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut read = FIELDS.to_vec();
        documented.sort_unstable();
        read.sort_unstable();
        assert_eq!(documented, read);
        assert_eq!(schema["required"], serde_json::json!(["task_type"]));
    }
}
