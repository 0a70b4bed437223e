//! From a client's JSON to dead letters that run again.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::value::RawValue;
use taskforge_domain::{
    FailureKind, Fingerprint, Json, TaskId, TaskState, TaskType, TenantId, Timestamp,
};
use taskforge_store::{QueuedTask, TaskFilter};
use utoipa::{PartialSchema as _, ToSchema};

use crate::{
    FieldError, Problem, checks,
    http::{
        fields::{Object as _, True, finish, object, only_true, parsed, several, time},
        json,
    },
    state::App,
    tasks::enqueue,
};

/// Dead letters that may be named by their ids.
const MAX_IDS: usize = 1000;
/// Dead letters in one transaction: some tens of milliseconds, in which the database serves others
/// too.
pub(crate) const PAGE: u32 = 1000;
/// Dead letters in one request. More would take longer than a client waits.
pub(crate) const MAX_MOVED: u64 = 100_000;
/// Ids in the answer.
const MAX_TOLD: usize = 1000;
/// Task types that are looked at to find out whether an input is for one only.
const MAX_GROUPS: u32 = 1000;

object! {
    /// Which dead letters are to run again: exactly one of `ids`, `filter`, `group` and `all`.
    #[schema(as = Requeue)]
    pub(crate) struct RequeueBody<'t> {
        /// These, 1 to 1000.
        #[schema(value_type = Vec<uuid::Uuid>, required = false, min_items = 1, max_items = 1000)]
        ids: Option<Vec<TaskId>> = several::<TaskId>(MAX_IDS),
        /// Those that match.
        #[schema(value_type = Option<DeadLetterFilterBody>)]
        filter: Option<&'t RawValue>,
        /// Those of a group of `GET /dlq/groups`. Usually together with `task_type`.
        #[schema(value_type = Option<String>, required = false, pattern = "^[0-9a-fA-F]{16}$")]
        group: Option<Fingerprint> = parsed::<Fingerprint>,
        /// Only those of this type in the group.
        #[schema(value_type = Option<String>, required = false)]
        task_type: Option<TaskType> = parsed::<TaskType>,
        /// Every one.
        #[schema(schema_with = True::schema, required = false)]
        all: Option<bool> = only_true,
        /// Another input for each of them, which must match the schema of their type; so they must
        /// be of one type.
        #[schema(value_type = Value, required = false)]
        input: Option<&'t RawValue>,
    }
}

object! {
    /// Dead letters that have all of this in common. Empty matches none: say `all` if that is
    /// meant.
    #[schema(as = DeadLetterFilter)]
    pub(crate) struct DeadLetterFilterBody {
        /// Of this type, or of one of these.
        #[schema(value_type = Vec<String>, required = false, min_items = 1, max_items = 100)]
        task_type: Option<Vec<TaskType>> = several::<TaskType>(100),
        /// With a failure of this kind, or of one of these.
        #[schema(required = false, min_items = 1, max_items = 100)]
        error_kind: Option<Vec<FailureKind>> = several::<FailureKind>(100),
        /// In this group, or in one of these.
        #[schema(value_type = Option<Vec<String>>, required = false, min_items = 1,
            max_items = 100)]
        group: Option<Vec<Fingerprint>> = several::<Fingerprint>(100),
        /// Failed at this time or later.
        #[schema(value_type = Option<String>, format = DateTime)]
        failed_from: Option<Timestamp> = time,
        /// Failed before this time.
        #[schema(value_type = Option<String>, format = DateTime)]
        failed_before: Option<Timestamp> = time,
    }
}

/// What a requeue did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Requeued {
    /// Dead letters that are pending again.
    requeued: u64,
    /// The first 1000 of them, oldest first.
    #[schema(value_type = Vec<uuid::Uuid>)]
    ids: Vec<TaskId>,
    /// It stopped at 100,000, and there may be more: repeat the request.
    more: bool,
}

/// A request to run dead letters again.
#[derive(Debug)]
pub(crate) struct Requeue {
    filter: TaskFilter,
    input: Option<Json>,
}

impl Requeue {
    /// Reads the body of `POST /dlq/requeue`.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Problem> {
        let body = RequeueBody::from_body(body)?;
        let mut errors = Vec::new();
        let input = body.input.and_then(|raw| input(raw, &mut errors));
        let filter = choice(body, &mut errors);
        finish(filter.map(|filter| Self { filter, input }), errors)
    }

    /// Checks the new input against the schema of the one type that is concerned, and from here on
    /// concerns that type only.
    pub(crate) async fn check(&mut self, app: &App, tenant: &TenantId) -> Result<(), Problem> {
        let Some(input) = &self.input else { return Ok(()) };
        let refuse =
            |detail: String| Err(Problem::validation(vec![FieldError::at("/input", detail)]));
        let types = concerned(app, tenant, &self.filter).await?;
        let name = match types.iter().collect::<Vec<_>>().as_slice() {
            [] => return Ok(()),
            [name] => (*name).clone(),
            [a, b, ..] => {
                return refuse(format!(
                    "is for one task type, and these dead letters are of several, such as {a} and \
                     {b}; name one as task_type"
                ));
            }
        };
        let known = app.services.catalog.known();
        let Some(handler) = known.find(tenant, &name) else {
            return refuse(checks::unknown(&known, tenant, &name));
        };
        let faults = checks::faults(handler, input);
        if !faults.is_empty() {
            return Err(Problem::validation(faults));
        }
        self.filter.types = vec![name];
        Ok(())
    }

    /// Makes them pending again, page by page: each is a transaction of its own and has its hints
    /// pushed. A client that hangs up ends this after the page under way.
    pub(crate) async fn run(mut self, app: &App, tenant: &TenantId) -> Result<Requeued, Problem> {
        let began = app.now();
        let mut done = Requeued { requeued: 0, ids: Vec::new(), more: false };
        loop {
            let moved = self.page(app, tenant).await?;
            done.requeued += moved.len() as u64;
            let room = MAX_TOLD - done.ids.len();
            done.ids.extend(moved.iter().take(room).map(|task| task.id));
            if moved.len() < PAGE as usize {
                return Ok(done);
            }
            if done.requeued >= MAX_MOVED {
                done.more = true;
                return Ok(done);
            }
            // One that fails again at once must not be found again, or this would have no end.
            let before = self.filter.finished_before.unwrap_or(began);
            self.filter.finished_before = Some(before.min(began));
        }
    }

    async fn page(&self, app: &App, tenant: &TenantId) -> Result<Vec<QueuedTask>, Problem> {
        let (app, tenant) = (app.clone(), tenant.clone());
        let (filter, input) = (self.filter.clone(), self.input.clone());
        // A task of its own, so that what was committed is also hinted when nobody waits for the
        // answer any more.
        let page = tokio::spawn(async move {
            let store = &app.services.store;
            let moved = store.requeue(&tenant, &filter, PAGE, input.as_ref(), app.now()).await?;
            enqueue::push(&*app.services.broker, &moved).await;
            Ok(moved)
        });
        page.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a requeue ended badly");
            Err(Problem::internal())
        })
    }
}

/// The types of the dead letters that match, as far as it takes to know whether there is more than
/// one.
async fn concerned(
    app: &App,
    tenant: &TenantId,
    filter: &TaskFilter,
) -> Result<BTreeSet<TaskType>, Problem> {
    if let [name] = filter.types.as_slice() {
        return Ok(BTreeSet::from([name.clone()]));
    }
    let groups = app.services.store.dead_letters(tenant, filter, MAX_GROUPS).await?;
    Ok(groups.into_iter().map(|group| group.task_type).collect())
}

fn choice(body: RequeueBody<'_>, errors: &mut Vec<FieldError>) -> Option<TaskFilter> {
    let within = body.filter.filter(|raw| raw.get() != "null");
    let ways = [body.ids.is_some(), within.is_some(), body.group.is_some(), body.all.is_some()];
    if ways.into_iter().filter(|is_given| *is_given).count() != 1 {
        let detail = "must hold exactly one of ids, filter, group and all";
        errors.push(FieldError::at("", detail));
        return None;
    }
    if body.task_type.is_some() && body.group.is_none() {
        let detail = "goes with group only; a filter has a task_type of its own";
        errors.push(FieldError::at("/task_type", detail));
    }
    let mut filter = TaskFilter {
        ids: body.ids.unwrap_or_default(),
        states: vec![TaskState::Failed],
        types: body.task_type.into_iter().collect(),
        fingerprints: body.group.into_iter().collect(),
        ..TaskFilter::default()
    };
    if let Some(raw) = within {
        let before = errors.len();
        let body = DeadLetterFilterBody::read(raw, "/filter", errors)?;
        filter.types = body.task_type.unwrap_or_default();
        filter.error_kinds = body.error_kind.unwrap_or_default();
        filter.fingerprints = body.group.unwrap_or_default();
        filter.finished_from = body.failed_from;
        filter.finished_before = body.failed_before;
        let everything = TaskFilter { states: vec![TaskState::Failed], ..TaskFilter::default() };
        if errors.len() == before && filter == everything {
            let detail = "must say something; all: true stands for every dead letter";
            errors.push(FieldError::at("/filter", detail));
        }
    }
    Some(filter)
}

fn input(raw: &RawValue, errors: &mut Vec<FieldError>) -> Option<Json> {
    let text = raw.get();
    // Refuses what two readers would take differently, as for a new task.
    let read = json::tree(text).and_then(|_| Json::parse(text.to_owned()));
    read.map_err(|error| errors.push(FieldError::at("/input", error.to_string()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_choosing_becomes_a_filter_of_failed_tasks() {
        let read = |body: &str| Requeue::read(body.as_bytes()).unwrap();
        let id = TaskId::generate();
        assert_eq!(read(&format!(r#"{{"ids": ["{id}"]}}"#)).filter.ids, [id]);
        let all = read(r#"{"all": true, "input": null}"#);
        assert_eq!(all.filter.states, [TaskState::Failed]);
        assert_eq!(all.input.unwrap().as_str(), "null");
        let group = read(r#"{"group": "8913193a363691af", "task_type": "x"}"#).filter;
        assert_eq!((group.fingerprints.len(), group.types.len()), (1, 1));
        let filter = read(
            r#"{"filter": {"task_type": "x", "error_kind": ["trap", "permanent"],
                "failed_from": "2026-01-01T00:00:00Z"}}"#,
        );
        assert_eq!((filter.filter.types.len(), filter.filter.error_kinds.len()), (1, 2));
        assert!(filter.filter.finished_from.is_some());
    }

    #[test]
    fn what_is_not_one_clear_choice_is_refused() {
        for bad in [
            "{}",
            "[]",
            r#"{"all": false}"#,
            r#"{"all": "yes"}"#,
            r#"{"all": true, "group": "8913193a363691af"}"#,
            r#"{"all": true, "task_type": "x"}"#,
            r#"{"ids": []}"#,
            r#"{"ids": "all"}"#,
            r#"{"ids": [7]}"#,
            r#"{"filter": {}}"#,
            r#"{"filter": {"task_type": null}}"#,
            r#"{"filter": {"status": "pending"}}"#,
            r#"{"filter": {"error_kind": "bad luck"}}"#,
            r#"{"group": "xyz"}"#,
            r#"{"all": true, "input": {"n": 1, "n": 2}}"#,
            r#"{"all": true, "everything": true}"#,
        ] {
            assert!(Requeue::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
