//! Clients that hang up, on a real `serve` with PostgreSQL.

use std::time::Duration;

use serde_json::json;
use taskforge_testing::{
    hangup::{ask, request},
    wait::wait_until,
};

use crate::bed::{Bed, KEY};

const HANG_UPS: usize = 1_000;

const IN_TRANSACTION: &str = "
    select count(*) from pg_stat_activity where state like 'idle in transaction%' and pid <> pg_backend_pid()";

fn round(number: usize, task: &str) -> Vec<String> {
    let json = |method: &str, path: &str, body: serde_json::Value| {
        request(method, path, Some(KEY), &body.to_string())
    };
    let plain = |method: &str, path: &str| request(method, path, Some(KEY), "");
    let new = json!({ "task_type": "fibonacci", "input": { "n": 10 } });
    vec![
        json("PUT", &format!("/tenants/t{number}"), json!({ "max_running": 7 })),
        json("PUT", &format!("/queues/q{number}"), json!({ "max_running": 7 })),
        plain("POST", &format!("/queues/p{number}/pause")),
        plain("POST", "/queues/hostile/resume"),
        json("POST", "/tasks", new.clone()),
        json("POST", "/tasks/batch", json!({ "tasks": [new.clone(), new] })),
        plain("POST", &format!("/tasks/{task}/cancel")),
        plain("POST", &format!("/tasks/{task}/retry")),
        plain("DELETE", "/tasks?status=failed"),
        plain("POST", "/dlq/requeue?task_type=hostile"),
        plain("DELETE", "/dlq?task_type=hostile"),
        json(
            "POST",
            "/task/next",
            json!({ "task_types": ["hostile"], "lease": "1h" }),
        ),
        plain("POST", "/plugins/fibonacci/pause"),
        plain("POST", "/plugins/fibonacci/resume"),
        plain("DELETE", "/plugins/fibonacci/canary"),
        plain("POST", "/plugins/fibonacci/rollback"),
        plain("POST", "/plugins/none/retire"),
        plain("GET", "/tasks"),
        plain("GET", &format!("/tasks/{task}?wait=10ms")),
        plain("GET", "/plugins"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hang_ups_leave_no_answer_untrue_and_no_transaction_open() {
    let bed = Bed::without_redis();
    let api = bed.start_api();
    let address = api.url.trim_start_matches("http://").parse().unwrap();
    let task = bed.submit("fibonacci", json!({ "n": 10 })).await;
    let (mut hang_ups, mut answered, mut tenants) = (0, 0, Vec::new());
    for number in 0.. {
        if hang_ups >= HANG_UPS {
            break;
        }
        let mut asked = tokio::task::JoinSet::new();
        for (place, request) in round(number, &task).into_iter().enumerate() {
            let patience = Duration::from_micros(fastrand::u64(..30_000));
            asked.spawn(async move { (place, ask(address, &request, patience).await) });
        }
        // Somebody who waits for every answer.
        let honest = format!("honest{number}");
        let body = json!({ "max_running": 7 });
        bed.ask("PUT", &format!("/tenants/{honest}"), Some(&body)).await;
        tenants.push(honest);
        for (place, status) in asked.join_all().await {
            let Some(status) = status else {
                hang_ups += 1;
                continue;
            };
            assert!(status < 500, "request {place} of round {number} got {status}");
            answered += 1;
            if place == 0 && status == 200 {
                tenants.push(format!("t{number}"));
            }
        }
    }
    assert!(answered > 0, "nobody was patient enough");
    for tenant in &tenants {
        let stored = bed.count(&format!(
            "select count(*) from tenant_policies where tenant = '{tenant}'"
        ));
        assert_eq!(stored, 1, "{tenant} was answered and is not there");
    }
    wait_until("no transaction is open", async || bed.count(IN_TRANSACTION) == 0).await;
    assert_eq!(api.readyz().await.map(|(status, _)| status), Some(200));
}
