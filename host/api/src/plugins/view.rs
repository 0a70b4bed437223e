//! Plugins and their versions as clients see them.

mod version;

use std::collections::BTreeMap;

use serde::Serialize;
use taskforge_domain::{
    CanaryGuard, Digest, Grants, Json, Limits, PluginEvent, PluginEventKind, PluginInfo,
    PluginVersion, QueuePolicy, RegisteredPlugin, Shape, TaskType, TenantId, Timestamp, VersionId,
};
use taskforge_registry::{ExternalType, Handler, SecretInfo};
use utoipa::ToSchema;

pub(crate) use self::version::{PrunedView, VersionList, VersionView};
use crate::plugins::described::{GrantsBody, LimitsBody};

/// The plugins that tasks may name.
#[derive(Serialize, ToSchema)]
pub(crate) struct PluginList<'a> {
    /// By name.
    #[schema(value_type = Vec<HandlerView<'_>>)]
    pub(crate) plugins: Vec<HandlerView<'a>>,
}

/// Who handles a task type.
#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = Handler)]
pub(crate) enum HandlerView<'a> {
    /// A plugin, in the fleet's own workers. External workers may take its tasks as well.
    #[schema(value_type = PluginView<'_>)]
    Component(Box<PluginView<'a>>),
    /// Workers outside the fleet, over HTTP.
    External(&'a ExternalType),
}

/// What decides, besides the registry, what becomes of a plugin's tasks.
pub(crate) struct Queueing {
    /// What queues are set to.
    pub(crate) policy: QueuePolicy,
    /// Who asks.
    pub(crate) tenant: TenantId,
}

impl Queueing {
    fn are_paused(&self, plugin: &RegisteredPlugin) -> bool {
        plugin.rollout.paused || self.policy.is_paused(&plugin.name)
    }

    fn are_accepted(&self, plugin: &RegisteredPlugin) -> bool {
        let is_theirs = plugin.owner.as_ref().is_none_or(|owner| *owner == self.tenant);
        is_theirs && plugin.rollout.stable.is_some() && !plugin.rollout.retired
    }
}

impl<'a> HandlerView<'a> {
    /// Who handles a type, as this process knows it.
    pub(crate) fn new(handler: Handler<'a>, queueing: &Queueing) -> Self {
        let plugin = match handler {
            Handler::External(external) => return Self::External(&external.declared),
            Handler::Plugin(plugin) => plugin,
        };
        Self::Component(Box::new(PluginView {
            canary: plugin.canary().map(|info| info.version.as_str()),
            ..PluginView::new(plugin.stable(), &plugin.registered, queueing)
        }))
    }
}

/// A plugin: what its running version says about itself, what it is, and what the operator allows
/// it. Before a version is activated there is only its name.
#[derive(Serialize, ToSchema)]
#[schema(as = Plugin)]
pub(crate) struct PluginView<'a> {
    /// The task type that it handles.
    #[schema(value_type = String, example = "fibonacci")]
    name: &'a TaskType,
    /// The tenant that it belongs to, and who alone may use it; null: it is shared by all.
    #[schema(value_type = Option<String>, required)]
    owner: Option<&'a TenantId>,
    /// The version that runs, which the other fields are about; null before the first activation.
    #[schema(required, example = "1.0.0")]
    version: Option<&'a str>,
    /// The version on trial.
    #[schema(required)]
    canary: Option<&'a str>,
    /// Its tasks wait, whether it was paused or its queue.
    paused: bool,
    /// Its tasks are no longer accepted.
    retired: bool,
    /// Whether whoever asks can enqueue its tasks: a version runs, it is not retired, and it does
    /// not belong to another tenant.
    accepts_tasks: bool,
    /// Which versions run, and since when. Only where one plugin is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView<'a>>,
    #[serde(flatten)]
    running: Option<Described<'a>>,
}

impl<'a> PluginView<'a> {
    fn new(
        info: Option<&'a PluginInfo>,
        plugin: &'a RegisteredPlugin,
        queueing: &Queueing,
    ) -> Self {
        Self {
            name: &plugin.name,
            owner: plugin.owner.as_ref(),
            version: info.map(|info| info.version.as_str()),
            canary: None,
            paused: queueing.are_paused(plugin),
            retired: plugin.rollout.retired,
            accepts_tasks: queueing.are_accepted(plugin),
            rollout: None,
            running: info.map(Described::from),
        }
    }

    /// A plugin of the registry, with all its versions.
    pub(crate) fn whole(
        plugin: &'a RegisteredPlugin,
        versions: &'a [PluginVersion],
        queueing: &Queueing,
    ) -> Self {
        let rollout = RolloutView::new(plugin, versions, queueing);
        let stable = versions.iter().find(|version| Some(version.id) == plugin.rollout.stable);
        Self {
            canary: rollout.canary.as_ref().map(|canary| canary.version),
            rollout: Some(rollout),
            ..Self::new(stable.map(|version| &version.info), plugin, queueing)
        }
    }
}

/// What a version is, says about itself and may use.
#[derive(Serialize, ToSchema)]
pub(crate) struct Described<'a> {
    /// SHA-256 of the component, in hexadecimal.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    digest: Digest,
    /// Bytes of the component.
    size: u64,
    /// How it takes a task.
    shape: Shape,
    /// One line for people.
    #[schema(value_type = String)]
    summary: &'a str,
    /// JSON Schema of the input; `POST /tasks` checks against it.
    #[schema(value_type = Value)]
    input_schema: &'a Json,
    /// JSON Schema of the output.
    #[schema(value_type = Value)]
    output_schema: &'a Json,
    /// Capabilities that it says it wants.
    #[schema(value_type = Vec<String>)]
    capabilities: &'a [String],
    /// Interfaces that it imports, as `package:name/interface@version`.
    #[schema(value_type = Vec<String>)]
    imports: &'a [String],
    /// Interfaces that it exports.
    #[schema(value_type = Vec<String>)]
    exports: &'a [String],
    /// What one attempt may use.
    #[schema(value_type = LimitsBody)]
    limits: &'a Limits,
    /// What it may reach.
    #[schema(value_type = GrantsBody)]
    grants: &'a Grants,
    /// What it reads through `wasi:config`, without the secrets.
    #[schema(value_type = BTreeMap<String, String>)]
    config: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a PluginInfo> for Described<'a> {
    fn from(info: &'a PluginInfo) -> Self {
        Self {
            digest: info.digest,
            size: info.size,
            shape: info.shape,
            summary: &info.summary,
            input_schema: &info.input_schema,
            output_schema: &info.output_schema,
            capabilities: &info.capabilities,
            imports: &info.imports,
            exports: &info.exports,
            limits: &info.limits,
            grants: &info.grants,
            config: &info.config,
        }
    }
}

/// Which versions of a plugin run.
#[derive(Serialize, ToSchema)]
#[schema(as = Rollout)]
pub(crate) struct RolloutView<'a> {
    /// The plugin.
    #[schema(value_type = String)]
    name: &'a TaskType,
    /// The version that runs.
    #[schema(required)]
    active: Option<&'a str>,
    /// The version that ran before, to which a rollback returns.
    #[schema(required)]
    previous: Option<&'a str>,
    /// The version on trial.
    #[schema(required)]
    canary: Option<CanaryView<'a>>,
    /// Since when these versions run.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    since: Option<Timestamp>,
    /// Tasks wait, whether the plugin was paused or its queue.
    paused: bool,
    /// Tasks are no longer accepted.
    retired: bool,
    /// Whether whoever asks can enqueue its tasks: a version runs, it is not retired, and it does
    /// not belong to another tenant.
    accepts_tasks: bool,
}

/// A version on trial.
#[derive(Serialize, ToSchema)]
#[schema(as = Canary)]
pub(crate) struct CanaryView<'a> {
    /// Which.
    #[schema(value_type = String)]
    version: &'a str,
    /// The share of tasks that it runs.
    #[schema(minimum = 1, maximum = 99)]
    percent: u8,
    /// When it is taken back by itself.
    guard: CanaryGuard,
}

impl<'a> RolloutView<'a> {
    pub(crate) fn new(
        plugin: &'a RegisteredPlugin,
        versions: &'a [PluginVersion],
        queueing: &Queueing,
    ) -> Self {
        let number = |id: VersionId| {
            let found = versions.iter().find(|version| version.id == id);
            found.map(|version| version.info.version.as_str())
        };
        let rollout = &plugin.rollout;
        Self {
            name: &plugin.name,
            active: rollout.stable.and_then(number),
            previous: rollout.previous.and_then(number),
            canary: rollout.canary.and_then(|canary| {
                Some(CanaryView {
                    version: number(canary.version)?,
                    percent: canary.percent,
                    guard: canary.guard,
                })
            }),
            since: rollout.since,
            paused: queueing.are_paused(plugin),
            retired: rollout.retired,
            accepts_tasks: queueing.are_accepted(plugin),
        }
    }
}

/// The secrets of a plugin, without what they say.
#[derive(Serialize, ToSchema)]
#[schema(as = Secrets)]
pub(crate) struct SecretList {
    /// By name.
    pub(crate) secrets: Vec<SecretInfo>,
}

/// What happened to a plugin.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginEvents)]
pub(crate) struct EventList {
    /// Newest first.
    pub(crate) events: Vec<EventView>,
}

/// Something that happened to a plugin.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginEvent)]
pub(crate) struct EventView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What.
    kind: PluginEventKind,
    /// The version that it concerns.
    #[schema(required)]
    version: Option<String>,
    /// Who did it, as they said themselves.
    by: String,
    /// More, in a sentence.
    detail: String,
}

impl From<PluginEvent> for EventView {
    fn from(event: PluginEvent) -> Self {
        let PluginEvent { at, kind, version, by, detail } = event;
        Self { at, kind, version, by, detail }
    }
}
