//! The connection that hears: wake-ups and signals.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use redis::{Client, Msg, aio::PubSub};
use tokio::{
    sync::{broadcast, watch},
    time::{MissedTickBehavior, timeout},
};

use super::{
    link::{Link, RETRY, State},
    wire,
};
use crate::{BrokerError, BrokerResult, Signal, waiters::Waiters};

/// How often a silent server is asked whether it is still there: a connection can be gone without a
/// word.
const PING: Duration = Duration::from_secs(2);

/// A moment between a subscription's end and the next, so that a server that throws us out is not
/// stormed.
const REST: Duration = Duration::from_millis(50);

/// One subscription for the whole process.
#[derive(Debug)]
pub(super) struct Subscriber {
    wake: String,
    signals: String,
    hears: watch::Sender<bool>,
    has_heard: AtomicBool,
}

impl Subscriber {
    /// Deaf until [`Subscriber::listen`].
    pub(super) fn new(wake: String, signals: String) -> Self {
        Self { wake, signals, hears: watch::Sender::new(false), has_heard: AtomicBool::new(false) }
    }

    /// Whether a wake-up would be heard now.
    pub(super) fn hears(&self) -> bool {
        *self.hears.borrow()
    }

    /// Tells when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.hears.subscribe()
    }

    /// Subscribes, and again whenever that ends; never ends.
    pub(super) async fn listen(
        &self,
        link: &Link,
        waiters: &Waiters,
        signals: &broadcast::Sender<Signal>,
    ) {
        let mut pause = RETRY.0;
        loop {
            let attempt = timeout(2 * link.timeout(), self.subscribe(link)).await;
            let attempt =
                attempt.unwrap_or_else(|_| Err(BrokerError("no answer from Redis".into())));
            if let Err(error) = &attempt
                && link.state() == State::Up
            {
                tracing::warn!(%error, "wake-ups of Redis are not heard; workers look for themselves");
            }
            if let Ok(pubsub) = attempt {
                pause = RETRY.0;
                self.hears.send_replace(true);
                // What was said in between was not heard.
                waiters.wake_all();
                if self.has_heard.swap(true, Ordering::Relaxed) {
                    signals.send(Signal::Missed).ok();
                }
                self.hear(pubsub, link.timeout(), waiters, signals).await;
                self.hears.send_replace(false);
                tracing::debug!("the subscription to Redis ended");
                // Waiting pops look for themselves meanwhile.
                waiters.wake_all();
                // The other connection may be gone too, and nobody has noticed.
                link.command::<()>(&redis::cmd("PING")).await.ok();
                tokio::time::sleep(REST).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(RETRY.1);
            }
        }
    }

    async fn subscribe(&self, link: &Link) -> BrokerResult<PubSub> {
        let mut last = BrokerError("no server is named".into());
        for url in link.urls() {
            match self.subscribe_to(link.client(url)).await {
                Ok(pubsub) => return Ok(pubsub),
                Err(error) => last = BrokerError(error.to_string()),
            }
        }
        Err(last)
    }

    async fn subscribe_to(&self, client: redis::RedisResult<Client>) -> redis::RedisResult<PubSub> {
        let mut pubsub = client?.get_async_pubsub().await?;
        pubsub.subscribe(&[&self.wake, &self.signals]).await?;
        Ok(pubsub)
    }

    async fn hear(
        &self,
        pubsub: PubSub,
        patience: Duration,
        waiters: &Waiters,
        signals: &broadcast::Sender<Signal>,
    ) {
        let (mut sink, mut stream) = pubsub.split();
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.understand(&message, waiters, signals),
                    None => return,
                },
                _ = ping.tick() => {
                    if !matches!(timeout(patience, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    fn understand(&self, message: &Msg, waiters: &Waiters, signals: &broadcast::Sender<Signal>) {
        let payload = message.get_payload_bytes();
        if message.get_channel_name() == self.signals {
            for signal in wire::unpack(payload) {
                // It fails when nobody listens, which is no failure.
                signals.send(signal).ok();
            }
        } else if payload == b"*" {
            waiters.wake_all();
        } else if let Ok(names) = std::str::from_utf8(payload) {
            waiters.wake(&names.split(',').collect::<Vec<_>>());
        }
    }
}
