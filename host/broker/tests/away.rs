//! Redis is flushed, stopped, suspended, restarted, a cluster: what a broker says then, and that no
//! task waits for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "support/bulletin.rs"]
mod bulletin;
#[path = "support/hints.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hints;
#[path = "support/server.rs"]
mod server;

use std::{future::Future, sync::Arc, time::Duration};

use bulletin::Board;
use hints::{LONG, hint, hints, kind, kinds, pop, take};
use jiff::{SignedDuration, Timestamp};
use server::Server;
use taskforge_broker::{
    Broker, Eviction, FleetBroker, Mode, Popped, RedisBroker, RedisConfig, Signal, Signals,
    StoreBroker, Want, queue::ASIDE,
};
use taskforge_domain::{Clock, FleetId, LaneLimits, QueuePolicy, TaskId, TypePolicy};
use taskforge_testing::{proxy::Proxy, tls};

const TEST_LIMIT: Duration = Duration::from_secs(30);

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TEST_LIMIT, poll)
        .await
        .unwrap_or_else(|_| panic!("it never happened that {what}"));
}

/// The next signal that is not `Missed`, and whether there was one before it.
async fn next(signals: &mut Signals) -> (Signal, bool) {
    let mut missed = false;
    loop {
        match tokio::time::timeout(TEST_LIMIT, signals.recv())
            .await
            .expect("no signal came")
            .unwrap()
        {
            Signal::Missed => missed = true,
            signal => return (signal, missed),
        }
    }
}

fn waiting<B: Broker>(
    broker: &Arc<B>,
    types: &[&str],
    wait: Duration,
) -> tokio::task::JoinHandle<Popped> {
    let (broker, types) = (broker.clone(), kinds(types));
    tokio::spawn(async move {
        let want = Want { types: &types, lanes: LaneLimits::none(), max: 8, wait };
        broker.pop(want).await.unwrap()
    })
}

async fn soon(worker: tokio::task::JoinHandle<Popped>) -> Popped {
    tokio::time::timeout(TEST_LIMIT, worker).await.expect("the worker still waits").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_the_broker_is_incomplete_until_it_was_rebuilt_from_the_beginning() {
    let server = Server::start();
    let broker = RedisBroker::connect(&server.config()).await.unwrap();
    let other = RedisBroker::connect(&server.config()).await.unwrap();
    assert!(!broker.is_complete().await.unwrap());
    broker.mark_complete().await.unwrap();
    assert!(other.is_complete().await.unwrap());
    let paused = TypePolicy { paused: true, max_running: None };
    let policy = QueuePolicy { types: [(kind("paused"), paused)].into(), ..QueuePolicy::default() };
    broker.set_policy(&policy).await.unwrap();

    server.flush();
    assert!(pop(&other, &["t"], 1).await.look_in_store);
    assert!(!broker.is_complete().await.unwrap());
    // Nothing is given out before it is known what is paused.
    let pushed = [hint("a", "t", 3), hint("a", "paused", 3)];
    broker.push(&pushed).await.unwrap();
    let popped = pop(&other, &["t", "paused"], 8).await;
    assert!(popped.hints.is_empty() && popped.look_in_store);
    broker.set_policy(&policy).await.unwrap();
    let popped = pop(&other, &["t", "paused"], 8).await;
    assert!(popped.look_in_store);
    assert_eq!(popped.hints, pushed[..1]);

    // Lost again in the midst of the rebuild: its end is not that of the rebuild that is due now.
    server.flush();
    broker.mark_complete().await.unwrap();
    assert!(!broker.is_complete().await.unwrap());
    broker.mark_complete().await.unwrap();
    assert!(other.is_complete().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_says_so_at_once_and_comes_back_by_itself() {
    let mut server = Server::start();
    let broker = Arc::new(RedisBroker::connect(&server.config()).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.mark_complete().await.unwrap();
    assert_eq!(broker.mode(), Mode::Redis);
    let mut signals = broker.subscribe();

    server.stop();
    // The subscription notices, though nobody calls.
    until("it is away", || async { broker.is_away() }).await;
    assert_eq!(broker.mode(), Mode::StoreWhileRedisIsAway);
    assert!(broker.push(&[hint("a", "t", 3)]).await.is_err());
    let want = Want { types: &kinds(&["t"]), lanes: LaneLimits::none(), max: 1, wait: LONG };
    assert!(broker.pop(want).await.is_err());

    server.restart();
    until("it is back", || async { !broker.is_away() }).await;
    assert!(!broker.is_complete().await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    let worker = waiting(&broker, &["t"], LONG);
    let pushed = hints("a", "t", 3, 2);
    broker.push(&pushed).await.unwrap();
    assert_eq!(soon(worker).await.hints, pushed);

    let id = TaskId::generate();
    until("signals arrive again", || async {
        broker.publish(&[Signal::Finished(id)]).await.unwrap();
        !signals.is_empty()
    })
    .await;
    let (signal, missed) = next(&mut signals).await;
    assert!(
        signal == Signal::Finished(id) && missed,
        "whoever waited for a signal is told to look"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_failed_makes_the_queues_incomplete_though_the_server_kept_them() {
    let server = Server::start();
    let mut config = server.config();
    config.timeout = Duration::from_millis(200);
    let (cut_off, other) = (
        RedisBroker::connect(&config).await.unwrap(),
        RedisBroker::connect(&server.config()).await.unwrap(),
    );
    other.set_policy(&QueuePolicy::default()).await.unwrap();
    other.mark_complete().await.unwrap();
    let kept = hint("a", "t", 3);
    other.push(std::slice::from_ref(&kept)).await.unwrap();

    server.stand_still();
    assert!(
        cut_off.push(&[hint("a", "t", 3)]).await.is_err(),
        "a server that does not answer is away"
    );
    assert!(cut_off.is_away());
    server.go_on();
    until("both are back", || async { !cut_off.is_away() && !other.is_away() }).await;
    assert!(!other.is_complete().await.unwrap());
    assert!(take(&other, &["t"], 8).await.contains(&kept));
}

/// A call of the old connection that fails when the next one is up does not take that one down, and
/// the hints that the call may have lost are reported all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_failure_of_a_connection_leaves_its_successor_up() {
    let server = Server::start();
    let wire = Proxy::start(server.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port());
    let config = RedisConfig { url, timeout: Duration::from_secs(2), ..server.config() };
    let broker = Arc::new(RedisBroker::connect(&config).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.mark_complete().await.unwrap();

    wire.strand();
    let first = broker.clone();
    let first = tokio::spawn(async move { first.depth().await });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let late = broker.clone();
    let late = tokio::spawn(async move { late.push(&[hint("a", "t", 3)]).await });
    assert!(first.await.unwrap().is_err());
    until("the next connection is up", || async { !broker.is_away() }).await;
    assert!(broker.is_complete().await.unwrap(), "the first call carried no hints");
    assert!(!late.is_finished(), "the machine is too slow for this test");
    assert!(late.await.unwrap().is_err());
    assert!(!broker.is_away());
    until("the loss is reported", || async { !broker.is_complete().await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_of_one_server_wake_each_other_and_share_what_is_aside() {
    let server = Server::start();
    // One that is not the real one, so that nothing comes back by itself.
    let config = RedisConfig { clock: Clock::stopped(Timestamp::now()), ..server.config() };
    let (one, two) = (
        Arc::new(RedisBroker::connect(&config).await.unwrap()),
        Arc::new(RedisBroker::connect(&config).await.unwrap()),
    );
    one.set_policy(&QueuePolicy::default()).await.unwrap();
    one.mark_complete().await.unwrap();
    let worker = waiting(&two, &["t"], LONG);
    let pushed = hints("a", "t", 3, 20);
    one.push(&pushed).await.unwrap();
    let mut running = soon(worker).await.hints;
    for broker in [&one, &two, &one] {
        running.extend(take(&**broker, &["t"], 3).await);
    }
    one.set_aside(&running[5..]).await.unwrap();
    assert_eq!(take(&*two, &["t"], 3).await, []);
    config.clock.shift(SignedDuration::try_from(ASIDE).unwrap());
    assert_eq!(take(&*two, &["t"], 3).await.len(), 1);
    // A server that evicts keys may lose what is aside; the lanes are there all the same.
    two.set_aside(&pushed[..1]).await.unwrap();
    let aside = format!("{{{}}}:aside", config.prefix);
    redis::cmd("DEL").arg(aside).exec(&mut server.connection()).unwrap();
    assert!(!take(&*one, &["t"], 3).await.is_empty());

    let elsewhere = RedisConfig { prefix: "other".into(), ..server.config() };
    let stranger = RedisBroker::connect(&elsewhere).await.unwrap();
    assert_eq!(take(&stranger, &["t"], 8).await, []);
    assert_eq!(stranger.depth().await.unwrap(), 0);
}

/// An earlier version took lanes at their caps out of the turns, and an eviction may take any key.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_lost_its_turn_gets_it_back_with_the_next_hint() {
    let server = Server::start();
    let broker = RedisBroker::connect(&server.config()).await.unwrap();
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.mark_complete().await.unwrap();
    broker.push(&hints("a", "work", 3, 2)).await.unwrap();
    let base = format!("{{{}}}", server.config().prefix);
    redis::cmd("DEL")
        .arg(&["turns:3:work", "heads:3:work", "ready"].map(|key| format!("{base}:{key}")))
        .exec(&mut server.connection())
        .unwrap();
    assert_eq!(take(&broker, &["work"], 8).await, []);
    broker.push(&hints("a", "work", 3, 1)).await.unwrap();
    assert_eq!(take(&broker, &["work"], 8).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_serves_as_well() {
    let server = Server::start_cluster();
    let config = RedisConfig::new(server.url().replace("redis://", "redis-cluster://"));
    let broker = Arc::new(RedisBroker::connect(&config).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    assert!(!broker.is_complete().await.unwrap());
    broker.mark_complete().await.unwrap();
    let mut signals = broker.subscribe();
    let worker = waiting(&broker, &["t"], LONG);
    let pushed = hints("a", "t", 3, 2);
    broker.push(&pushed).await.unwrap();
    assert_eq!(soon(worker).await.hints, pushed);
    let lane = &pushed[0].lane;
    broker.refill(lane, None, &[pushed[0].id], true).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), 1);
    assert_eq!(broker.short_lanes().await.unwrap(), []);
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.set_aside(&pushed).await.unwrap();
    broker.publish(&[Signal::Policy]).await.unwrap();
    assert_eq!(next(&mut signals).await, (Signal::Policy, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_push_sends_workers_to_the_store() {
    let board = Board::new();
    let (one, two) = (Arc::new(StoreBroker::new(board.clone())), StoreBroker::new(board.clone()));
    assert_eq!((one.mode(), one.is_complete().await.unwrap()), (Mode::Store, true));
    let mut signals = one.subscribe();
    // The first look is free; the second waits until there is something to find.
    assert!(pop(&*one, &["t"], 1).await.look_in_store);
    let worker = waiting(&one, &["t"], LONG);
    two.push(&hints("a", "t", 3, 300)).await.unwrap();
    let popped = soon(worker).await;
    assert!(popped.hints.is_empty() && popped.look_in_store);
    two.publish(&[Signal::Policy]).await.unwrap();
    assert_eq!(next(&mut signals).await, (Signal::Policy, false));
    board.lose_some();
    assert_eq!(
        tokio::time::timeout(TEST_LIMIT, signals.recv()).await.unwrap().unwrap(),
        Signal::Missed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_falls_back_to_the_store_and_returns() {
    let mut server = Server::start();
    let board = Board::new();
    let redis = RedisBroker::connect(&server.config()).await.unwrap();
    let fleet = Arc::new(FleetBroker::new(redis, board.clone()));
    let mut signals = fleet.subscribe();
    fleet.set_policy(&QueuePolicy::default()).await.unwrap();
    fleet.mark_complete().await.unwrap();
    take(&*fleet, &["t"], 1).await;
    let pushed = hints("a", "t", 3, 2);
    fleet.push(&pushed).await.unwrap();
    let popped = pop(&*fleet, &["t"], 8).await;
    assert!(!popped.look_in_store);
    assert_eq!(popped.hints, pushed);

    // Another process thinks that Redis is away.
    let cut_off = StoreBroker::new(board.clone());
    let worker = waiting(&fleet, &["t"], LONG);
    cut_off.push(&hints("a", "t", 3, 1)).await.unwrap();
    let popped = soon(worker).await;
    assert!(popped.look_in_store);
    let id = TaskId::generate();
    cut_off.publish(&[Signal::Cancel(id)]).await.unwrap();
    assert_eq!(next(&mut signals).await.0, Signal::Cancel(id));

    server.stop();
    until("it is away", || async { fleet.mode() == Mode::StoreWhileRedisIsAway }).await;
    fleet.push(&hints("a", "t", 3, 1)).await.unwrap();
    let popped = soon(waiting(&fleet, &["t"], LONG)).await;
    assert!(popped.hints.is_empty() && popped.look_in_store);
    assert!(fleet.is_complete().await.unwrap() && fleet.short_lanes().await.unwrap().is_empty());
    fleet.set_aside(&pushed).await.unwrap();
    fleet.publish(&[Signal::Finished(id)]).await.unwrap();
    assert_eq!(next(&mut signals).await.0, Signal::Finished(id));

    server.restart();
    until("it is back", || async { fleet.mode() == Mode::Redis }).await;
    assert!(!fleet.is_complete().await.unwrap());
    fleet.set_policy(&QueuePolicy::default()).await.unwrap();
    fleet.mark_complete().await.unwrap();
    until("hints come from Redis again", || async {
        fleet.push(&pushed).await.unwrap();
        take(&*fleet, &["t"], 8).await == pushed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_starts_while_redis_is_away() {
    let mut server = Server::start();
    let config = server.config();
    server.stop();
    let fleet = FleetBroker::new(RedisBroker::connect(&config).await.unwrap(), Board::new());
    assert_eq!(fleet.mode(), Mode::StoreWhileRedisIsAway);
    assert!(pop(&fleet, &["t"], 1).await.look_in_store);
    server.restart();
    until("it is there", || async { fleet.mode() == Mode::Redis }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_thrown_away_leaves_no_key_and_others_alone() {
    let server = Server::start();
    let fleet = async |prefix: &str| {
        let config = RedisConfig { prefix: prefix.into(), ..server.config() };
        RedisBroker::connect(&config).await.unwrap()
    };
    let (ours, theirs) = (fleet("ours").await, fleet("theirs").await);
    for broker in [&ours, &theirs] {
        broker.push(&hints("a", "work", 3, 3)).await.unwrap();
    }
    ours.erase().await.unwrap();
    assert_eq!((ours.depth().await.unwrap(), theirs.depth().await.unwrap()), (0, 3));
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{ours}*").query(&mut server.connection()).unwrap();
    assert_eq!(keys, [] as [String; 0]);
}

fn of(fleet: FleetId, server: &Server) -> RedisConfig {
    RedisConfig { fleet: Some(fleet), timeout: Duration::from_secs(20), ..server.config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_do_not_share_a_prefix_whichever_comes_first() {
    let server = Server::start();
    let (ours, theirs) = (FleetId::generate(), FleetId::generate());
    let first = RedisBroker::connect(&of(ours, &server)).await.unwrap();
    let again = RedisBroker::connect(&of(ours, &server)).await.unwrap();
    first.set_policy(&QueuePolicy::default()).await.unwrap();
    first.push(&hints("a", "t", 3, 2)).await.unwrap();
    let refused = RedisBroker::connect(&of(theirs, &server)).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains(&ours.to_string())
            && text.contains("prefix")
            && text.contains("\"taskforge\""),
        "{text}"
    );
    let elsewhere = RedisConfig { prefix: "other".into(), ..of(theirs, &server) };
    RedisBroker::connect(&elsewhere).await.unwrap();
    assert_eq!(first.depth().await.unwrap(), 2, "nobody has touched them");

    // Redis forgets whose it was, and the other fleet says so first.
    server.flush();
    let second = RedisBroker::connect(&of(theirs, &server)).await.unwrap();
    second.set_policy(&QueuePolicy::default()).await.unwrap();
    assert!(again.push(&hints("a", "t", 3, 1)).await.is_err());
    assert_eq!(again.mode(), Mode::StoreWhileRedisIsAway);
    let concern = again.concern().unwrap();
    assert!(concern.contains("another fleet"), "{concern}");
    assert!(first.is_complete().await.is_err());
    assert_eq!(take(&second, &["t"], 8).await, []);

    // Once the other one is gone and its keys are, both come back by themselves.
    drop(second);
    server.flush();
    until("both are back", || async { !first.is_away() && !again.is_away() }).await;
    assert_eq!(again.concern(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_evicts_or_does_not_say_so_is_named() {
    let server = Server::start();
    let ask = async |command: &[&str]| {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).exec(&mut server.connection()).unwrap();
    };
    let broker = RedisBroker::connect(&server.config()).await.unwrap();
    until("it was asked", || async { broker.eviction().is_some() }).await;
    assert_eq!(broker.eviction(), Some(Eviction::Never));
    assert_eq!(broker.concern(), None);
    ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    until("the change is noticed", || async { broker.concern().is_some() }).await;
    let concern = broker.concern().unwrap();
    assert!(concern.contains("allkeys-lru") && concern.contains("noeviction"), "{concern}");
    assert_eq!(broker.eviction().unwrap().name(), "allkeys-lru");

    ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    ask(&["ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-info", "-config"]).await;
    let shy = RedisConfig::new(server.url().replace("redis://", "redis://shy:pw@"));
    let shy = RedisBroker::connect(&shy).await.unwrap();
    until("it was asked", || async { shy.eviction().is_some() }).await;
    assert_eq!(shy.eviction().unwrap().name(), "unknown");
    assert!(shy.concern().unwrap().contains("does not say"));
    assert_eq!(shy.mode(), Mode::Redis, "it serves all the same");
    ask(&["ACL", "SETUSER", "shy", "+info"]).await;
    until("INFO will do", || async { shy.eviction() == Some(Eviction::Never) }).await;
}

#[tokio::test]
async fn a_server_of_a_private_authority_is_reached_by_whoever_trusts_it() {
    let server = Server::start();
    let config = server.config();
    let port: u16 = config.url.rsplit(':').next().unwrap().parse().unwrap();
    let secure = tls::before(port, None).await;
    let config = RedisConfig { url: format!("rediss://127.0.0.1:{}", secure.port()), ..config };
    let stranger = RedisBroker::connect(&config).await.unwrap();
    assert!(stranger.is_away());
    let authority = std::fs::read_to_string(tls::authority()).unwrap();
    let trusting = RedisConfig { authorities: Some(authority), ..config };
    let broker = RedisBroker::connect(&trusting).await.unwrap();
    until("it is reached", async || !broker.is_away()).await;
}
