//! Pages of a list of tasks, newest first: how much one holds, and where the next one goes on.

use axum::response::Response;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use taskforge_domain::{Task, TaskId, TenantId};
use taskforge_store::{Cursor, Page, TaskFilter};

use crate::{
    Problem,
    http::answer::json,
    state::App,
    tasks::view::{TaskList, TaskView},
};

/// Where a page of large tasks ends early, in bytes.
const PAGE_BYTES: usize = 16 << 20;
/// Tasks read at first, before it is known how large they are.
const FIRST_READ: u32 = 16;

/// A page of tasks, written out.
pub(crate) async fn answer(
    app: &App,
    tenant: &TenantId,
    filter: &TaskFilter,
    prefix: Option<IdPrefix>,
    after: Option<Cursor>,
    limit: u32,
) -> Result<Response, Problem> {
    let after = match &prefix {
        Some(prefix) => prefix.begin(after),
        None => after,
    };
    let (mut tasks, mut more) = page(app, tenant, filter, after, limit).await?;
    if let Some(prefix) = prefix {
        let with_prefix = tasks.iter().take_while(|task| prefix.first <= task.id).count();
        more &= with_prefix == tasks.len();
        tasks.truncate(with_prefix);
    }
    let next_cursor = tasks.last().filter(|_| more).map(|last| write_cursor(Cursor(last.id)));
    let tasks = tasks.iter().map(TaskView::from).collect();
    Ok(json(StatusCode::OK, &TaskList { tasks, next_cursor }))
}

/// Reads up to `limit` tasks, and whether there are more. A task may weigh megabytes, so a page is
/// read in pieces and ends where it gets too heavy; otherwise a thousand large tasks would be a
/// gigabyte of answer.
async fn page(
    app: &App,
    tenant: &TenantId,
    filter: &TaskFilter,
    mut after: Option<Cursor>,
    limit: u32,
) -> Result<(Vec<Task>, bool), Problem> {
    let mut tasks: Vec<Task> = Vec::new();
    let (mut bytes, mut read) = (0_usize, FIRST_READ);
    loop {
        // One more than wanted tells whether there is a next page.
        let wanted = limit + 1 - u32::try_from(tasks.len()).unwrap_or(limit);
        let asked = wanted.min(read);
        let piece = app.services.store.tasks(tenant, filter, Page { after, limit: asked }).await?;
        let complete = piece.len() < asked as usize;
        bytes += piece.iter().map(weight).sum::<usize>();
        after = piece.last().map(|task| Cursor(task.id)).or(after);
        tasks.extend(piece);
        if tasks.len() > limit as usize {
            tasks.truncate(limit as usize);
            return Ok((tasks, true));
        }
        if complete {
            return Ok((tasks, false));
        }
        if bytes >= PAGE_BYTES {
            return Ok((tasks, true));
        }
        // As many as fit into what is left, by the average so far.
        let fit = (PAGE_BYTES - bytes) / (bytes / tasks.len().max(1)).max(1);
        read = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
    }
}

fn weight(task: &Task) -> usize {
    // The rest of a task is about 500 bytes of JSON.
    500 + task.input.as_str().len() + task.result.as_ref().map_or(0, |result| result.as_str().len())
}

/// The ids that begin with some hexadecimal digits. Lists are in the order of ids, so these are
/// neighbours.
pub(crate) struct IdPrefix {
    first: TaskId,
    last: TaskId,
}

impl IdPrefix {
    /// Reads the digits, between which dashes count for nothing.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let digits = text.replace('-', "");
        let is_prefix =
            (1..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let filled = |with: &str| {
            uuid::Uuid::try_parse(&format!("{digits}{}", with.repeat(32 - digits.len())))
        };
        match is_prefix.then(|| filled("0").ok().zip(filled("f").ok())).flatten() {
            Some((first, last)) => {
                Ok(Self { first: TaskId::from_uuid(first), last: TaskId::from_uuid(last) })
            }
            None => Err("must be the beginning of an id: 1 to 32 hexadecimal digits".to_owned()),
        }
    }

    /// Where the list of them goes on.
    fn begin(&self, after: Option<Cursor>) -> Option<Cursor> {
        let above = self.last.as_uuid().as_u128().checked_add(1);
        let above = above.map(|above| TaskId::from_uuid(uuid::Uuid::from_u128(above)));
        let after = after.map(|Cursor(id)| id);
        above.into_iter().chain(after).min().map(Cursor)
    }
}

/// The place in a list, as clients hand it back.
fn write_cursor(Cursor(id): Cursor) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.as_uuid())
}

/// Reads what [`write_cursor`] wrote.
pub(crate) fn read_cursor(text: &str) -> Result<Cursor, String> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| uuid::Uuid::from_slice(&bytes).ok());
    bytes
        .map(|id| Cursor(TaskId::from_uuid(id)))
        .ok_or_else(|| "must be a next_cursor of an earlier answer".to_owned())
}
