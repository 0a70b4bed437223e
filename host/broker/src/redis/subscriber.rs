//! The subscription to wake-ups and signals.

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
    connection::{Connection, RETRY, State},
    wire,
};
use crate::{BrokerError, BrokerResult, Signal, waiters::Waiters};

/// How often a silent server is pinged: a connection can break without notice.
const PING: Duration = Duration::from_secs(2);

/// Pause between a subscription's end and the next attempt, so that a server that closes
/// connections is not flooded with new ones.
const PAUSE: Duration = Duration::from_millis(50);

/// One subscription for the whole process.
#[derive(Debug)]
pub(super) struct Subscriber {
    wake: String,
    signals: String,
    is_subscribed: watch::Sender<bool>,
    was_subscribed: AtomicBool,
}

impl Subscriber {
    /// Receives nothing until [`Subscriber::listen`].
    pub(super) fn new(wake: String, signals: String) -> Self {
        Self {
            wake,
            signals,
            is_subscribed: watch::Sender::new(false),
            was_subscribed: AtomicBool::new(false),
        }
    }

    /// Whether wake-ups and signals arrive now.
    pub(super) fn is_subscribed(&self) -> bool {
        *self.is_subscribed.borrow()
    }

    /// Tells when [`Subscriber::is_subscribed`] changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.is_subscribed.subscribe()
    }

    /// Subscribes, and again whenever that ends; never ends.
    pub(super) async fn listen(
        &self,
        connection: &Connection,
        waiters: &Waiters,
        signals: &broadcast::Sender<Signal>,
    ) {
        let mut pause = RETRY.0;
        loop {
            let attempt = timeout(2 * connection.timeout(), self.subscribe(connection)).await;
            let attempt =
                attempt.unwrap_or_else(|_| Err(BrokerError("no answer from Redis".into())));
            if let Err(error) = &attempt
                && connection.state() == State::Up
            {
                tracing::warn!(%error, "no subscription to Redis; workers look for tasks at intervals");
            }
            if let Ok(pubsub) = attempt {
                pause = RETRY.0;
                self.is_subscribed.send_replace(true);
                // What was sent while there was no subscription was missed.
                waiters.wake_all();
                if self.was_subscribed.swap(true, Ordering::Relaxed) {
                    signals.send(Signal::Missed).ok();
                }
                self.receive(pubsub, connection.timeout(), waiters, signals).await;
                self.is_subscribed.send_replace(false);
                tracing::debug!("the subscription to Redis ended");
                // Waiting pops look at shorter intervals from here on.
                waiters.wake_all();
                // The connection for commands may be broken too, unnoticed while nobody uses it.
                connection.command::<()>(&redis::cmd("PING")).await.ok();
                tokio::time::sleep(PAUSE).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(RETRY.1);
            }
        }
    }

    async fn subscribe(&self, connection: &Connection) -> BrokerResult<PubSub> {
        let mut last = BrokerError("no server is named".into());
        for url in connection.urls() {
            match self.subscribe_to(connection.client(url)).await {
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

    async fn receive(
        &self,
        pubsub: PubSub,
        limit: Duration,
        waiters: &Waiters,
        signals: &broadcast::Sender<Signal>,
    ) {
        let (mut sink, mut stream) = pubsub.split();
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.deliver(&message, waiters, signals),
                    None => return,
                },
                _ = ping.tick() => {
                    if !matches!(timeout(limit, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    fn deliver(&self, message: &Msg, waiters: &Waiters, signals: &broadcast::Sender<Signal>) {
        let payload = message.get_payload_bytes();
        if message.get_channel_name() == self.signals {
            for signal in wire::unpack(payload) {
                // Fails without subscribers, which does not matter.
                signals.send(signal).ok();
            }
        } else if payload == b"*" {
            waiters.wake_all();
        } else if let Ok(names) = std::str::from_utf8(payload) {
            waiters.wake(&names.split(',').collect::<Vec<_>>());
        }
    }
}
