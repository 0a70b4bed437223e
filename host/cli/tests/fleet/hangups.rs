//! Clients that hang up, on a real `serve` with PostgreSQL.

use std::time::Duration;

use serde_json::json;
use taskforge_testing::{
    hangup::{Answer, ask, request},
    wait::wait_until,
};

use crate::bed::{Bed, KEY};

const HANG_UPS: usize = 1_000;

const IN_TRANSACTION: &str = "
    select count(*) from pg_stat_activity where state like 'idle in transaction%' and pid <> pg_backend_pid()";

/// A request, and a statement that counts 1 once it is stored. `{0}` is the id of what the answer
/// shows.
type Written = (String, Option<String>);

fn round(number: usize, task: &str) -> Vec<Written> {
    let json = |method: &str, path: &str, body: serde_json::Value| {
        request(method, path, Some(KEY), &body.to_string())
    };
    let plain = |method: &str, path: &str| request(method, path, Some(KEY), "");
    let count = |rows: String| Some(format!("select count(*) from {rows}"));
    let new = json!({ "task_type": "fibonacci", "input": { "n": 10 } });
    let mut written = vec![
        (
            json("PUT", &format!("/tenants/t{number}"), json!({ "max_running": 7 })),
            count(format!("tenant_policies where tenant = 't{number}'")),
        ),
        (json("POST", "/tasks", new.clone()), count("tasks where id = '{0}'".to_owned())),
        (
            json(
                "POST",
                "/tasks",
                json!({ "task_type": "fibonacci", "input": { "n": 10 }, "delay": "1h" }),
            ),
            count("tasks where id = '{0}' and state = 'scheduled'".to_owned()),
        ),
        (
            json(
                "PUT",
                &format!("/plugins/fibonacci/secrets/s{number}"),
                json!({ "value": "k-0123456789" }),
            ),
            count(format!("plugin_secrets where name = 's{number}'")),
        ),
    ];
    let others = [
        json("PUT", "/queues/hostile", json!({ "max_running": 7 })),
        plain("POST", "/queues/hostile/pause"),
        plain("POST", "/queues/hostile/resume"),
        json("POST", "/tasks/batch", json!({ "tasks": [new.clone(), new] })),
        plain("POST", &format!("/tasks/{task}/cancel")),
        plain("POST", &format!("/tasks/{task}/retry")),
        plain("DELETE", "/tasks?status=failed"),
        plain("POST", "/dlq/requeue?task_type=hostile"),
        plain("DELETE", "/dlq?task_type=hostile"),
        json("POST", "/task/next", json!({ "task_types": ["hostile"], "lease": "1h" })),
        plain("POST", "/plugins/fibonacci/pause"),
        plain("POST", "/plugins/fibonacci/resume"),
        plain("DELETE", "/plugins/fibonacci/canary"),
        plain("POST", "/plugins/fibonacci/rollback"),
        plain("POST", "/plugins/none/retire"),
        plain("POST", "/plugins/fibonacci/versions/prune"),
        plain("DELETE", "/plugins/fibonacci/secrets/none"),
        plain("GET", "/tasks"),
        plain("GET", &format!("/tasks/{task}?wait=10ms")),
        plain("GET", "/plugins"),
    ];
    written.extend(others.map(|request| (request, None)));
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hang_ups_leave_no_answer_untrue_and_no_transaction_open() {
    let bed = Bed::without_redis();
    let api = bed.start_api();
    let address = api.url.trim_start_matches("http://").parse().unwrap();
    let task = bed.submit("fibonacci", json!({ "n": 10 })).await;
    let (mut hang_ups, mut answered, mut rounds) = (0, 0, 0);
    for number in 0.. {
        if hang_ups >= HANG_UPS {
            break;
        }
        let mut asked = tokio::task::JoinSet::new();
        for (index, (request, stored)) in round(number, &task).into_iter().enumerate() {
            // One in ten waits for the answer, however slow the machine is.
            let limit = match index % 10 {
                0 => Duration::from_secs(10),
                _ => Duration::from_micros(fastrand::u64(..30_000)),
            };
            asked.spawn(async move {
                let answer = ask(address, &request, limit).await;
                (request, stored, answer)
            });
        }
        // A client that waits for every answer.
        let body = json!({ "max_running": 7 });
        bed.ask("PUT", &format!("/tenants/honest{number}"), Some(&body)).await;
        rounds += 1;
        for (request, stored, answer) in asked.join_all().await {
            let Some(Answer { status, body }) = answer else {
                hang_ups += 1;
                continue;
            };
            assert!(status < 500, "{status} for {request}");
            answered += 1;
            if let (200..300, Some(stored)) = (status, stored) {
                let stored = stored.replace("{0}", body["id"].as_str().unwrap_or_default());
                assert_eq!(bed.count(&stored), 1, "{stored}: answered, and not there: {request}");
            }
        }
    }
    assert!(answered > 0, "nobody was patient enough");
    let honest = bed.count("select count(*) from tenant_policies where tenant like 'honest%'");
    assert_eq!(honest, rounds);
    wait_until("no transaction is open", async || bed.count(IN_TRANSACTION) == 0).await;
    assert_eq!(api.readyz().await.map(|(status, _)| status), Some(200));
}
