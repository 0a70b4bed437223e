//! A database or a Redis that is at fault, or what stands before it.

use std::time::Duration;

use serde_json::json;
use taskforge_testing::{
    server::{PgBouncer, Postgres, Redis},
    wait::wait_until,
};

use super::{Hit, storm, storm_on};
use crate::{
    bed::{Bed, DATABASE},
    node::Node,
};

#[tokio::test(flavor = "multi_thread")]
async fn failover_to_a_standby() {
    let servers = || {
        let mut bed = Bed::new();
        let standby = bed.postgres.start_standby();
        bed.database_url = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{DATABASE}?target_session_attrs=read-write",
            bed.postgres.port(),
            standby.port()
        );
        (bed, standby)
    };
    let name = "PostgreSQL killed, its synchronous standby promoted";
    storm_on(servers, name, None, async |storm, standby, _| {
        let hit = Hit::now(&storm.bed);
        storm.bed.postgres.stop();
        standby.promote();
        // The old one stays away.
        storm.bed.postgres = standby;
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_killed_and_started_again() {
    let postgres = Postgres::start();
    let Some(pooler) = PgBouncer::start(postgres.port(), "session") else {
        return;
    };
    let servers = || {
        let mut bed = Bed::on(postgres, Some(Redis::start()));
        bed.database_url = pooler.url(DATABASE);
        (bed, pooler)
    };
    let name = "everything through PgBouncer (session), which is killed";
    storm_on(servers, name, None, async |storm, mut pooler, _| {
        let hit = Hit::now(&storm.bed);
        pooler.stop();
        tokio::time::sleep(Duration::from_millis(500)).await;
        pooler.resume();
        // It must outlast the load.
        storm.keep.push(Box::new(pooler));
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_ends_idle_sessions() {
    let servers = || {
        let bed = Bed::new();
        bed.sql(&format!("alter database {DATABASE} set idle_session_timeout = '2s'"));
        (bed, ())
    };
    storm_on(
        servers,
        "PostgreSQL with idle_session_timeout = 2s",
        None,
        async |storm, (), scale| {
            let hit = Hit::now(&storm.bed);
            // The load is of batches, so the writer of single tasks was idle for long each time.
            let rounds = scale.outage.as_secs() / 3 + 1;
            for _ in 0..rounds {
                tokio::time::sleep(Duration::from_millis(2_700)).await;
                let id = storm.bed.submit("fibonacci", json!({ "n": 10 })).await;
                storm.bed.ask("GET", &format!("/tasks/{id}"), None).await;
            }
            hit
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_while_everything_is_stopped() {
    let name = "PostgreSQL hangs (SIGSTOP), SIGTERM of every process";
    storm(name, None, async |storm, _| {
        // With short graces.
        storm.api.take().expect("it runs").kill();
        storm.workers.clear();
        let mut api = storm.bed.api_command();
        let mut api = Node::start(api.args(["--shutdown-grace", "2s"]));
        let mut workers: Vec<_> = (0..2)
            .map(|_| Node::start(storm.worker_command().args(["--drain-grace", "2s"])))
            .collect();
        let running = "select count(*) from tasks where state = 'running'
                       and worker in (select id from workers where lapsed_at is null)";
        wait_until("tasks are under way", async || storm.bed.count(running) > 10).await;
        let hit = Hit::now(&storm.bed);
        storm.bed.postgres.freeze();
        // Somebody asks, so that the API has something to end.
        let (http, url) = (storm.bed.http.clone(), storm.bed.url("/tasks"));
        let asking =
            tokio::spawn(async move { http.get(url).bearer_auth(crate::bed::KEY).send().await });
        let asked = std::time::Instant::now();
        for node in workers.iter().chain([&api]) {
            node.signal("TERM");
        }
        for node in workers.iter_mut().chain([&mut api]) {
            node.wait_for_exit().await;
        }
        // Two of grace, five of closing, and all that a busy machine adds.
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(60), "it took {took:?}");
        println!("CHAOS | {name}: all had ended after {:.1} s", took.as_secs_f64());
        asking.abort();
        storm.bed.postgres.thaw();
        storm.api = Some(storm.bed.start_api());
        storm.workers = (0..2).map(|_| storm.start_worker()).collect();
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_evicts() {
    let name = "Redis with allkeys-lru and no memory left";
    storm(name, None, async |storm, scale| {
        let number = |redis: &Redis, section: &str, field: &str| -> u64 {
            let script =
                format!("return tonumber(redis.call('info','{section}'):match('{field}:(%d+)'))");
            let answer = redis.command(&format!("eval \"{script}\" 0"));
            let number = answer.strip_prefix(':').unwrap_or_else(|| panic!("{answer}"));
            number.parse().unwrap()
        };
        let redis = storm.bed.redis.as_ref().expect("there is one");
        let hit = Hit::now(&storm.bed);
        assert_eq!(redis.command("config set maxmemory-policy allkeys-lru"), "+OK");
        let until = std::time::Instant::now() + scale.outage;
        let (mut filler, mut evicted) = (0, 0);
        while evicted <= 10 || std::time::Instant::now() < until {
            // Whatever is there now is too much, so that each command makes room first.
            let full = number(redis, "memory", "used_memory").saturating_sub(16_384);
            assert_eq!(redis.command(&format!("config set maxmemory {full}")), "+OK");
            filler += 1;
            redis.command(&format!("set filler:{filler} {}", "x".repeat(16_384)));
            tokio::time::sleep(Duration::from_millis(20)).await;
            evicted = number(redis, "stats", "evicted_keys");
        }
        println!("CHAOS | {name}: {evicted} keys were evicted");
        // There is room again, but whoever keeps such a policy will lose keys another time.
        redis.command("config set maxmemory 0");
        let api = storm.api.as_ref().expect("it runs");
        wait_until("operators are told", async || {
            let (status, ready) = api.readyz().await.unwrap();
            status == 200 && ready["checks"]["broker"].as_str().unwrap().contains("allkeys-lru")
        })
        .await;
        redis.command("config set maxmemory-policy noeviction");
        hit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_postgres_is_full() {
    let Some(postgres) = Postgres::start_on_small_disk(600) else {
        return;
    };
    let servers = || (Bed::on(postgres, Some(Redis::start())), ());
    let name = "the disk of PostgreSQL is full";
    storm_on(servers, name, None, async |storm, (), scale| {
        let hit = Hit::now(&storm.bed);
        storm.bed.postgres.disk().fill();
        wait_until("it is noticed", async || {
            let body = json!({ "task_type": "fibonacci", "input": { "n": 1, } });
            let (status, answer) = storm.bed.send("POST", "/tasks", Some(&body)).await.unwrap();
            assert!(status == 201 || status == 503, "{status}: {answer}");
            status == 503
        })
        .await;
        tokio::time::sleep(scale.outage).await;
        storm.bed.postgres.disk().empty();
        // It ends by itself when there is no room for its log.
        storm.bed.postgres.supervise();
        hit
    })
    .await;
}
