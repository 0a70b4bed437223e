//! A neighbour's tasks while each attack runs at the full concurrency that it is allowed, half of the fleet's slots, beside the same tasks on
//! a quiet fleet.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use taskforge_testing::{guests, web};

use crate::{
    bed::Bed,
    latency::{self, Load},
};

const RATE: u32 = 100;
const SECONDS: Duration = Duration::from_secs(5);
/// Half of what both workers have slots for.
const CONCURRENCY: u32 = 32;
/// More than that, so that some always wait.
const ATTACKERS: usize = 64;

pub(crate) async fn measure() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let settings = json!({
        "limits": { "concurrency": CONCURRENCY, "deadline": "8s" },
        "grants": { "http": { "hosts": ["*:*"] } },
    });
    bed.ask("PUT", "/plugins/hostile/versions/0.1.0/settings", Some(&settings))
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let quiet = round(&bed, None).await;
    println!("fibonacci at {RATE} a second, alone: {quiet}");
    println!(
        "| attack, {CONCURRENCY} attempts of it at a time | p50 | p99 | beside quiet | failed |\n|---|---|---|---|---|"
    );
    let slow = web::Server::dripping(Duration::from_secs(1)).await;
    let headers = web::Server::answering(|_| {
        let mut response = Response::new(Bytes::from_static(b"many headers"));
        for n in 0..10_000 {
            let name = http::HeaderName::from_bytes(format!("x-header-{n}").as_bytes()).unwrap();
            response
                .headers_mut()
                .insert(name, http::HeaderValue::from_static("v"));
        }
        response
    })
    .await;
    let attack = |name: &str| json!({ "attack": name });
    let get = |url: String| json!({ "attack": "http_get", "url": url });
    let attacks: Vec<(&str, Value)> = vec![
        ("endless loop", attack("endless_loop")),
        ("endless recursion", attack("endless_recursion")),
        ("memory without end", attack("grow_memory")),
        (
            "64 MiB touched each",
            json!({ "attack": "allocate", "bytes": 50 << 20 }),
        ),
        ("output of 100 MB", attack("huge_output")),
        (
            "log flood",
            json!({ "attack": "log_flood", "lines": 100_000, "bytes": 1_000 }),
        ),
        ("host calls without end", attack("host_call_flood")),
        ("waiting for an hour", attack("sleep")),
        ("panics", attack("panic")),
        ("private addresses", get("http://10.0.0.1/".to_owned())),
        ("10,000 response headers", get(headers.url("/"))),
        ("slow responses", get(slow.url("/"))),
    ];
    for (name, input) in attacks {
        let figures = round(&bed, Some(&input)).await;
        println!(
            "| {name} | {:.1} ms | {:.1} ms | {:.2} | {} |",
            figures.p50,
            figures.p99,
            figures.p99 / quiet.p99,
            figures.failed
        );
    }
    pushes(&bed, &quiet).await;
}

async fn round(bed: &Bed, attack: Option<&Value>) -> latency::Figures {
    let attacker = attack.map(|input| {
        let (http, url) = (bed.http.clone(), bed.url("/tasks/batch"));
        let task = json!({ "task_type": "hostile", "input": input, "max_retries": 0 });
        let body = json!({ "tasks": vec![task; ATTACKERS] });
        tokio::spawn(async move {
            loop {
                let request = http.post(&url).bearer_auth(crate::bed::KEY).json(&body);
                request.send().await.unwrap();
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let moment = latency::now(bed);
    let load = Load::start(bed, "fibonacci", RATE);
    tokio::time::sleep(SECONDS).await;
    load.finish(bed, "fibonacci").await;
    let figures = latency::since(bed, "fibonacci", &moment);
    if let Some(attacker) = attacker {
        attacker.abort();
        // What is left of the attack is called off, so that the next round begins in quiet.
        let open = "select count(*) from tasks where task_type = 'hostile' and state in ('pending', 'running', 'scheduled')";
        for id in bed
            .sql("select id from tasks where task_type = 'hostile' and state in ('pending', 'running', 'scheduled')")
            .lines()
        {
            bed.send("POST", &format!("/tasks/{id}/cancel"), None).await.unwrap();
        }
        while bed.count(open) > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    figures
}

/// Components that are attacks by themselves, pushed one after the other while the neighbour works.
async fn pushes(bed: &Bed, quiet: &latency::Figures) {
    let bomb = {
        // One function of a hundred thousand nested additions: slow to compile, small to send.
        let body = "(i32.add (i32.const 1) ".repeat(2_000) + "(i32.const 1)" + &")".repeat(2_000);
        let functions: String = (0..2_000)
            .map(|n| format!("(func (export \"f{n}\") (result i32) {body})"))
            .collect();
        wat::parse_str(format!("(component (core module {functions}))")).unwrap()
    };
    let endless = wat::parse_str(guests::wat("endless_describe")).unwrap();
    for (name, component) in [
        ("a bomb for the compiler", bomb),
        ("an endless describe", endless),
    ] {
        let moment = latency::now(bed);
        let load = Load::start(bed, "fibonacci", RATE);
        let mut answers = Vec::new();
        let until = std::time::Instant::now() + SECONDS;
        while std::time::Instant::now() < until {
            answers.push(bed.push("", component.clone()).await.0);
        }
        load.finish(bed, "fibonacci").await;
        let figures = latency::since(bed, "fibonacci", &moment);
        println!(
            "| pushes of {name} ({} bytes, {} pushes) | {:.1} ms | {:.1} ms | {:.2} | {} |",
            component.len(),
            answers.len(),
            figures.p50,
            figures.p99,
            figures.p99 / quiet.p99,
            figures.failed
        );
    }
}
