//! Plugins that come, change and go in a running fleet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskforge_broker::{Broker, BrokerError, BrokerResult, Bulletin, LocalBroker, StoreBroker};
use taskforge_domain::{CanaryGuard, Json, Manifest, PluginSettings, TaskType};
use taskforge_registry::{
    Keyring, Parts, Push, Registry, SameVersion, SignaturePolicy, Statement, StoredComponents,
    signature,
};
use taskforge_runtime::{OutboxMailer, Runtime, RuntimeConfig};
use taskforge_store::{Notices, PostgresConfig, PostgresStore};
use taskforge_testing::{guests, wait::wait_until};
use tokio::sync::broadcast;

use crate::bed::Bed;

const BY: &str = "a test";
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

struct Noticeboard(Arc<Notices>);

#[async_trait]
impl Bulletin for Noticeboard {
    async fn post(&self, notices: &[String]) -> BrokerResult<()> {
        let posted = self.0.post(notices).await;
        posted.map_err(|error| BrokerError(error.to_string()))
    }

    fn listen(&self) -> broadcast::Receiver<String> {
        self.0.listen()
    }
}

/// Whether the fleet hears of what an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Yes,
    No,
}

/// An operator's registry, on a fleet whose broker is its database.
async fn operator(bed: &Bed, announced: Announced) -> Registry {
    let config = PostgresConfig::new(bed.database_url.as_str());
    let store = PostgresStore::connect(&config).await.unwrap();
    let broker: Arc<dyn Broker> = match announced {
        Announced::Yes => {
            let notices = Notices::connect(&config).await.unwrap();
            Arc::new(StoreBroker::new(Arc::new(Noticeboard(notices))))
        }
        Announced::No => Arc::new(LocalBroker::new()),
    };
    let mailer =
        OutboxMailer::new(bed.data.path().join("outbox"), "Test <test@localhost>").unwrap();
    let runtime = Runtime::new(RuntimeConfig {
        cache_dir: Some(bed.data.path().join("operator-cache")),
        max_instances: 2,
        source: Some(Arc::new(StoredComponents::new(store.clone()))),
        ..RuntimeConfig::new(Arc::new(mailer))
    });
    Registry::new(Parts {
        store,
        broker,
        runtime: runtime.unwrap(),
        keyring: Some(Arc::new(Keyring::parse(KEY).unwrap())),
        signatures: Arc::new(SignaturePolicy::default()),
    })
}

fn work() -> TaskType {
    TaskType::new("work").unwrap()
}

/// Pushes the command as a version of `work`.
async fn push(registry: &Registry, version: &str, settings: PluginSettings) {
    push_with_schema(registry, version, settings, json!({})).await;
}

async fn push_with_schema(
    registry: &Registry,
    version: &str,
    settings: PluginSettings,
    schema: Value,
) {
    let push = Push {
        owner: None,
        manifest: Some(Manifest {
            name: work(),
            version: version.to_owned(),
            summary: String::new(),
            input_schema: Json::from(schema),
            output_schema: Json::from(json!({})),
        }),
        settings: Some(settings),
        signature: None,
        by: BY.to_owned(),
        same_version: SameVersion::Refuse,
    };
    registry.push(guests::bytes("command"), push).await.unwrap();
}

/// Settings under which every attempt fails.
fn starved() -> PluginSettings {
    let mut settings = PluginSettings::default();
    settings.limits.fuel = 10;
    settings
}

async fn activate(registry: &Registry, version: &str) {
    let activated = registry.activate(&work(), version, false, BY).await;
    activated.unwrap();
}

/// Enqueues tasks of a type; repeats that while the API does not know the type yet.
async fn submit(bed: &Bed, task_type: &str, tasks: usize, input: &Value) -> Vec<String> {
    let one = json!({ "task_type": task_type, "input": input, "max_retries": 0 });
    let body = json!({ "tasks": vec![one; tasks] });
    let mut ids = Vec::new();
    wait_until("the API takes them", async || {
        let (status, answer) = bed.send("POST", "/tasks/batch", Some(&body)).await.unwrap();
        if status == 422 {
            return false;
        }
        assert_eq!(status, 201, "{answer}");
        let taken = answer["ids"].as_array().unwrap().iter();
        ids = taken.map(|id| id.as_str().unwrap().to_owned()).collect();
        true
    })
    .await;
    ids
}

fn echo() -> Value {
    json!({ "do": "echo", "value": 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_runs_on_every_worker_soon_also_if_nobody_hears_of_it() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let _workers = [(); 3].map(|()| bed.start_worker(&[]));
    for (announced, version) in [(Announced::Yes, "1.0.0"), (Announced::No, "1.1.0")] {
        let registry = operator(&bed, announced).await;
        let began = Instant::now();
        push(&registry, version, PluginSettings::default()).await;
        let pushed = began.elapsed();
        activate(&registry, version).await;
        let workers = format!(
            "select count(distinct worker) from attempts where plugin_version = '{version}'"
        );
        wait_until("every worker has run it", async || {
            for id in submit(&bed, "work", 30, &echo()).await {
                assert_eq!(bed.ended(&id).await["status"], "completed");
            }
            bed.count(&workers) == 3
        })
        .await;
        println!(
            "announced: {announced:?}; pushed after {pushed:?}, run on all workers after {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swapping_versions_under_load_fails_no_task_and_attempts_name_their_version() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let registry = operator(&bed, Announced::Yes).await;
    push(&registry, "1.0.0", PluginSettings::default()).await;
    push(&registry, "2.0.0", PluginSettings::default()).await;
    activate(&registry, "1.0.0").await;
    let mut ids = submit(&bed, "work", 10, &echo()).await;
    let swaps = async {
        for round in 0..20 {
            activate(&registry, ["2.0.0", "1.0.0"][round % 2]).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let load = async {
        let mut ids = Vec::new();
        for _ in 0..40 {
            ids.extend(submit(&bed, "work", 50, &echo()).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ids
    };
    ids.extend(tokio::join!(swaps, load).1);
    for id in &ids {
        assert_eq!(bed.ended(id).await["status"], "completed");
    }
    let attempts = "select count(*) from attempts where plugin_version in ('1.0.0', '2.0.0')";
    assert_eq!(bed.count(attempts), ids.len() as u64, "one attempt each");
    for version in ["1.0.0", "2.0.0"] {
        let ran = format!("select count(*) from attempts where plugin_version = '{version}'");
        assert!(bed.count(&ran) > 0, "{version} ran");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_rolled_back_and_one_on_trial_goes_by_itself() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let registry = operator(&bed, Announced::Yes).await;
    push(&registry, "1.0.0", PluginSettings::default()).await;
    push(&registry, "2.0.0", starved()).await;
    activate(&registry, "1.0.0").await;
    for id in submit(&bed, "work", 30, &echo()).await {
        assert_eq!(bed.ended(&id).await["status"], "completed");
    }

    activate(&registry, "2.0.0").await;
    wait_until("the bad version runs", async || {
        let ids = submit(&bed, "work", 4, &echo()).await;
        let mut failed = 0;
        for id in &ids {
            failed += usize::from(bed.ended(id).await["status"] == "failed");
        }
        failed == ids.len()
    })
    .await;
    let began = Instant::now();
    registry.rollback(&work(), BY).await.unwrap();
    wait_until("the good version runs", async || {
        let ids = submit(&bed, "work", 4, &echo()).await;
        let mut completed = 0;
        for id in &ids {
            completed += usize::from(bed.ended(id).await["status"] == "completed");
        }
        completed == ids.len()
    })
    .await;
    println!("rolled back after {:?}", began.elapsed());

    let guard = CanaryGuard { min_attempts: 20, ..CanaryGuard::default() };
    let tried = registry.canary(&work(), "2.0.0", 20, guard, false, BY).await;
    let phase = tried.unwrap().rollout.phase;
    wait_until("the canary is taken back", async || {
        for id in submit(&bed, "work", 20, &echo()).await {
            bed.ended(&id).await;
        }
        registry.plugin(&work()).await.unwrap().rollout.canary.is_none()
    })
    .await;
    let usage = |version: &str| {
        format!(
            "select sum(count) from plugin_usage join plugin_versions on id = plugin_usage.version
             where phase = {phase} and metric = 'attempts' and plugin_versions.version = '{version}'"
        )
    };
    let (tried, stable) = (bed.count(&usage("2.0.0")), bed.count(&usage("1.0.0")));
    assert!(tried >= 20 && stable > tried, "{tried} on trial, {stable} beside");
    let events = registry.events(&work(), 1).await.unwrap();
    assert_eq!(events[0].by, "canary guard");
    assert!(events[0].detail.contains("(100 %)"), "{events:?}");
    println!("{} of {}: {}", tried, tried + stable, events[0].detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_plugin_waits_a_retired_one_takes_no_more_and_what_no_longer_fits_is_told() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let _worker = bed.start_worker(&[]);
    let registry = operator(&bed, Announced::No).await;
    push(&registry, "1.0.0", PluginSettings::default()).await;
    activate(&registry, "1.0.0").await;
    let first = submit(&bed, "work", 1, &echo()).await;
    assert_eq!(bed.ended(&first[0]).await["status"], "completed");

    registry.pause(&work(), BY).await.unwrap();
    // The poll's second, the sweep's tick, and a busy machine.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waiting = submit(&bed, "work", 5, &echo()).await;
    let other = bed.submit("fibonacci", json!({ "n": 5 })).await;
    assert_eq!(bed.ended(&other).await["status"], "completed");
    for id in &waiting {
        assert_eq!(bed.task(id).await["status"], "pending");
    }
    // In the meantime comes a version that wants more of its input.
    let schema = json!({ "type": "object", "required": ["reason"] });
    push_with_schema(&registry, "2.0.0", PluginSettings::default(), schema).await;
    registry.activate(&work(), "2.0.0", true, BY).await.unwrap();
    registry.resume(&work(), BY).await.unwrap();
    for id in &waiting {
        let task = bed.ended(id).await;
        assert_eq!(task["error_kind"], "invalid_input", "{task}");
        let error = task["error"].to_string();
        assert!(error.contains("version 2.0.0") && error.contains("/input/reason"), "{error}");
    }

    registry.rollback(&work(), BY).await.unwrap();
    let accepted = submit(&bed, "work", 1, &echo()).await;
    registry.retire(&work(), BY).await.unwrap();
    bed.ended(&accepted[0]).await;
    let body = json!({ "task_type": "work", "input": echo() });
    wait_until("the API takes no more", async || {
        bed.send("POST", "/tasks", Some(&body)).await.unwrap().0 == 422
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_asks_for_signatures_runs_nothing_else() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let registry = operator(&bed, Announced::Yes).await;
    let pair = signature::keygen().unwrap();
    let keys = bed.data.path().join("keys.toml");
    let text = format!("[[key]]\nname = \"ci\"\npublic_key = \"{}\"\nshared = true\n", pair.public);
    std::fs::write(&keys, text).unwrap();
    let _strict =
        bed.start_worker(&["--require-signature", "--trusted-keys", keys.to_str().unwrap()]);
    // The folder's is there, unsigned.
    let name = TaskType::new("fibonacci").unwrap();
    let version = registry.versions(&name).await.unwrap().remove(0);
    let statement = Statement::of(&version.info, None);
    let signed = signature::sign(&pair.private_pem, &statement).unwrap();
    let number = &version.info.version;
    registry.attach_signature(&name, number, &signed, BY).await.unwrap();
    push(&registry, "1.0.0", PluginSettings::default()).await;
    activate(&registry, "1.0.0").await;

    let unsigned = submit(&bed, "work", 1, &echo()).await;
    let trusted = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&trusted).await["status"], "completed");
    assert_eq!(bed.task(&unsigned[0]).await["status"], "pending");

    // Whoever can write to the database grants more than was signed. The worker that runs the
    // version stops running it, and one that starts does not begin to.
    let tamper = |grants: &str| {
        bed.sql(&format!(
            "update plugin_versions set grants = '{grants}' where plugin = 'fibonacci'; \
             update registry_revision set revision = revision + 1; \
             update plugins set revision = (select revision from registry_revision) where name = 'fibonacci'"
        ))
    };
    tamper(r#"{"keyvalue": {"bytes": 1, "keys": 1}}"#);
    wait_until("the version is withdrawn", async || {
        let waiting = bed.submit("fibonacci", json!({ "n": 10 })).await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        bed.task(&waiting).await["status"] == "pending"
    })
    .await;
    tamper("{}");
    let trusted = bed.submit("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(bed.ended(&trusted).await["status"], "completed");

    let _lax = bed.start_worker(&[]);
    assert_eq!(bed.ended(&unsigned[0]).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_its_guest_and_lies_nowhere_in_plain_text() {
    let bed = Bed::without_redis();
    let _api = bed.start_api();
    let registry = operator(&bed, Announced::Yes).await;
    let mut command = bed.worker_command(&[]);
    let _worker = crate::node::Node::start(command.env("TASKFORGE_SECRET_KEY", KEY));
    let name = TaskType::new("hostile").unwrap();
    let plugin = registry.plugin(&name).await.unwrap();
    let versions = registry.versions(&name).await.unwrap();
    let stable = versions.iter().find(|version| Some(version.id) == plugin.rollout.stable);
    let info = &stable.unwrap().info;
    registry.set_secret(&name, "key", "swordfish", BY).await.unwrap();
    let mut settings = info.settings();
    settings.grants.secrets.push("key".to_owned());
    settings.config.insert("color".to_owned(), "blue".to_owned());
    let set = registry.set_settings(&name, &info.version, settings, BY).await;
    set.unwrap();
    // Before a task has told it, which is the task's affair.
    let tables = bed.sql("select tablename from pg_tables where schemaname = 'public'");
    assert!(tables.contains("plugin_secrets"), "{tables}");
    for table in tables.lines() {
        for told in ["%swordfish%", "%73776f726466697368%"] {
            let found =
                format!("select count(*) from {table} as row where row::text like '{told}'");
            assert_eq!(bed.count(&found), 0, "{table}");
        }
    }
    wait_until("the guest has its secret", async || {
        let id = bed.submit("hostile", json!({ "attack": "config", "key": "key" })).await;
        bed.ended(&id).await["result"].to_string().contains("swordfish")
    })
    .await;
    let id = bed.submit("hostile", json!({ "attack": "config", "key": "color" })).await;
    assert!(bed.ended(&id).await["result"].to_string().contains("blue"));
}
