//! What all tenants and hosts share through the store.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use serde_json::json;
use taskforge_domain::{KeyValueGrant, PluginSettings, TenantId};
use taskforge_registry::{StoredMailCounter, StoredValues};
use taskforge_runtime::{KeyValue, MailAmount, MailCounter, Space};

use crate::bed::{BY, Bed, name};

fn space(tenant: &str) -> Space {
    Space {
        tenant: TenantId::new(tenant).unwrap(),
        plugin: name("notes"),
        bucket: String::new(),
        quota: KeyValueGrant { allowed: true, ..KeyValueGrant::default() },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_its_values_delays_no_others() {
    let bed = Bed::new().await;
    let values = Arc::new(StoredValues::new(bed.store.clone()));
    let done = Arc::new(AtomicUsize::new(0));
    let flood: Vec<_> = (0..4000)
        .map(|number| {
            let (values, done) = (Arc::clone(&values), Arc::clone(&done));
            tokio::spawn(async move {
                let space =
                    Space { plugin: name(&format!("notes{}", number % 40)), ..space("mallory") };
                let key = format!("{number}");
                values.set(&space, vec![(key, vec![7; 100])]).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    while done.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let alice = space("alice");
    for number in 0..50 {
        assert_eq!(values.increment(&alice, "n", 1).await.unwrap(), number + 1);
    }
    // Each of hers waited for a call or two. In order of arrival the first would have been the
    // last.
    let before = done.load(Ordering::SeqCst);
    assert!(before < 2000, "{before} calls of another tenant came first");
    for call in join_all(flood).await {
        call.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_happens_whole_or_not_and_gives_its_permit_back() {
    let bed = Bed::new().await;
    let values = StoredValues::new(bed.store.clone());
    let alice = space("alice");
    for round in 0..200_u64 {
        let call = values.increment(&alice, "n", 1);
        let hurry = std::time::Duration::from_micros(round * 5);
        // Whether it comes to its end is left to chance.
        let _ended = tokio::time::timeout(hurry, call).await;
    }
    let sum = values.increment(&alice, "n", 0).await.unwrap();
    assert!((0..=200).contains(&sum), "{sum}");
}

#[tokio::test]
async fn hosts_count_the_mail_of_a_version_together() {
    let bed = Bed::new().await;
    let hosts = [0, 1].map(|_| StoredMailCounter::new(bed.store.clone()));
    let one = MailAmount { messages: 1, bytes: 10 };
    let limit = MailAmount { messages: 5, bytes: 1000 };
    let mut sent = 0;
    for host in hosts.iter().cycle().take(12) {
        sent += u32::from(host.count(&name("letters"), "1.0.0", one, limit).await.unwrap());
    }
    // Twice as many, if the clock's hour went by meanwhile.
    assert!(sent == 5 || sent == 10, "{sent}");
}

#[tokio::test]
async fn grants_that_cannot_take_effect_are_refused_at_a_push_and_when_they_are_set() {
    let bed = Bed::new().await;
    let settings = |grants: serde_json::Value| -> PluginSettings {
        serde_json::from_value(json!({ "grants": grants })).unwrap()
    };
    let pushed = bed.push("notes", "1.0.0").await;
    for (grants, wanted) in [
        (
            json!({"http": {"hosts": ["127.1"]}}),
            "grants.http.hosts: \"127.1\" is not a host pattern such as example.com, *.example.com:8080 or \
             *: it is read as the address 127.0.0.1: write 127.0.0.1",
        ),
        (json!({"http": {"private_networks": ["10.0.0.1/8"]}}), "write 10.0.0.0/8"),
        (json!({"mail": {"recipients": ["Example.com"]}}), "write \"example.com\""),
        (json!({"keyvalue": {"keys": 0}}), "grants.keyvalue.keys: nothing can be kept with 0"),
        (json!({"secrets": ["token "]}), "begins or ends with a blank"),
        (json!({"secrets": ["token", "token"]}), "named twice"),
    ] {
        let refused = bed.push_with("notes", "1.1.0", settings(grants.clone())).await;
        let refused = refused.map(drop).unwrap_err().to_string();
        assert!(refused.contains(wanted), "{grants}: {refused}");
        let version = &pushed.version.info;
        let set =
            bed.registry.set_settings(&version.name, &version.version, settings(grants), BY).await;
        assert_eq!(set.map(drop).unwrap_err().to_string(), refused);
    }
}
