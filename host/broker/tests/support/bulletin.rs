//! A bulletin inside the process.

use std::sync::Arc;

use async_trait::async_trait;
use taskforge_broker::{BrokerResult, Bulletin, MAX_NOTICE};
use tokio::sync::broadcast;

pub struct Board(broadcast::Sender<String>);

impl Board {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(broadcast::Sender::new(1024)))
    }

    /// As a database does whose connection was lost.
    pub fn lose_some(&self) {
        self.0.send(String::new()).unwrap();
    }
}

#[async_trait]
impl Bulletin for Board {
    async fn post(&self, notices: &[String]) -> BrokerResult<()> {
        for notice in notices {
            assert!(notice.len() <= MAX_NOTICE);
            self.0.send(notice.clone()).ok();
        }
        Ok(())
    }

    fn listen(&self) -> broadcast::Receiver<String> {
        self.0.subscribe()
    }
}
