//! One fsync for hundreds of tasks: callers queue up, one writer flushes.
//!
//! A [`Batcher`] is a cheap handle on a loop that owns the flush function. Callers hand it groups
//! of items and wait; the loop takes every group that waits, up to a limit, flushes them in one
//! call and gives each caller its part of the answer. While one flush is under way the next batch
//! gathers, so batches grow exactly when the writer is the bottleneck, and a lone caller never
//! waits for company.
//!
//! # Ownership and cancellation
//! An item belongs to the caller until [`Batcher::submit`] has a place in the queue for it; a call
//! that is dropped before has submitted nothing. From then on it belongs to the loop and *will* be
//! flushed, whether or not the caller still waits for the answer. Dropping one caller never affects
//! the items of another.
//!
//! # Neighbours
//! A flush that the database refuses is tried again in halves, down to the group that is at fault.
//! So what one caller brings never fails another's, and a row that can never be written is not
//! tried for ever.
//!
//! The loop ends when every handle is dropped or [`Batcher::close`] was called, after it has
//! flushed what was queued.

use std::{
    future::Future,
    ops::{Deref, Range},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::{StoreError, StoreResult};

/// How a [`Batcher`] gathers.
#[derive(Debug, Clone)]
pub struct BatcherConfig {
    /// Names the batcher in metrics.
    pub name: &'static str,
    /// The most items in a flush. A group that is larger by itself is flushed alone.
    pub max_items: usize,
    /// How long an incomplete batch waits for more items. Zero, the default, flushes as soon as the
    /// writer is free.
    pub linger: Duration,
    /// How long a batch waits for more items, at most, when the one before had at least
    /// [`BatcherConfig::busy_from`] and ended less than this time ago: no longer than that one
    /// took. For a writer whose flushes have a large fixed cost: under load it pays for itself. A
    /// lone caller never waits, and who comes right after a burst waits no longer than for another
    /// flush.
    pub busy_linger: Duration,
    /// See [`BatcherConfig::busy_linger`].
    pub busy_from: usize,
    /// Items that may be queued, those being flushed included; further callers wait for a place.
    pub queue: usize,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self {
            name: "batch",
            max_items: 512,
            linger: Duration::ZERO,
            busy_linger: Duration::ZERO,
            busy_from: 32,
            queue: 16_384,
        }
    }
}

/// The items of a flush. A cheap handle.
#[derive(Debug)]
pub struct Batch<T> {
    items: Arc<Vec<T>>,
    range: Range<usize>,
}

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items.get(self.range.clone()).unwrap_or_default()
    }
}

/// Items that stay together, with the way back to their caller.
struct Group<T, R> {
    items: Vec<T>,
    answer: oneshot::Sender<StoreResult<Vec<R>>>,
    /// The items' places in the queue, given back when their flush is over.
    _places: OwnedSemaphorePermit,
}

enum Message<T, R> {
    Group(Group<T, R>),
    /// No more will come.
    Close,
}

/// The handle on a coalescing loop; see the [module](self).
pub struct Batcher<T, R> {
    inbox: mpsc::UnboundedSender<Message<T, R>>,
    places: Arc<Semaphore>,
    queue: u32,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts the loop on the current tokio runtime.
    ///
    /// `flush` is called with the items of one or more groups, one call at a time. It answers with
    /// one `R` for each item in their order, and must do all or nothing. When it is refused
    /// ([`StoreError::Refused`], [`StoreError::Corrupt`]) it is called again with fewer groups; any
    /// other error goes to every caller of that flush.
    pub fn new<F, Fut>(config: BatcherConfig, flush: F) -> Self
    where
        F: FnMut(Batch<T>) -> Fut + Send + 'static,
        Fut: Future<Output = StoreResult<Vec<R>>> + Send + 'static,
        T: Sync,
    {
        let queue =
            u32::try_from(config.queue.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        // A u32 fits a usize wherever tokio runs.
        let places = Arc::new(Semaphore::new(queue as usize));
        let (inbox, messages) = mpsc::unbounded_channel();
        let writer = tokio::spawn(
            Writer { config, messages, next: None, closing: false, last: Flush::default() }
                .run(flush),
        );
        Self { inbox, places, queue, writer: Mutex::new(Some(writer)) }
    }

    /// Flushes a group, together with whatever else is waiting, and returns one answer for each
    /// item, in order. The group is never split: either all of it was flushed or none.
    ///
    /// Waits while the queue is full. A group larger than the whole queue waits until the queue is
    /// empty.
    ///
    /// # Errors
    /// What the flush failed with, or [`StoreError::Closed`] after [`Batcher::close`].
    pub async fn submit(&self, items: Vec<T>) -> StoreResult<Vec<R>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let answered = self.enter(items).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Queues a group.
    async fn enter(&self, items: Vec<T>) -> StoreResult<oneshot::Receiver<StoreResult<Vec<R>>>> {
        let wanted = u32::try_from(items.len()).unwrap_or(u32::MAX).min(self.queue);
        // Cancellation point: before this returns nothing is queued, afterwards everything is.
        let places = Arc::clone(&self.places)
            .acquire_many_owned(wanted)
            .await
            .map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let group = Group { items, answer, _places: places };
        self.inbox.send(Message::Group(group)).map_err(|_| StoreError::Closed)?;
        Ok(answered)
    }

    /// Flushes items that have nothing to do with each other, and returns what became of each, in
    /// order.
    pub async fn submit_each(&self, items: Vec<T>) -> Vec<StoreResult<R>> {
        let mut waiting = Vec::with_capacity(items.len());
        for item in items {
            waiting.push(self.enter(vec![item]).await);
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for answered in waiting {
            let answer = match answered {
                Ok(answered) => answered.await.unwrap_or(Err(StoreError::Closed)),
                Err(error) => Err(error),
            };
            answers.push(answer.and_then(|mut answer| answer.pop().ok_or(StoreError::Closed)));
        }
        answers
    }

    /// Whether the loop has ended: after a close, or because a flush panicked. Every submit then
    /// fails.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Takes no more groups, flushes those that are queued, and returns when that is done.
    pub async fn close(&self) {
        self.places.close();
        let mut writer = self.writer.lock().await;
        if let Some(handle) = writer.as_mut() {
            // A loop that is gone needs no message.
            self.inbox.send(Message::Close).ok();
            if let Err(error) = handle.await {
                tracing::error!(%error, "a batch writer ended badly");
            }
            *writer = None;
        }
    }
}

/// The loop's side.
struct Writer<T, R> {
    config: BatcherConfig,
    messages: mpsc::UnboundedReceiver<Message<T, R>>,
    /// A group that did not fit into the last batch and begins the next.
    next: Option<Group<T, R>>,
    closing: bool,
    last: Flush,
}

/// The last batch that was flushed.
#[derive(Default)]
struct Flush {
    items: usize,
    took: Duration,
    ended: Option<Instant>,
}

impl Flush {
    fn linger(&self, config: &BatcherConfig) -> Duration {
        let is_recent = self.ended.is_some_and(|ended| ended.elapsed() < config.busy_linger);
        if is_recent && self.items >= config.busy_from {
            config.linger.max(config.busy_linger.min(self.took))
        } else {
            config.linger
        }
    }
}

impl<T: Send + Sync + 'static, R: Send + 'static> Writer<T, R> {
    async fn run<F, Fut>(mut self, mut flush: F)
    where
        F: FnMut(Batch<T>) -> Fut + Send + 'static,
        Fut: Future<Output = StoreResult<Vec<R>>> + Send + 'static,
    {
        let size = metrics::histogram!("taskforge_store_batch_items", "batch" => self.config.name);
        let time =
            metrics::histogram!("taskforge_store_batch_seconds", "batch" => self.config.name);
        while let Some(batch) = self.gather().await {
            let mut items = Vec::with_capacity(batch.iter().map(|group| group.items.len()).sum());
            let mut callers = Vec::with_capacity(batch.len());
            for mut group in batch {
                let first = items.len();
                items.append(&mut group.items);
                callers.push(Caller {
                    items: first..items.len(),
                    answer: group.answer,
                    _places: group._places,
                });
            }
            let count = items.len();
            let begin = Instant::now();
            settle(&mut flush, items, callers).await;
            // Exact below 2^52 items.
            size.record(count as f64);
            let ended = Instant::now();
            self.last = Flush { items: count, took: ended - begin, ended: Some(ended) };
            time.record(self.last.took);
        }
    }

    /// The next batch, or `None` when there will be none.
    async fn gather(&mut self) -> Option<Vec<Group<T, R>>> {
        let first = match self.next.take() {
            Some(group) => group,
            None => self.receive().await?,
        };
        // Callers that the last flush has just woken get a chance to join before this batch leaves.
        tokio::task::yield_now().await;
        let mut count = first.items.len();
        let mut batch = vec![first];
        let linger = self.last.linger(&self.config);
        let until = Instant::now() + linger;
        while count < self.config.max_items {
            let group = match self.try_receive() {
                Some(group) => group,
                None if linger.is_zero() || self.closing => break,
                None => match tokio::time::timeout_at(until, self.receive()).await {
                    Ok(Some(group)) => group,
                    Ok(None) | Err(_) => break,
                },
            };
            if count + group.items.len() > self.config.max_items {
                self.next = Some(group);
                break;
            }
            count += group.items.len();
            batch.push(group);
        }
        Some(batch)
    }

    async fn receive(&mut self) -> Option<Group<T, R>> {
        if self.closing {
            return None;
        }
        match self.messages.recv().await {
            Some(Message::Group(group)) => Some(group),
            Some(Message::Close) | None => {
                self.closing = true;
                None
            }
        }
    }

    fn try_receive(&mut self) -> Option<Group<T, R>> {
        if self.closing {
            return None;
        }
        match self.messages.try_recv() {
            Ok(Message::Group(group)) => Some(group),
            Ok(Message::Close) => {
                self.closing = true;
                None
            }
            // Closed without a message: `receive` will find out.
            Err(_) => None,
        }
    }
}

/// A caller that waits for the answers to its items.
struct Caller<R> {
    items: Range<usize>,
    answer: oneshot::Sender<StoreResult<Vec<R>>>,
    _places: OwnedSemaphorePermit,
}

/// Flushes items and answers their callers, all at once if possible.
async fn settle<T, R, F, Fut>(flush: &mut F, items: Vec<T>, callers: Vec<Caller<R>>)
where
    F: FnMut(Batch<T>) -> Fut,
    Fut: Future<Output = StoreResult<Vec<R>>>,
{
    let items = Arc::new(items);
    // Last in, first out: what came first is settled first.
    let mut parts = vec![callers];
    while let Some(mut callers) = parts.pop() {
        let (Some(first), Some(last)) = (callers.first(), callers.last()) else {
            continue;
        };
        let range = first.items.start..last.items.end;
        let count = range.len();
        let batch = Batch { items: Arc::clone(&items), range };
        match flush(batch).await {
            Err(StoreError::Refused(_) | StoreError::Corrupt(_)) if callers.len() > 1 => {
                let others = callers.split_off(callers.len() / 2);
                parts.extend([others, callers]);
            }
            answers => reply(answers, count, callers),
        }
    }
}

/// Hands each caller its part of the answers. A caller that has gone does not hear; its items are
/// flushed all the same.
fn reply<R>(answers: StoreResult<Vec<R>>, expected: usize, callers: Vec<Caller<R>>) {
    let answers = answers.and_then(|answers| match answers.len() {
        count if count == expected => Ok(answers),
        count => {
            Err(StoreError::Refused(format!("a flush of {expected} items gave {count} answers")))
        }
    });
    match answers {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for caller in callers {
                let part = answers.by_ref().take(caller.items.len()).collect();
                caller.answer.send(Ok(part)).ok();
            }
        }
        Err(error) => {
            for caller in callers {
                caller.answer.send(Err(error.clone())).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests;
