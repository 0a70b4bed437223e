//! A cap holds through whatever fails: only the claim knows it.

use std::time::Duration;

use serde_json::json;
use taskforge_testing::wait::wait_until;

use super::{ONE_AT_A_TIME, scale};
use crate::{bed::Bed, node::Node};

const CAP: u64 = 3;
const RUNNING: &str = "select count(*) from tasks where state = 'running'";
const LEFT: &str = "select count(*) from tasks where state in ('pending', 'running', 'scheduled')";

fn start(bed: &Bed) -> Node {
    Node::start(&mut bed.worker_command(&["--heartbeat-timeout", "2s"]))
}

/// Looks at what runs, again and again for about a second.
async fn look(bed: &Bed, most: &mut u64) {
    for _ in 0..20 {
        *most = (*most).max(bed.count(RUNNING));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_of_three_holds_under_kills_flushes_and_evictions() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut bed = Bed::new();
    let _api = bed.start_api();
    let limit = json!({ "paused": false, "max_running": CAP });
    bed.ask("PUT", "/queues/hostile", Some(&limit)).await;
    let mut workers = vec![start(&bed), start(&bed)];
    let rounds = scale().kills.next_multiple_of(6);
    for n in 0..20 * rounds {
        let input = json!({ "attack": "sleep", "ms": 50 + n % 5 * 50 });
        bed.submit("hostile", input).await;
    }
    let mut most = 0;
    for round in 0..rounds {
        let redis = bed.redis.as_mut().expect("there is one");
        match round % 6 {
            0 => {
                redis.command("flushall");
            }
            1 => {
                workers.remove(0).kill();
                workers.push(start(&bed));
            }
            2 => {
                // Whatever is there is too much, so each command deletes something first.
                redis.command("config set maxmemory-policy allkeys-random");
                redis.command("config set maxmemory 1mb");
            }
            3 => {
                redis.command("config set maxmemory 0");
                bed.sql(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()",
                );
            }
            4 => redis.stop(),
            _ => redis.resume(),
        }
        look(&bed, &mut most).await;
    }
    wait_until("all have ended", async || {
        most = most.max(bed.count(RUNNING));
        bed.count(LEFT) == 0
    })
    .await;
    assert_eq!(most, CAP, "of that many permits as many were used, and no more");
}
