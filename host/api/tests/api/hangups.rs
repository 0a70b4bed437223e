//! Clients that hang up at any moment, over every route that writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use taskforge_domain::{TaskType, TenantId};
use taskforge_store::{PluginStore as _, Store as _};
use taskforge_testing::hangup::{Answer, ask, cut, request};

use crate::harness::Api;

const HANG_UPS: usize = 1_000;

/// The requests of one round: what each is, and what is to be there if it was answered with
/// success.
fn round(number: usize) -> Vec<String> {
    let json = |method: &str, path: &str, body: serde_json::Value| {
        request(method, path, None, &body.to_string())
    };
    let plain = |method: &str, path: &str| request(method, path, None, "");
    let id = taskforge_domain::TaskId::generate();
    let task = json!({"task_type": "echo", "input": {"n": number}});
    vec![
        json("PUT", &format!("/tenants/t{number}"), json!({"max_running": 7})),
        json("PUT", "/queues/echo", json!({"max_running": 7})),
        plain("POST", "/queues/echo/pause"),
        plain("POST", "/queues/echo/resume"),
        json("POST", "/tasks", task.clone()),
        json("POST", "/tasks/batch", json!({"tasks": [task.clone(), task]})),
        plain("POST", &format!("/tasks/{id}/cancel")),
        plain("POST", &format!("/tasks/{id}/retry")),
        plain("DELETE", "/tasks?status=cancelled"),
        plain("POST", "/dlq/requeue?task_type=echo"),
        plain("DELETE", "/dlq?task_type=echo"),
        json("POST", "/task/next", json!({"task_types": ["echo"], "wait": "50ms", "lease": "1h"})),
        json("POST", "/task/heartbeat", json!({"task_id": id, "lease_token": "AQ"})),
        json("POST", "/complete_task", json!({"task_id": id, "lease_token": "AQ", "output": {}})),
        json(
            "PUT",
            &format!("/plugins/shaped/secrets/s{number}"),
            json!({"value": "k-0123456789"}),
        ),
        plain("DELETE", "/plugins/shaped/secrets/none"),
        json("PUT", "/plugins/shaped/versions/1.0.0/settings", json!({})),
        json("POST", "/plugins/shaped/activate", json!({"version": "1.0.0"})),
        json("POST", "/plugins/shaped/canary", json!({"version": "1.0.0"})),
        plain("DELETE", "/plugins/shaped/canary"),
        plain("POST", "/plugins/shaped/rollback"),
        plain("POST", "/plugins/shaped/pause"),
        plain("POST", "/plugins/shaped/resume"),
        plain("POST", "/plugins/none/retire"),
        request("POST", "/plugins", None, "not a component"),
        request("PUT", "/plugins/shaped/versions/1.0.0/signature", None, "no signature"),
        plain("POST", "/plugins/shaped/versions/prune"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_stored_however_many_hang_up_and_nobody_else_sees_an_error() {
    let api = Arc::new(Api::start().await);
    let pushed = crate::plugins::push_command(&api, "1.0.0", json!({})).await;
    assert!(pushed.status < 300, "{pushed:?}");
    let over = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..4)
        .map(|caller| {
            let (api, over) = (Arc::clone(&api), Arc::clone(&over));
            tokio::spawn(async move {
                let mut kept = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let tenant = format!("honest{caller}-{}", kept.len());
                    let set =
                        api.put(&format!("/tenants/{tenant}"), &json!({"max_running": 7})).await;
                    assert_eq!(set.status, 200, "{set:?}");
                    kept.push(tenant);
                    let read = api.get("/tasks").await;
                    assert_eq!(read.status, 200, "{read:?}");
                }
                kept
            })
        })
        .collect();
    let (mut tenants, mut tasks, mut secrets, mut answered) =
        (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut hang_ups = 0;
    for number in 0.. {
        if hang_ups >= HANG_UPS {
            break;
        }
        let requests = round(number);
        let mut asked = tokio::task::JoinSet::new();
        for (place, request) in requests.into_iter().enumerate() {
            let address = api.address;
            // Some hang up in the middle of what they send, the others up to 20 ms later.
            let sent = match fastrand::u8(..8) {
                0 => cut(&request, fastrand::usize(..request.len())).to_owned(),
                _ => request,
            };
            let patience = Duration::from_micros(fastrand::u64(..20_000));
            asked.spawn(async move { (place, ask(address, &sent, patience).await) });
        }
        for (place, answer) in asked.join_all().await {
            let Some(Answer { status, body }) = answer else {
                hang_ups += 1;
                continue;
            };
            assert!(status < 500, "request {place} of round {number} got {status}");
            if (200..300).contains(&status) {
                answered += 1;
                match place {
                    0 => tenants.push(format!("t{number}")),
                    4 => tasks.push(body["id"].clone()),
                    5 => tasks.extend(body["ids"].as_array().unwrap().iter().cloned()),
                    14 => secrets.push(format!("s{number}")),
                    _ => {}
                }
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    for other in others {
        tenants.extend(other.await.unwrap());
    }
    assert!(answered > 0, "nobody was patient enough");
    let policy = api.store.policy().await.unwrap();
    for tenant in &tenants {
        let cap = policy.tenant_cap(&TenantId::new(tenant.as_str()).unwrap());
        assert_eq!(cap, Some(7), "{tenant}");
    }
    for id in &tasks {
        let read = api.get(&format!("/tasks/{}", id.as_str().unwrap())).await;
        assert_eq!(read.status, 200, "{id} was answered: {read:?}");
    }
    let shaped = TaskType::new("shaped").unwrap();
    let stored = api.store.secrets(&shaped).await.unwrap();
    for name in &secrets {
        assert!(stored.iter().any(|secret| secret.name == *name), "{name}");
    }
    assert_eq!(api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_request_whose_client_has_gone_runs_to_its_end() {
    let api = Api::start().await;
    // Sent whole, and nobody waits for the answer.
    let body = json!({"max_running": 3}).to_string();
    let set = request("PUT", "/tenants/gone", None, &body);
    for _ in 0..20 {
        ask(api.address, &set, Duration::from_millis(5)).await;
    }
    let gone = TenantId::new("gone").unwrap();
    taskforge_testing::wait_until("the share is set", async || {
        api.store.policy().await.unwrap().tenant_cap(&gone) == Some(3)
    })
    .await;
}
