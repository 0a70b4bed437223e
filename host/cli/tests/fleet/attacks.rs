//! The attacks of `plugins/hostile` and of its hand-written components through the whole fleet:
//! enqueued over HTTP, run by workers, committed in the database. Each ends as its own kind of
//! failure, and its neighbours complete.

use serde_json::{Value, json};
use taskforge_testing::{guests, wait::wait_until};

use crate::bed::Bed;

/// An attack of the plugin `hostile`, and what it ends as: an error kind, or `completed`.
fn attacks() -> Vec<(Value, &'static str)> {
    let attack = |name: &str| json!({ "attack": name });
    let get = |url: &str| json!({ "attack": "http_get", "url": url });
    vec![
        (attack("endless_loop"), "out_of_fuel"),
        (attack("endless_recursion"), "stack_overflow"),
        (attack("grow_memory"), "out_of_memory"),
        (json!({ "attack": "huge_output", "bytes": 5_000_000 }), "output_too_large"),
        (attack("huge_output"), "out_of_memory"),
        (attack("invalid_json"), "invalid_output"),
        (json!({ "attack": "log_flood", "lines": 2_000, "bytes": 1_000 }), "completed"),
        (attack("host_call_flood"), "host_call_limit"),
        (json!({ "attack": "sleep", "ms": 3_600_000 }), "deadline"),
        (attack("panic"), "trap"),
        (json!({ "attack": "exit", "code": 3 }), "exited"),
        (json!({ "attack": "fail", "permanent": true }), "permanent"),
        (get("http://169.254.169.254/latest/meta-data/"), "capability_denied"),
        (get("http://10.0.0.1/"), "capability_denied"),
        (get("http://[::ffff:10.0.0.1]/"), "capability_denied"),
        (get("http://0x0a000001/"), "capability_denied"),
        (json!({ "attack": "connect", "address": "127.0.0.1:5432" }), "capability_denied"),
    ]
}

/// The bed's plugins folder with `hostile` under a short deadline, so that the attack that waits
/// ends within the test.
fn shorten_the_deadline(bed: &Bed) {
    let settings = bed.data.path().join("plugins/hostile.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\n[limits]\ndeadline = \"8s\"\n")).unwrap();
}

async fn enqueue(bed: &Bed, task_type: &str, input: &Value) -> String {
    let body = json!({ "task_type": task_type, "input": input, "max_retries": 0 });
    let task = bed.ask("POST", "/tasks", Some(&body)).await;
    task["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_ends_as_its_own_kind_of_failure_and_its_neighbours_complete() {
    let bed = Bed::new();
    bed.command("worker");
    shorten_the_deadline(&bed);
    let _api = bed.start_api();
    let mut workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let mut running = Vec::new();
    for (input, expected) in attacks() {
        running.push((enqueue(&bed, "hostile", &input).await, input, expected));
        let neighbour = json!({ "n": running.len() });
        running.push((enqueue(&bed, "fibonacci", &neighbour).await, neighbour, "completed"));
    }
    for (id, input, expected) in running {
        let task = bed.ended(&id).await;
        let ended =
            if task["status"] == "completed" { &task["status"] } else { &task["error_kind"] };
        assert_eq!(ended, expected, "{input}: {task}");
    }
    assert!(workers.iter_mut().all(crate::node::Node::is_alive));
    // A lapse would mean that an attack had stopped a worker's heart.
    assert_eq!(bed.count("select count(*) from events where kind = 'lapsed'"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_written_attacks_are_refused_at_push_or_fail_alone() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&[]);
    // What each is refused for when it is pushed. The rest of them run, and fail by themselves.
    let refused = [
        ("no_handler", "exports"),
        ("bad_name", "describes itself wrongly"),
        ("bad_schema", "describes itself wrongly"),
        ("endless_describe", "failed to describe itself"),
        ("trapping_describe", "failed to describe itself"),
        ("endless_start", "failed to describe itself"),
        ("unknown_import", "does not fit this host"),
        ("huge_minimum_memory", ""),
        ("too_many_instances", ""),
        ("too_many_memories", ""),
        ("too_many_tables", ""),
    ];
    for (name, why) in refused {
        let component = wat::parse_str(guests::wat(name)).unwrap();
        let (status, answer) = bed.push("", component).await;
        assert!((400..500).contains(&status), "{name}: {status} {answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(why) && !detail.contains('\n'), "{name}: {detail}");
    }
    let id = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_wait_keep_no_other_type_out() {
    let bed = Bed::new();
    bed.command("worker");
    let settings = bed.data.path().join("plugins/hostile.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\n[limits]\ndeadline = \"2m\"\n")).unwrap();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&[]);
    let sleep = json!({ "attack": "sleep", "ms": 3_600_000 });
    // Quick ones before, so that the worker has learned to hold more than it runs.
    for n in 0..20 {
        let id = bed.submit("fibonacci", json!({ "n": n })).await;
        assert_eq!(bed.ended(&id).await["status"], "completed");
    }
    let tasks = vec![json!({ "task_type": "hostile", "input": sleep, "max_retries": 0 }); 200];
    bed.ask("POST", "/tasks/batch", Some(&json!({ "tasks": tasks }))).await;
    let in_state = |state: &str| {
        bed.count(&format!(
            "select count(*) from tasks where task_type = 'hostile' and state {state}"
        ))
    };
    wait_until("every usual place is taken", async || in_state("= 'running'") >= 32).await;
    for n in 0..20 {
        let id = bed.submit("fibonacci", json!({ "n": n })).await;
        assert_eq!(bed.ended(&id).await["status"], "completed");
    }
    wait_until("what was claimed in excess has gone back", async || in_state("= 'running'") <= 40)
        .await;
    assert_eq!(in_state("not in ('running', 'pending')"), 0, "all of them still wait");
}

/// The most resident memory of a process so far, in MiB.
#[cfg(target_os = "linux")]
fn most_resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() >> 10
}

/// What one attack made the host hold must not lie beside what the next one touches.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn attacks_on_memory_one_after_the_other_take_no_more_than_the_places_have() {
    const PLACES: u64 = 16;
    // The plugin's `limits.memory`, in MiB, and what else a worker may take.
    const MEMORY: u64 = 64;
    const BESIDES: u64 = 300;
    let bed = Bed::new();
    bed.command("worker");
    let settings = bed.data.path().join("plugins/hostile.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\n[limits]\nconcurrency = {PLACES}\n")).unwrap();
    let _api = bed.start_api();
    let worker = bed.start_worker(&["--concurrency", &PLACES.to_string()]);
    let hold = |what: &str| json!({ "attack": "hold", "what": what, "count": 1000, "bytes": 60_000, "ms": 2_000 });
    let attacks = [
        hold("paths"),
        json!({ "attack": "allocate", "bytes": 50 << 20 }),
        hold("bodies"),
        json!({ "attack": "allocate", "bytes": 50 << 20 }),
    ];
    for attack in attacks {
        let task = json!({ "task_type": "hostile", "input": attack, "max_retries": 0 });
        let tasks = vec![task; 4 * usize::try_from(PLACES).unwrap()];
        let answer = bed.ask("POST", "/tasks/batch", Some(&json!({ "tasks": tasks }))).await;
        for id in answer["ids"].as_array().unwrap() {
            bed.ended(id.as_str().unwrap()).await;
        }
        println!("{attack}: {} MiB", most_resident(worker.pid()));
    }
    let resident = most_resident(worker.pid());
    assert!(
        resident < PLACES * MEMORY + BESIDES,
        "{resident} MiB are more than {PLACES} places of {MEMORY} MiB and {BESIDES}"
    );
}
