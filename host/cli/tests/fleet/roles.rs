//! The roles, and the commands for operators.

use std::process::Output;

use serde_json::{Value, json};
use taskforge_testing::wait::wait_until;

use crate::{
    bed::{Bed, DATABASE, KEY},
    node::{Node, client},
};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Runs a client command, which must succeed, and reads what it printed as JSON.
fn run(bed: &Bed, arguments: &[&str]) -> Value {
    let output = bed.command("--json").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_walks_through_the_fleet() {
    let bed = Bed::new();
    let api = bed.start_api();
    let worker = bed.start_worker(&[]);
    let id = bed.submit("fibonacci", json!({ "n": 10 })).await;
    let task = bed.ended(&id).await;
    assert_eq!(task["status"], "completed", "{task}");
    for node in [&api, &worker] {
        let (status, ready) = node.readyz().await.unwrap();
        assert_eq!((status, &ready["mode"]), (200, &json!("redis")), "{ready}");
    }
    let metrics = client().get(format!("{}/metrics", worker.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("taskforge_attempts_total{"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_redis_the_database_serves() {
    let bed = Bed::without_redis();
    let api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let (_, ready) = api.readyz().await.unwrap();
    assert_eq!(ready["mode"], "store", "{ready}");
    let tasks: Vec<_> =
        (0..300).map(|n| json!({ "task_type": "fibonacci", "input": { "n": n } })).collect();
    let answer = bed.ask("POST", "/tasks/batch", Some(&json!({ "tasks": tasks }))).await;
    for id in answer["ids"].as_array().unwrap() {
        assert_eq!(bed.ended(id.as_str().unwrap()).await["status"], "completed");
    }
    // Cancels travel through the database too.
    let id = bed.submit("hostile", json!({ "attack": "sleep", "ms": 60_000 })).await;
    bed.reaches(&id, "running").await;
    bed.ask("POST", &format!("/tasks/{id}/cancel"), None).await;
    wait_until("the attempt is over", async || {
        bed.count("select count(*) from attempts where failure_kind = 'cancelled'") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_database_serves_and_the_fleet_says_so() {
    let mut bed = Bed::new();
    let api = bed.start_api();
    let worker = bed.start_worker(&[]);
    bed.redis.as_mut().unwrap().stop();
    for node in [&api, &worker] {
        wait_until("it is noticed", async || {
            let (status, ready) = node.readyz().await.unwrap();
            assert_eq!(status, 200, "{ready}");
            ready["mode"] == "store_while_redis_is_away"
        })
        .await;
    }
    let id = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&id).await["status"], "completed");
    bed.redis.as_mut().unwrap().resume();
    for node in [&api, &worker] {
        wait_until("Redis serves again", async || {
            node.readyz().await.unwrap().1["mode"] == "redis"
        })
        .await;
    }
    let id = bed.submit("fibonacci", json!({ "n": 11 })).await;
    assert_eq!(bed.ended(&id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_the_types_that_it_is_told() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&["--types", "fibonacci"]);
    let other = bed.submit("hostile", json!({ "attack": "sleep", "ms": 1 })).await;
    let mine = bed.submit("fibonacci", json!({ "n": 5 })).await;
    assert_eq!(bed.ended(&mine).await["status"], "completed");
    assert_eq!(bed.task(&other).await["status"], "pending");
    let _second = bed.start_worker(&["--types", "hostile,fibonacci"]);
    assert_eq!(bed.ended(&other).await["status"], "completed");

    let output = bed.worker_command(&["--types", "nonesuch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("nonesuch") && said(&output).contains("--types"),
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_asks_for_its_key_and_does_not_listen_to_the_world_without_one() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let http = client();
    let tasks = bed.url("/tasks");
    for wrong in [None, Some("not the key, but as long"), Some("")] {
        let mut request = http.get(&tasks);
        if let Some(key) = wrong {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["type"], "urn:taskforge:problem:unauthorized");
    }
    let response = http.get(&tasks).header("x-api-key", KEY).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(http.get(bed.url("/healthz")).send().await.unwrap().status(), 200);
    let listed = run(&bed, &["task", "list"]);
    assert_eq!(listed, json!({ "tasks": [] }));

    let open = bed
        .command("serve")
        .env_remove("TASKFORGE_API_KEY")
        .args(["--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(open.status.code(), Some(1));
    assert!(said(&open).contains("TASKFORGE_API_KEY"), "{}", said(&open));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_an_older_schema_and_says_what_to_run() {
    let mut bed = Bed::new();
    bed.database_url = bed.postgres.create_database("empty");
    for role in ["serve", "worker"] {
        let output = bed
            .command(role)
            .args(match role {
                "serve" => ["--listen", "127.0.0.1:0"],
                _ => ["--admin-listen", "127.0.0.1:0"],
            })
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{role}");
        assert!(said(&output).contains("taskforge migrate"), "{role}: {}", said(&output));
    }
    let migrated = bed.command("migrate").output().unwrap();
    assert!(migrated.status.success(), "{}", said(&migrated));
    let again = bed.command("migrate").output().unwrap();
    assert!(said(&again).contains("up to date"), "{}", said(&again));
    let node = Node::start(bed.command("serve").args(["--listen", "127.0.0.1:0"]));
    assert_eq!(node.readyz().await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_looked_through_requeued_and_deleted() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&[]);
    for (message, count) in [("the disk is full", 3), ("user 17 is unknown", 2)] {
        for _ in 0..count {
            let input = json!({ "attack": "fail", "permanent": true, "message": message });
            let id = bed.submit("hostile", input).await;
            assert_eq!(bed.ended(&id).await["status"], "failed");
        }
    }
    let groups = run(&bed, &["dlq", "groups"])["groups"].clone();
    let counts: Vec<_> =
        groups.as_array().unwrap().iter().map(|group| group["count"].as_u64()).collect();
    assert_eq!(counts, [Some(3), Some(2)], "{groups}");
    assert!(groups[0]["example"].as_str().unwrap().contains("disk is full"), "{groups}");
    assert_eq!(
        run(&bed, &["dlq", "list", "--type", "hostile"])["tasks"].as_array().unwrap().len(),
        5
    );

    // Run again with an input that works.
    let group = groups[1]["group"].as_str().unwrap();
    let fixed = r#"{"attack": "sleep", "ms": 1}"#;
    let requeued =
        run(&bed, &["dlq", "requeue", "--group", group, "--type", "hostile", "--input", fixed]);
    assert_eq!(requeued["requeued"], 2, "{requeued}");
    wait_until("they complete", async || {
        bed.count("select count(*) from tasks where state = 'completed'") == 2
    })
    .await;

    let refused = bed.command("dlq").args(["delete"]).output().unwrap();
    assert!(!refused.status.success(), "not everything by mistake");
    assert_eq!(run(&bed, &["dlq", "delete", "--error-kind", "permanent", "--yes"])["deleted"], 3);
    assert_eq!(run(&bed, &["dlq", "list"]), json!({ "tasks": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_type_waits_and_a_cap_holds_across_the_fleet() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    run(&bed, &["queue", "pause", "hostile"]);
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(bed.submit("hostile", json!({ "attack": "sleep", "ms": 2_000 })).await);
    }
    let other = bed.submit("fibonacci", json!({ "n": 5 })).await;
    assert_eq!(bed.ended(&other).await["status"], "completed");
    assert_eq!(bed.count("select count(*) from tasks where state = 'pending'"), 12);
    run(&bed, &["queue", "limit", "hostile", "3"]);
    run(&bed, &["queue", "resume", "hostile"]);
    let mut most = 0;
    wait_until("all have ended", async || {
        most = most.max(bed.count("select count(*) from tasks where state = 'running'"));
        bed.count("select count(*) from tasks where state in ('pending', 'running', 'scheduled')")
            == 0
    })
    .await;
    assert!((1..=3).contains(&most), "{most} ran at once");
    let shown = run(&bed, &["queue", "list"]);
    let queues = shown["queues"].as_array().unwrap();
    let hostile = queues.iter().find(|queue| queue["task_type"] == "hostile").unwrap();
    assert_eq!(hostile["max_running"], 3, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tasks_are_forgotten_on_demand() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&[]);
    let id = bed.submit("fibonacci", json!({ "n": 5 })).await;
    bed.ended(&id).await;
    let kept = run(&bed, &["db", "retain", "--yes"]);
    assert_eq!(
        (&kept["tasks_deleted"], &kept["partitions_dropped"]),
        (&json!(0), &json!(0)),
        "{kept}"
    );
    assert_eq!(bed.task(&id).await["status"], "completed");
    assert!(
        !bed.postgres
            .sql(
                DATABASE,
                "select inhrelid::regclass from pg_inherits where inhparent = 'tasks'::regclass"
            )
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_processes_as_you_like_share_a_host() {
    let bed = Bed::without_redis();
    // Somebody has the default port already, whether this or another program of the machine.
    let _held = std::net::TcpListener::bind("127.0.0.1:9464");
    let worker = |arguments: &[&str]| {
        let mut command = bed.command("worker");
        command.env_remove("TASKFORGE_ADMIN_LISTEN").args(arguments);
        command
    };
    let (one, two) = (Node::start(&mut worker(&[])), Node::start(&mut worker(&[])));
    assert!(one.url != two.url && !one.url.ends_with(":9464"), "{} {}", one.url, two.url);
    for node in [&one, &two] {
        assert_eq!(node.readyz().await.unwrap().0, 200, "{}", node.url);
    }
    let taken = one.url.strip_prefix("http://").unwrap();
    let chosen = worker(&["--admin-listen", taken]).output().unwrap();
    assert_eq!(chosen.status.code(), Some(1));
    assert!(said(&chosen).contains(taken), "{}", said(&chosen));
    let _api = std::net::TcpListener::bind("127.0.0.1:8000");
    let serve = || Node::start(bed.command("serve").env_remove("TASKFORGE_LISTEN"));
    let (one, two) = (serve(), serve());
    assert!(one.url != two.url && !one.url.ends_with(":8000"), "{} {}", one.url, two.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_user_or_database_is_told_at_once() {
    let bed = Bed::without_redis();
    let url = reqwest::Url::parse(&bed.database_url).unwrap();
    let (mut user, mut database) = (url.clone(), url);
    user.set_username("nobody_of_this_name").unwrap();
    database.set_path("/nowhere_of_this_name");
    for (url, told) in [
        (user, "\"nobody_of_this_name\" does not exist"),
        (database, "\"nowhere_of_this_name\" does not exist"),
    ] {
        for role in ["serve", "worker", "migrate"] {
            let mut command = bed.command(role);
            match role {
                "serve" => command.args(["--listen", "127.0.0.1:0"]),
                "worker" => command.args(["--admin-listen", "127.0.0.1:0"]),
                _ => &mut command,
            };
            // Longer than a test may take: what never comes is not waited for.
            command.env("TASKFORGE_STARTUP_TIMEOUT", "1h");
            let output = command.env("DATABASE_URL", url.as_str()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{role}");
            assert!(said(&output).contains(told), "{role}: {}", said(&output));
        }
    }
}
