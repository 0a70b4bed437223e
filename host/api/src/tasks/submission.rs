//! From a client's JSON to a [`NewTask`].
//!
//! Every field is read on its own, so that one answer names everything that is wrong, each by its
//! JSON pointer.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use taskforge_domain::{
    Json, NewTask, Priority, RetryPolicy, TaskId, TaskType, TenantId, Timestamp,
};
use taskforge_registry::KnownTypes;
use taskforge_schema::{MAX_ERRORS, Schema};

use crate::{
    FieldError, Problem,
    checks::{check, unknown},
    http::{
        fields::{DurationText, Object as _, duration, finish, object, parsed, time, whole},
        json,
    },
};

/// Tasks in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;
/// The furthest that a task may be put off.
const MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

object! {
    /// A task as a client asks for it.
    ///
    /// Durations are text for people (`"1500ms"`, `"30s"`, `"2h"`) or a number of seconds.
    #[schema(as = NewTask, example = json!({
        "task_type": "fibonacci", "input": {"n": 10}, "priority": 4}))]
    pub(crate) struct NewTaskBody<'t> {
        /// The plugin that handles it.
        #[schema(value_type = String, required, pattern = "^[A-Za-z][A-Za-z0-9_.-]{0,99}$",
            example = "fibonacci")]
        task_type: Option<&'t RawValue>,
        /// Must match the plugin's input schema. Kept exactly as written.
        #[schema(value_type = Value, required = false, default = json!({}))]
        input: Option<&'t RawValue>,
        /// Another name for `input`. Use one of them.
        #[schema(value_type = Value, required = false, deprecated)]
        input_data: Option<&'t RawValue>,
        /// Another name for `input`. Use one of them.
        #[schema(value_type = Value, required = false, deprecated)]
        payload: Option<&'t RawValue>,
        /// 1 (lowest) to 5 (highest).
        #[schema(value_type = Option<u8>, minimum = 1, maximum = 5, default = 3)]
        priority: Option<Priority> = priority,
        /// Attempts after the first one.
        #[schema(minimum = 0, maximum = 100, default = 3)]
        max_retries: Option<u32> = whole(0, RetryPolicy::MAX_RETRIES),
        /// Upper bound of the delay before the first retry; it doubles with every further one. At
        /// most 7 days.
        #[schema(value_type = Option<DurationText>, required = false, default = "1s")]
        retry_base: Option<Duration> = duration(RetryPolicy::MAX_DELAY, "7 days"),
        /// No delay between attempts is longer. At most 7 days, and not less than `retry_base`.
        #[schema(value_type = Option<DurationText>, required = false, default = "5m")]
        retry_cap: Option<Duration> = duration(RetryPolicy::MAX_DELAY, "7 days"),
        /// Not before this time (RFC 3339). A time that has passed means at once. Not together with
        /// `delay`.
        #[schema(value_type = Option<String>, format = DateTime)]
        run_at: Option<Timestamp> = time,
        /// Not before this much time has passed. Not together with `run_at`. At most 10 years.
        #[schema(value_type = Option<DurationText>, required = false)]
        delay: Option<Duration> = duration(MAX_AHEAD, "10 years"),
    }
}

fn priority(raw: &str) -> Result<Priority, String> {
    let level = serde_json::from_str::<u8>(raw).ok();
    let priority = level.and_then(|level| Priority::new(level).ok());
    priority.ok_or_else(|| "must be a whole number from 1 (lowest) to 5 (highest)".to_owned())
}

object! {
    /// Many tasks, accepted together or not at all.
    pub(crate) struct BatchBody<'t> {
        /// At least one, at most 10,000.
        #[schema(value_type = Vec<NewTaskBody<'_>>, required, min_items = 1, max_items = 10_000)]
        tasks: Option<&'t RawValue>,
    }
}

/// Reads tasks out of bodies.
pub(crate) struct Submitter {
    pub(crate) known: Arc<KnownTypes>,
    pub(crate) tenant: TenantId,
    pub(crate) now: Timestamp,
}

impl Submitter {
    /// Reads the body of `POST /tasks`.
    pub(crate) fn one(&self, body: &[u8]) -> Result<NewTask, Problem> {
        let mut errors = Vec::new();
        let task = self.task(json::raw(body)?, "", &mut errors);
        finish(task, errors)
    }

    /// Reads the body of `POST /tasks/batch`.
    pub(crate) fn batch(&self, body: &[u8]) -> Result<Vec<NewTask>, Problem> {
        let mut errors = Vec::new();
        let tasks = self.tasks(&BatchBody::from_body(body)?, &mut errors);
        finish(tasks, errors)
    }

    fn tasks(&self, body: &BatchBody<'_>, errors: &mut Vec<FieldError>) -> Option<Vec<NewTask>> {
        let items = match body.tasks {
            None => Err("is required".to_owned()),
            Some(raw) => match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
                Err(_) => Err("must be an array".to_owned()),
                Ok(items) if items.is_empty() || items.len() > MAX_BATCH => {
                    Err(format!("must hold 1 to {MAX_BATCH} tasks, not {}", items.len()))
                }
                Ok(items) => Ok(items),
            },
        };
        let items = items.map_err(|detail| errors.push(FieldError::at("/tasks", detail))).ok()?;
        let mut tasks = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            tasks.extend(self.task(item, &format!("/tasks/{index}"), errors));
            if errors.len() >= MAX_ERRORS {
                break;
            }
        }
        Some(tasks)
    }

    /// Reads one task; adds what is wrong to `errors`, and returns `None` only if it added
    /// something.
    fn task(&self, raw: &RawValue, pointer: &str, errors: &mut Vec<FieldError>) -> Option<NewTask> {
        let before = errors.len();
        let body = NewTaskBody::read(raw, pointer, errors)?;
        // First: which version of a plugin will run it, and so what its input must be, depends on
        // it.
        let id = TaskId::at(self.now);
        let task_type = self.plugin(body.task_type, id).map_err(|detail| {
            let error = FieldError::at(format!("{pointer}/task_type"), detail);
            // What it is matters more than the rest of it.
            errors.insert(before, error);
        });
        let task_type = task_type.ok();
        let input = input(&body, task_type.as_ref().map(|(_, schema)| *schema), pointer, errors);
        let retry = retry_policy(&body, pointer, errors);
        let run_at = self.run_at(&body, pointer, errors);
        Some(NewTask {
            id,
            tenant: self.tenant.clone(),
            task_type: task_type?.0,
            input: input?,
            priority: body.priority.unwrap_or_default(),
            retry,
            run_at,
            created_at: self.now,
        })
    }

    fn plugin(&self, raw: Option<&RawValue>, id: TaskId) -> Result<(TaskType, &Schema), String> {
        let raw = raw.ok_or_else(|| "is required".to_owned())?;
        let name: TaskType = parsed(raw.get())?;
        let handler = self.known.find(&self.tenant, &name);
        let handler = handler.ok_or_else(|| unknown(&self.known, &self.tenant, &name))?;
        let schema = handler.input(id).map_err(|error| error.to_string())?;
        Ok((name, schema))
    }

    fn run_at(
        &self,
        body: &NewTaskBody<'_>,
        pointer: &str,
        errors: &mut Vec<FieldError>,
    ) -> Option<Timestamp> {
        if body.run_at.is_some_and(|at| at > later(self.now, MAX_AHEAD)) {
            let detail = "must be less than 10 years ahead";
            errors.push(FieldError::at(format!("{pointer}/run_at"), detail));
        }
        if body.run_at.is_some() && body.delay.is_some() {
            let detail = "cannot be given together with run_at";
            errors.push(FieldError::at(format!("{pointer}/delay"), detail));
        }
        body.run_at.or_else(|| body.delay.map(|delay| later(self.now, delay)))
    }
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    now.checked_add(delay).unwrap_or(Timestamp::MAX)
}

fn input(
    body: &NewTaskBody<'_>,
    schema: Option<&Schema>,
    pointer: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Json> {
    let names = [("input", body.input), ("input_data", body.input_data), ("payload", body.payload)];
    let mut given = names.into_iter().filter_map(|(name, raw)| Some((name, raw?.get())));
    let (name, text) = given.next().unwrap_or(("input", "{}"));
    if let Some((other, _)) = given.next() {
        let detail = format!("is another name for {name}, which is given too; give one of them");
        errors.push(FieldError::at(format!("{pointer}/{other}"), detail));
        return None;
    }
    let pointer = format!("{pointer}/{name}");
    let tree = match json::tree(text) {
        Ok(tree) => tree,
        Err(error) => {
            errors.push(FieldError::at(pointer, error.to_string()));
            return None;
        }
    };
    check(schema?, &tree, text.len(), &pointer, errors);
    // The text has parsed, so this cannot fail; it is an error all the same, not a panic.
    Json::parse(text.to_owned())
        .map_err(|e| errors.push(FieldError::at(pointer, e.to_string())))
        .ok()
}

fn retry_policy(
    body: &NewTaskBody<'_>,
    pointer: &str,
    errors: &mut Vec<FieldError>,
) -> RetryPolicy {
    let default = RetryPolicy::default();
    let (base, cap) = (body.retry_base, body.retry_cap);
    let policy = RetryPolicy {
        max_retries: body.max_retries.unwrap_or(default.max_retries),
        base: base.unwrap_or_else(|| cap.map_or(default.base, |cap| cap.min(default.base))),
        cap: cap.unwrap_or_else(|| base.map_or(default.cap, |base| base.max(default.cap))),
    };
    if policy.base > policy.cap {
        let detail = "must not be longer than retry_cap";
        errors.push(FieldError::at(format!("{pointer}/retry_base"), detail));
    }
    policy
}
