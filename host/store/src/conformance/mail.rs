//! How much mail versions send.

use super::*;
use crate::MailCount;

const fn mail(messages: u64, bytes: u64) -> MailCount {
    MailCount { messages, bytes }
}

/// Sends again if the clock's hour went by in between.
async fn within_an_hour(attempt: impl AsyncFn(&str) -> bool) {
    for version in ["1.0.0", "2.0.0"] {
        if attempt(version).await {
            return;
        }
    }
    panic!("a limit was exceeded within an hour");
}

/// What is beyond the limit is not counted, and leaves room for what is smaller.
pub async fn mail_is_counted_by_version_up_to_its_limit(world: World) {
    let plugins = &world.plugins;
    let (letters, other) = (kind("letters"), kind("other"));
    within_an_hour(async |version| {
        let count = async |version: &str, sent| {
            let counted = plugins.count_mail(&letters, version, sent, mail(10, 1000));
            counted.await.unwrap()
        };
        assert!(!count(version, mail(11, 1)).await, "the first one has the limit too");
        let mut counted = Vec::new();
        for sent in [mail(6, 100), mail(5, 1), mail(3, 901), mail(4, 900), mail(1, 0), mail(0, 1)] {
            counted.push(count(version, sent).await);
        }
        // Others have their own.
        assert!(count(&format!("{version}-rc.1"), mail(10, 1000)).await);
        let other = plugins.count_mail(&other, version, mail(10, 1000), mail(10, 1000));
        assert!(other.await.unwrap());
        // A limit that was raised leaves room at once.
        let raised = plugins.count_mail(&letters, version, mail(1, 1), mail(11, 1001));
        raised.await.unwrap() && counted == [true, false, false, true, false, false]
    })
    .await;
}

/// Many hosts send at once.
pub async fn a_limit_of_mail_holds_when_many_send_at_once(world: World) {
    within_an_hour(async |version| {
        let mut sends = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (plugins, version) = (world.plugins.clone(), version.to_owned());
            sends.spawn(async move {
                let (flood, limit) = (kind("flood"), mail(40, 10_000));
                plugins.count_mail(&flood, &version, mail(1, 10), limit).await.unwrap()
            });
        }
        sends.join_all().await.into_iter().filter(|counted| *counted).count() == 40
    })
    .await;
}
