//! Operations that nobody waits for any more.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Mutex, task::Poll};

use taskforge_domain::{
    LaneLimits, PluginEventKind, PluginSettings, Progress, Rollout, TenantPolicy, TypePolicy,
    VersionId, VersionState, VersionUsage,
};

use super::{
    versions::{digest, event, pushed, version},
    *,
};
use crate::{
    Added, Kept, KeyQuota, KeySpace, Page, ProgressReport, Quota, RolloutChange, SealedSecret,
    StoreError, StoreResult, TaskFilter,
};

/// Callers at once, and what each of them does.
const CALLERS: u64 = 12;
const ROUNDS: u64 = 80;

const QUOTA: KeyQuota = KeyQuota { bytes: 1 << 20, keys: 1 << 20 };

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    /// Below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What was answered with success.
#[derive(Default)]
pub struct Told {
    states: BTreeMap<TaskId, TaskState>,
    tenants: Vec<TenantId>,
    values: Vec<String>,
    secrets: Vec<String>,
    versions: Vec<VersionId>,
    /// Additions that were answered, and all that were begun.
    added: (i64, i64),
}

struct Caller {
    world: Arc<World>,
    dice: Dice,
    number: u64,
    answers: Answers,
    told: Arc<Mutex<Told>>,
}

/// What is dropped at any moment leaves nothing behind: every answer is true, and nobody else gets
/// an error.
pub async fn what_is_dropped_leaves_nothing_behind(world: World) {
    let world = Arc::new(world);
    let told = shake(&world).await;
    told.check(&*world.store, &*world.plugins).await;
}

/// What a caller may get besides the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Nothing: whatever ends by itself succeeds.
    Always,
    /// [`StoreError::Unavailable`], because the database itself is disturbed: nobody knows then.
    MayBeMissing,
}

/// Many callers at once, who drop most of what they begin. Every operation of the store is among
/// it.
pub async fn shake(world: &Arc<World>) -> Told {
    shake_with(world, Answers::Always).await
}

/// The same in front of a database that may be disturbed.
pub async fn shake_with(world: &Arc<World>, answers: Answers) -> Told {
    let told = Arc::new(Mutex::new(Told::default()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let mut caller = Caller {
                world: Arc::clone(world),
                dice: Dice(number),
                number,
                answers,
                told: Arc::clone(&told),
            };
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    caller.act(round).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    Arc::into_inner(told).unwrap().into_inner().unwrap()
}

fn space() -> KeySpace {
    KeySpace { tenant: tenant(), plugin: kind("keeper"), bucket: "b".into() }
}

impl Caller {
    /// Polls an operation some times and drops it if it has not ended then. Its answer must not be
    /// an error.
    async fn drops<T>(
        &mut self,
        what: &str,
        operation: impl Future<Output = StoreResult<T>>,
    ) -> Option<T> {
        // One in four may end.
        let mut left = match self.dice.roll(4) {
            0 => u64::MAX,
            _ => self.dice.roll(8),
        };
        let mut operation = pin!(operation);
        let ended = poll_fn(|context| match operation.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        });
        match ended.await? {
            Ok(answer) => Some(answer),
            Err(StoreError::Unavailable(_)) if self.answers == Answers::MayBeMissing => None,
            Err(error) => panic!("{what}: {error}"),
        }
    }

    fn tell(&self, note: impl FnOnce(&mut Told)) {
        note(&mut self.told.lock().unwrap());
    }

    fn named(&self, round: u64) -> String {
        format!("n{}-{round}", self.number)
    }

    async fn act(&mut self, round: u64) {
        match self.dice.roll(8) {
            0 => self.enqueue().await,
            1 => self.claim_and_complete().await,
            2 => self.operate().await,
            3 => self.share(round).await,
            4 => self.keep(round).await,
            5 => self.register(round).await,
            6 => self.sweep().await,
            _ => self.read().await,
        }
    }

    async fn enqueue(&mut self) {
        let task = new_task();
        let store = Arc::clone(&self.world.store);
        if self.drops("enqueue", store.enqueue(std::slice::from_ref(&task))).await.is_some() {
            self.tell(|told| _ = told.states.insert(task.id, TaskState::Pending));
        }
    }

    async fn claim_and_complete(&mut self) {
        let world = Arc::clone(&self.world);
        // A type of its own, so that nobody else's claim in order takes it.
        let name = kind(&format!("of{}", self.number));
        let task = NewTask { task_type: name.clone(), ..new_task() };
        let id = world.add(task).await;
        let (types, ids, policy) = ([name], [id], QueuePolicy::default());
        let by = match self.dice.roll(2) {
            0 => ClaimBy::Ids(&ids),
            _ => ClaimBy::Order {
                types: &types,
                lanes: LaneLimits::none(),
                limit: 1,
                policy: &policy,
            },
        };
        let request = ClaimRequest { worker: world.worker, by, now: at(1) };
        let Some(claimed) = self.drops("claim", world.store.claim(request)).await else {
            return;
        };
        let Some(task) = claimed.tasks.into_iter().next() else {
            return;
        };
        self.tell(|told| _ = told.states.insert(task.id, TaskState::Running));
        let report = ProgressReport {
            id: task.id,
            run_lease: task.run_lease,
            progress: Some(Progress { fraction: 0.1, note: None }),
            log: Vec::new(),
        };
        self.drops("report_progress", world.store.report_progress(&[report])).await;
        let end = [ended(&task, world.worker, Next::Complete, 2)];
        // From here on it may have ended without an answer.
        self.tell(|told| _ = told.states.remove(&task.id));
        if let Some(commits) = self.drops("complete", world.store.complete(&end)).await {
            assert_eq!(commits, [Commit::Committed]);
            self.tell(|told| _ = told.states.insert(task.id, TaskState::Completed));
        }
    }

    async fn operate(&mut self) {
        let world = Arc::clone(&self.world);
        // A lane that nobody claims from.
        let task = NewTask { task_type: kind("cancelled"), ..new_task() };
        let id = world.add(task).await;
        if self.drops("cancel", world.store.cancel(&tenant(), id, at(3))).await.is_none() {
            return;
        }
        self.tell(|told| _ = told.states.insert(id, TaskState::Cancelled));
        let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
        let owner = tenant();
        let requeue = world.store.requeue(&owner, &filter, 1, None, at(4));
        // It is no dead letter.
        assert!(self.drops("requeue", requeue).await.is_none_or(|moved| moved.is_empty()));
        self.tell(|told| _ = told.states.remove(&id));
        match self.dice.roll(2) {
            0 => {
                if self.drops("retry", world.store.retry(&tenant(), id, at(4))).await.is_some() {
                    self.tell(|told| _ = told.states.insert(id, TaskState::Pending));
                }
            }
            _ => {
                let gone = self.drops("prune", world.store.prune(&tenant(), &filter, 1)).await;
                // A repeat after an answer that was lost finds nothing more.
                let least = u64::from(self.answers == Answers::Always);
                assert!(gone.is_none_or(|gone| (least..=1).contains(&gone)));
            }
        }
    }

    async fn share(&mut self, round: u64) {
        let store = Arc::clone(&self.world.store);
        let tenant = TenantId::new(&self.named(round)).unwrap();
        let policy = TenantPolicy { max_running: Some(7), ..TenantPolicy::default() };
        if self.drops("set_tenant_policy", store.set_tenant_policy(&tenant, policy)).await.is_some()
        {
            self.tell(|told| told.tenants.push(tenant));
        }
        let name = kind(&self.named(round));
        self.drops("set_type_policy", store.set_type_policy(&name, TypePolicy::default())).await;
    }

    async fn keep(&mut self, round: u64) {
        let (plugins, space, name) = (Arc::clone(&self.world.plugins), space(), self.named(round));
        let values = [(name.clone(), b"1".to_vec())];
        if let Some(kept) =
            self.drops("set_values", plugins.set_values(&space, &values, QUOTA)).await
        {
            assert_eq!(kept, Kept::Written(()));
            self.tell(|told| told.values.push(name.clone()));
        }
        self.tell(|told| told.added.1 += 1);
        let sum = plugins.increment_value(&space, "sum", 1, QUOTA);
        if self.drops("increment_value", sum).await.is_some() {
            self.tell(|told| told.added.0 += 1);
        }
        // Ends without a commit: the value is none that can be added to.
        let seen = Some([0; 32]);
        let swap = plugins.swap_value(&space, "sum", seen, b"no", QUOTA);
        assert!(self.drops("swap_value", swap).await.is_none_or(|kept| kept == Kept::Mismatch));
        let none = KeyQuota { bytes: 0, keys: 0 };
        let one = [("over".to_owned(), vec![0])];
        let over = plugins.set_values(&space, &one, none);
        assert!(self.drops("set_values", over).await.is_none_or(|kept| kept == Kept::OverQuota));
        self.drops("delete_values", plugins.delete_values(&space, &["nothing".into()])).await;
        self.drops("get_value", plugins.get_value(&space, &name)).await;
        self.drops("list_keys", plugins.list_keys(&space, None, 10)).await;
    }

    async fn register(&mut self, round: u64) {
        let (plugins, name) = (Arc::clone(&self.world.plugins), self.named(round));
        let secret = SealedSecret { name: name.clone(), sealed: vec![1], updated_at: at(1) };
        let (keeper, set) = (kind("keeper"), event(PluginEventKind::SecretSet, &name));
        if self.drops("set_secret", plugins.set_secret(&keeper, &secret, &set)).await.is_some() {
            self.tell(|told| told.secrets.push(name.clone()));
        }
        let gone = event(PluginEventKind::SecretDeleted, "none");
        self.drops("delete_secret", plugins.delete_secret(&keeper, "none", &gone)).await;
        let version = version(&name, "1.0.0", 1);
        let push = pushed();
        let added = plugins.add_version(None, &version, b"bytes", Quota::UNLIMITED, &push);
        let Some(added) = self.drops("add_version", added).await else {
            return;
        };
        assert_eq!(added, Added::Stored);
        self.tell(|told| told.versions.push(version.id));
        let used = [(version.id, 1, VersionUsage::default())];
        self.drops("add_usage", plugins.add_usage(&used)).await;
        let settings = PluginSettings::default();
        let changed = event(PluginEventKind::SettingsChanged, "");
        self.drops("set_settings", plugins.set_settings(version.id, &settings, None, &changed))
            .await;
        let retired = event(PluginEventKind::Retired, "");
        let state = plugins.set_version_state(version.id, &VersionState::Retired, &retired);
        self.drops("set_version_state", state).await;
        let plugin = plugins.plugin(&kind(&name)).await.unwrap().unwrap();
        let change = RolloutChange {
            plugin: plugin.name,
            expected: plugin.revision,
            rollout: Rollout { paused: true, ..Rollout::default() },
            states: Vec::new(),
            event: event(PluginEventKind::Paused, ""),
        };
        self.drops("change_rollout", plugins.change_rollout(&change)).await;
    }

    async fn sweep(&mut self) {
        let world = Arc::clone(&self.world);
        let (store, term) = (&world.store, world.term);
        let ttl = Duration::from_secs(1_000_000);
        let led = self.drops("lead", store.lead(world.worker, at(0), ttl)).await;
        assert!(led.is_none_or(|led| led == Some(term)));
        self.drops("resign", store.resign(Term(-1))).await;
        self.drops("promote_due", store.promote_due(term, at(0), 10)).await;
        self.drops("lapsed", store.lapsed(term, at(0), 10)).await;
        self.drops("resolve_lapsed", store.resolve_lapsed(Some(term), &[], at(0))).await;
        let beat = self.drops("heartbeat", store.heartbeat(world.worker, at(1))).await;
        assert!(beat.is_none_or(|beat| beat));
        let other = WorkerRecord {
            id: WorkerId::generate(),
            host: "here".into(),
            pid: 1,
            started_at: at(0),
            lease: TIMEOUT,
        };
        self.drops("register_worker", store.register_worker(&other, at(0))).await;
        self.drops("remove_worker", store.remove_worker(other.id)).await;
        if self.dice.roll(4) == 0 {
            self.drops("upkeep", store.upkeep(None, at(0), Duration::from_secs(1 << 30))).await;
        }
    }

    async fn read(&mut self) {
        let world = Arc::clone(&self.world);
        let (store, plugins, all) = (&world.store, &world.plugins, TaskFilter::default());
        let page = Page { after: None, limit: 10 };
        let (id, name, lease) = (TaskId::generate(), kind("keeper"), RunLease(1));
        match self.dice.roll(8) {
            0 => {
                self.drops("tasks", store.tasks(&tenant(), &all, page)).await;
                self.drops("task", store.task(&tenant(), id)).await;
            }
            1 => {
                self.drops("history", store.history(&tenant(), id)).await;
                self.drops("dead_letters", store.dead_letters(&tenant(), &all, 10)).await;
            }
            2 => {
                self.drops("counts", store.counts()).await;
                self.drops("policy", store.policy()).await;
                self.drops("ping", store.ping()).await;
            }
            3 => {
                self.drops("lanes", store.lanes(10)).await;
                self.drops("pending", store.pending(&world.lane(), None, 10)).await;
            }
            4 => {
                self.drops("claimed_by", store.claimed_by(world.worker)).await;
                self.drops("lost_leases", store.lost_leases(&[(id, lease)])).await;
                self.drops("next_due", store.next_due()).await;
            }
            5 => {
                self.drops("registry", plugins.registry()).await;
                self.drops("registry_revision", plugins.registry_revision()).await;
                self.drops("plugin_events", plugins.plugin_events(&name, 10)).await;
            }
            6 => {
                self.drops("plugin", plugins.plugin(&name)).await;
                self.drops("plugin_versions", plugins.plugin_versions(&name)).await;
                self.drops("component", plugins.component(&digest(1))).await;
            }
            _ => {
                let none = VersionId::generate();
                self.drops("versions_by_id", plugins.versions_by_id(&[none])).await;
                self.drops("usage", plugins.usage(none, None)).await;
                self.drops("secrets", plugins.secrets(&name)).await;
            }
        }
    }
}

impl Told {
    /// Compares what was answered with what is there.
    pub async fn check(&self, store: &dyn Store, plugins: &dyn PluginStore) {
        let dice = [
            self.states.len(),
            self.tenants.len(),
            self.values.len(),
            self.secrets.len(),
            self.versions.len(),
        ];
        assert!(dice.iter().all(|count| *count > 3), "too little was answered: {dice:?}");
        for (id, state) in &self.states {
            let task = store.task(&tenant(), *id).await.unwrap();
            assert_eq!(task.map(|task| task.state), Some(*state), "{id}");
        }
        let policy = store.policy().await.unwrap();
        for tenant in &self.tenants {
            assert_eq!(policy.tenant_cap(tenant), Some(7), "{tenant}");
        }
        for key in &self.values {
            let value = plugins.get_value(&space(), key).await.unwrap();
            assert_eq!(value.as_deref(), Some(&b"1"[..]), "{key}");
        }
        let sum = plugins.get_value(&space(), "sum").await.unwrap();
        let sum: i64 = sum.map_or(0, |sum| String::from_utf8(sum).unwrap().parse().unwrap());
        let (answered, begun) = self.added;
        assert!((answered..=begun).contains(&sum), "{answered} <= {sum} <= {begun}");
        let secrets = plugins.secrets(&kind("keeper")).await.unwrap();
        for name in &self.secrets {
            assert!(secrets.iter().any(|secret| secret.name == *name), "{name}");
        }
        let versions = plugins.versions_by_id(&self.versions).await.unwrap();
        assert_eq!(versions.len(), self.versions.len());
    }
}
