//! A neighbour's tasks while each attack runs at the full concurrency that it is allowed, half of
//! the fleet's concurrency (or all that it can get), beside the same tasks on a quiet fleet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use taskforge_testing::{guests, web};

use crate::{
    bed::Bed,
    latency::{self, Load},
};

const RATE: u32 = 100;
const SECONDS: Duration = Duration::from_secs(10);
/// Half of what both workers run at once.
const CONCURRENCY: u32 = 32;
/// More than that, so that some always wait.
const ATTACKERS: usize = 64;
/// Without a cap, more than there are places, so that some always wait.
const MANY: usize = 128;
/// As many as the API takes at a time.
const PUSHERS: usize = 4;

/// Of the attacks those whose names contain one of `chosen`; all if there is none.
pub(crate) async fn measure(chosen: &[&str]) {
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|part| name.contains(part));
    let bed = Bed::new();
    let _api = bed.start_api();
    let workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let pids = [workers[0].pid(), workers[1].pid()];
    set(&bed, json!({ "concurrency": CONCURRENCY, "deadline": "8s" })).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let quiet = round(&bed, None).await;
    println!("fibonacci at {RATE} a second, alone: {quiet}");
    println!(
        "| attack, {CONCURRENCY} attempts of it at a time | p50 | p99 | beside quiet | failed | worker, resident at most |\n|---|---|---|---|---|---|"
    );
    let slow = web::Server::dripping(Duration::from_secs(1)).await;
    // Prepared, so that the server of the attacker, which would be on a machine of its own, takes
    // little of this one.
    let lines: String = (0..10_000).map(|n| format!("x-header-{n}: v\r\n")).collect();
    let headers =
        web::Server::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}\r\n")).await;
    let attack = |name: &str| json!({ "attack": name });
    let get = |url: String| json!({ "attack": "http_get", "url": url });
    let attacks: Vec<(&str, Value)> = vec![
        ("endless loop", attack("endless_loop")),
        ("endless recursion", attack("endless_recursion")),
        ("memory without end", attack("grow_memory")),
        ("50 MiB touched by each", json!({ "attack": "allocate", "bytes": 50 << 20 })),
        ("output of 100 MB", attack("huge_output")),
        ("log flood", json!({ "attack": "log_flood", "lines": 100_000, "bytes": 1_000 })),
        ("host calls without end", attack("host_call_flood")),
        ("waiting for an hour", attack("sleep")),
        ("panics", attack("panic")),
        ("a flood of empty lines", empty_lines()),
        ("requests with long paths", hold("paths", 60_000)),
        ("unread bodies", hold("bodies", 60_000)),
        ("private addresses", get("http://10.0.0.1/".to_owned())),
        ("10,000 response headers", get(headers.url("/"))),
        ("slow responses", get(slow.url("/"))),
    ];
    for (name, input) in attacks.iter().filter(|(name, _)| is_chosen(name)) {
        let figures = round(&bed, Some((input, ATTACKERS))).await;
        print(name, &figures, &quiet, pids);
    }
    pushes(&bed, &quiet, pids, is_chosen).await;
    let again = round(&bed, None).await;
    println!(
        "alone, once more: {again}\n\n| attack, {MANY} tasks of it each two seconds, no cap | p50 | p99 | beside quiet | failed | worker, resident at most |\n|---|---|---|---|---|---|"
    );
    set(&bed, json!({ "deadline": "8s" })).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (name, input) in attacks.iter().filter(|(name, _)| is_chosen(name)) {
        let figures = round(&bed, Some((input, MANY))).await;
        print(name, &figures, &quiet, pids);
    }
}

/// Sets the limits of the attacking plugin.
async fn set(bed: &Bed, limits: Value) {
    let settings = json!({ "limits": limits, "grants": { "http": { "hosts": ["*:*"] } } });
    bed.ask("PUT", "/plugins/hostile/versions/0.1.0/settings", Some(&settings)).await;
}

/// Lines that cost the guest nothing.
fn empty_lines() -> Value {
    json!({ "attack": "log_flood", "lines": 100_000, "bytes": 0 })
}

/// As much as the host takes, and for as long as the deadline lets it be kept.
fn hold(what: &str, bytes: u32) -> Value {
    json!({ "attack": "hold", "what": what, "count": 1000, "bytes": bytes, "ms": 5_000 })
}

/// The most that a worker had in memory since the last look, in MiB.
fn resident(pids: [u32; 2]) -> u64 {
    let most = pids.map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        // Begins anew from here.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").ok();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    });
    most[0].max(most[1])
}

fn print(name: &str, figures: &latency::Figures, quiet: &latency::Figures, pids: [u32; 2]) {
    println!(
        "| {name} | {:.1} ms | {:.1} ms | {:.2} | {} | {} MiB |",
        figures.p50,
        figures.p99,
        figures.p99 / quiet.p99,
        figures.failed,
        resident(pids),
    );
}

/// A round of the neighbour, beside so many tasks of an attack each two seconds.
async fn round(bed: &Bed, attack: Option<(&Value, usize)>) -> latency::Figures {
    let attacker = attack.map(|(input, attackers)| {
        let (http, url) = (bed.http.clone(), bed.url("/tasks/batch"));
        let task = json!({ "task_type": "hostile", "input": input, "max_retries": 0 });
        let body = json!({ "tasks": vec![task; attackers] });
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
        let ids = bed.sql(
            "select id from tasks where task_type = 'hostile' and state in ('pending', 'running', 'scheduled')",
        );
        for id in ids.lines() {
            bed.send("POST", &format!("/tasks/{id}/cancel"), None).await.unwrap();
        }
        while bed.count(open) > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    figures
}

/// Components that are attacks by themselves, pushed as often as the API takes them while the
/// neighbour works.
async fn pushes(
    bed: &Bed,
    quiet: &latency::Figures,
    pids: [u32; 2],
    is_chosen: impl Fn(&str) -> bool,
) {
    let endless = wat::parse_str(guests::wat("endless_describe")).unwrap();
    let components = [("a bomb for the compiler", bomb()), ("an endless describe", endless)];
    for (name, component) in components.into_iter().filter(|(name, _)| is_chosen(name)) {
        let (pushed, answers) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|_| {
                let (http, url) = (bed.http.clone(), bed.url("/plugins"));
                let (component, pushed, answers) =
                    (component.clone(), Arc::clone(&pushed), Arc::clone(&answers));
                tokio::spawn(async move {
                    loop {
                        let push = http.post(&url).bearer_auth(crate::bed::KEY);
                        let push = push.header("content-type", "application/wasm");
                        let status = push
                            .body(another(&component, pushed.fetch_add(1, Ordering::Relaxed)))
                            .send()
                            .await
                            .unwrap()
                            .status();
                        assert_eq!(status, 422, "it was to be refused");
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let moment = latency::now(bed);
        let load = Load::start(bed, "fibonacci", RATE);
        tokio::time::sleep(SECONDS).await;
        load.finish(bed, "fibonacci").await;
        let figures = latency::since(bed, "fibonacci", &moment);
        // Nobody waits for the answers any more, so what is under way is called off.
        pushers.iter().for_each(tokio::task::JoinHandle::abort);
        let name = format!(
            "{PUSHERS} pushes at a time of {name} of {} bytes, {} answered",
            component.len(),
            answers.load(Ordering::Relaxed)
        );
        print(&name, &figures, quiet, pids);
    }
}

/// The same with other bytes, since what was refused once is refused at once from then on: a custom
/// section at the end, named `n`.
fn another(component: &[u8], number: u32) -> Vec<u8> {
    let section = [0, 6, 1, b'n'];
    [component, &section, &number.to_le_bytes()].concat()
}

/// A handler that takes a minute and much memory to compile: where each of many loops begins, each
/// of many locals is merged.
fn bomb() -> Vec<u8> {
    let (locals, loops) = (3000, 1500);
    let body: String = (0..loops)
        .map(|index| {
            let (to, from) = ((index * 7) % locals, (index * 13) % locals);
            format!(
                "(loop (local.set {to} (i32.add (local.get {to}) (local.get {from}))) (br_if 0 (local.get {})))",
                index % locals
            )
        })
        .collect();
    let function = format!("(func (local {}) {body})", "i32 ".repeat(locals));
    let text = format!(
        r#"(component (core module {function}) (instance $i) (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#
    );
    wat::parse_str(text).unwrap()
}
