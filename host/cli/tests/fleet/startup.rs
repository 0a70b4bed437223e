//! What a process does when something that it needs is not there yet, or is not what it should be.

use std::process::{Command, Stdio};

use serde_json::json;
use taskforge_testing::{server::Redis, wait::wait_until};

use crate::{bed::Bed, node::Node};

/// Starts a process whose log goes into a file.
fn logged(bed: &Bed, command: &mut Command, name: &str) -> (Node, std::path::PathBuf) {
    let path = bed.data.path().join(name);
    let log = std::fs::File::create(&path).unwrap();
    (Node::start(command.stderr(log)), path)
}

fn lines(log: &std::path::Path, what: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().filter(|line| line.contains(what)).count()
}

/// Tells the database to refuse every new version of a plugin, as if its disk were full, or no
/// longer.
fn refuse_plugins(bed: &Bed, is_full: bool) {
    match is_full {
        true => bed.sql(
            "create function full_disk() returns trigger language plpgsql as $$
             begin raise exception 'no space left on device' using errcode = '53100'; end $$;
             create trigger full_disk before insert on plugin_versions for each row execute function full_disk()",
        ),
        false => bed.sql("drop trigger full_disk on plugin_versions"),
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_the_database_could_not_take_at_the_start_are_registered_when_it_can() {
    let bed = Bed::without_redis();
    refuse_plugins(&bed, true);
    let (api, log) = logged(&bed, &mut bed.api_command(), "api.log");
    let (status, ready) = api.readyz().await.unwrap();
    assert_eq!(status, 503, "{ready}");
    let server = ready["checks"]["server"].as_str().unwrap();
    assert!(server.contains("plugins"), "{ready}");
    let worker = bed.start_worker(&[]);
    assert_eq!(worker.readyz().await.unwrap().0, 503);
    refuse_plugins(&bed, false);
    for node in [&api, &worker] {
        wait_until("it is ready", async || node.readyz().await.unwrap().0 == 200).await;
    }
    let id = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&id).await["status"], "completed");
    assert!(lines(&log, "no space left on device") >= 2, "each file says why");
}

/// Where a process says in its log that it listens, before it has said that it has started.
async fn said_at(log: &std::path::Path, before: &str) -> String {
    let mut found = None;
    wait_until("it says where it listens", async || {
        let text = std::fs::read_to_string(log).unwrap();
        let address = text.split_once(before).map(|(_, rest)| rest);
        found = address.and_then(|rest| Some(rest.split([',', ' ']).next()?.to_owned()));
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn api_and_worker_serve_small_plugins_while_a_large_one_is_compiled() {
    let bed = Bed::without_redis();
    let plugins = crate::bed::plugins(bed.data.path());
    // In the order of their names the slow one would be first.
    std::fs::write(plugins.join("a-slow.wasm"), crate::slow::slow()).unwrap();
    let cache = bed.data.path().join("cache");
    let begin = |mut command: Command, name: &str| {
        let log = bed.data.path().join(name);
        let file = std::fs::File::create(&log).unwrap();
        command.env("TASKFORGE_CACHE_DIR", &cache).env("RUST_LOG", "info");
        command.stderr(file).stdout(Stdio::null());
        (command.spawn().unwrap(), log)
    };
    let (mut api, api_log) = begin(bed.api_command(), "api.log");
    let api_url = said_at(&api_log, "the API answers at ").await;
    let (mut worker, worker_log) = begin(bed.worker_command(&[]), "worker.log");
    let worker_url = said_at(&worker_log, "answers operators at ").await;
    let body = json!({ "task_type": "fibonacci", "input": { "n": 10 } });
    let mut id = None;
    wait_until("a task is taken", async || {
        let (_, answer) = bed.send("POST", "/tasks", Some(&body)).await.unwrap();
        id = answer["id"].as_str().map(str::to_owned);
        id.is_some()
    })
    .await;
    assert_eq!(bed.ended(&id.unwrap()).await["status"], "completed");
    for url in [&api_url, &worker_url] {
        let ask = async |path: &str| bed.http.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(ask("/healthz").await.status(), 200, "{url}");
        let ready = ask("/readyz").await;
        assert_eq!(ready.status(), 503, "{url}");
        let ready: serde_json::Value = ready.json().await.unwrap();
        let server = ready["checks"]["server"].as_str().unwrap();
        assert!(server.contains("being registered"), "{ready}");
    }
    for process in [&mut api, &mut worker] {
        taskforge_testing::server::signal(process.id(), "TERM");
        assert!(process.wait().unwrap().success(), "a start can be stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_some_types_waits_until_they_could_be_registered() {
    let bed = Bed::without_redis();
    refuse_plugins(&bed, true);
    let mut command = bed.worker_command(&["--types", "fibonacci"]);
    let starting = tokio::task::spawn_blocking(move || Node::try_start(&mut command));
    // It neither ends nor says that it has started; the other one has, so there was time for that.
    let _api = bed.start_api();
    assert!(!starting.is_finished());
    refuse_plugins(&bed, false);
    let worker = starting.await.unwrap().expect("it did not give up");
    assert_eq!(worker.readyz().await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_redis_cannot_be_used_is_said_once_and_the_fleet_works_on() {
    let mut bed = Bed::new();
    let redis = bed.redis.as_ref().unwrap();
    let port = redis.port();
    redis.command("acl setuser narrow on >pw ~other* &* +@all");
    let tls = format!("rediss://127.0.0.1:{port}");
    let mut nodes = Vec::new();
    for (name, url, why) in [
        ("password", format!("redis://:wrong@127.0.0.1:{port}"), "assword"),
        ("acl", format!("redis://narrow:pw@127.0.0.1:{port}"), "permission"),
        ("host", format!("redis://no-such-host.invalid:{port}"), ""),
        ("tls", tls, ""),
    ] {
        bed.redis_url = Some(url);
        let mut command = bed.worker_command(&["--heartbeat-timeout", "10s"]);
        let (node, log) = logged(&bed, &mut command, &format!("{name}.log"));
        let said = "Redis cannot be used";
        wait_until("it says why", async || lines(&log, said) > 0).await;
        assert!(lines(&log, why) > 0, "{}", std::fs::read_to_string(&log).unwrap());
        let (status, ready) = node.readyz().await.unwrap();
        assert_eq!((status, &ready["mode"]), (200, &json!("store_while_redis_is_away")), "{ready}");
        nodes.push((name, node, log));
    }
    bed.redis_url = Some(bed.redis.as_ref().unwrap().url());
    let _api = bed.start_api();
    let id = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&id).await["status"], "completed");
    // Some fifty sweeps and ten tries of each.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    for (name, _node, log) in &nodes {
        let text = std::fs::read_to_string(log).unwrap();
        let said = text.lines().filter(|line| line.contains(" WARN ")).count();
        assert!((1..=8).contains(&said), "{name}: {said} warnings:\n{text}");
        assert_eq!(lines(log, "a sweep was cut short"), 0, "{name}:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nobody_floods_the_log() {
    let mut bed = Bed::without_redis();
    let (api, api_log) = logged(&bed, &mut bed.api_command(), "api.log");
    let (_worker, worker_log) = logged(&bed, &mut bed.worker_command(&[]), "worker.log");
    bed.postgres.stop();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(12);
    let mut asked = 0;
    while std::time::Instant::now() < until {
        let body = json!({ "task_type": "fibonacci", "input": { "n": 1 } });
        let answer = bed.send("POST", "/tasks", Some(&body)).await.unwrap();
        assert_eq!(answer.0, 503, "{}", answer.1);
        assert_eq!(api.readyz().await.unwrap().0, 503);
        asked += 1;
    }
    bed.postgres.resume();
    wait_until("it is ready again", async || api.readyz().await.unwrap().0 == 200).await;
    for log in [&api_log, &worker_log] {
        let text = std::fs::read_to_string(log).unwrap();
        let problems =
            text.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        let count = problems.count();
        assert!((1..=40).contains(&count), "{count} lines for {asked} requests:\n{text}");
        assert!(text.contains("onnection refused"), "the reason is said:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_that_were_given_one_redis_find_out() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let mut other = Bed::without_redis();
    other.redis_url = bed.redis_url.clone();
    for role in ["serve", "worker"] {
        let mut command = other.command(role);
        let output = match role {
            "serve" => command.args(["--listen", "127.0.0.1:0"]),
            _ => command.args(["--admin-listen", "127.0.0.1:0"]),
        }
        .stdout(Stdio::null())
        .output()
        .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{role}: {said}");
        assert!(
            said.contains("TASKFORGE_REDIS_PREFIX")
                && said.contains(&bed.sql("select id from fleet")),
            "{role}: {said}"
        );
    }
    let mut command = other.command("serve");
    command.args(["--listen", "127.0.0.1:0", "--redis-prefix", "another"]);
    let node = Node::start(&mut command);
    assert_eq!(node.readyz().await.unwrap().1["mode"], "redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_named_to_operators() {
    let redis = Redis::start();
    redis.command("config set maxmemory-policy volatile-ttl");
    let mut bed = Bed::without_redis();
    bed.redis_url = Some(redis.url());
    let (api, log) = logged(&bed, &mut bed.api_command(), "api.log");
    wait_until("it was asked", async || lines(&log, "volatile-ttl") == 1).await;
    let (status, ready) = api.readyz().await.unwrap();
    let broker = ready["checks"]["broker"].as_str().unwrap();
    assert!(status == 200 && broker.contains("noeviction"), "{ready}");
    let metrics =
        bed.http.get(bed.url("/metrics")).bearer_auth(crate::bed::KEY).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let metric = "taskforge_redis_maxmemory_policy{policy=\"volatile-ttl\"} 1";
    assert!(metrics.contains(metric), "{metrics}");
}
