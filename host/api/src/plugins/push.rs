//! `POST /plugins`: how a component comes in.

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{StatusCode, header};
use taskforge_domain::{Manifest, PluginSettings, TaskType, TenantId};
use taskforge_registry::{Force, Push, SameVersion, SignatureError, signature};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Problem, ProblemKind,
    http::{
        answer::json,
        body::{Pace, plain, whole},
        connection::Peer,
        json::object,
        path::By,
        query::Params,
    },
    plugins::{described::WasmBytes, view::VersionView},
    state::App,
};

/// The longest that a pushed component may take to be checked and compiled. One of an interpreter
/// takes half a minute on a slow machine.
pub(crate) const COMPILATION: Duration = Duration::from_secs(300);

const PARAMETERS: &str =
    "tenant, name, version, summary, manifest, settings, signature, activate, force, allow_downgrade";

/// Push a component.
///
/// Checks it, compiles it and stores it as a new version, which runs once it is activated. The same version with the same bytes again is no error
/// and changes nothing; with other bytes it is refused: a version never changes.
///
/// A component that exports the handler interface says its name, version and schemas itself. For a WASI command or a WASI web server they come
/// with the push: `name` and `version`, or a whole `manifest`.
#[utoipa::path(
    post, path = "/plugins", tag = "plugins", operation_id = "pushPlugin",
    params(
        ("tenant" = Option<String>, Query, description = "The tenant whose plugin it is, who alone may use it; shared by all if left out"),
        ("name" = Option<String>, Query, description = "The task type, of a component that does not say it itself"),
        ("version" = Option<String>, Query, description = "The version, of a component that does not say it itself"),
        ("summary" = Option<String>, Query, description = "One line for people, of a component that does not say it itself"),
        ("manifest" = Option<String>, Query, description = "All of that, and `input_schema` and `output_schema`, as a JSON object"),
        ("settings" = Option<String>, Query, description = "What the version may use and reach, as a JSON object with `limits`, `grants` and \
            `config`. Left out, it gets the settings of the version that runs. A version that is there keeps the settings that it has; \
            `settings_note` says so if they differ"),
        ("signature" = Option<String>, Query, description = "Who vouches for it, and for what of it: a DSSE envelope as `taskforge plugin sign` writes it, as \
            JSON"),
        ("activate" = Option<bool>, Query, description = "Let it run at once; false if left out"),
        ("force" = Option<bool>, Query, description = "Activate it even if it refuses inputs that the running version takes, or imports what \
            the running version is granted and it is not"),
        ("allow_downgrade" = Option<bool>, Query, description = "Activate it even if it is older than a version that was active, where the server \
            requires signatures"),
        ("x-operator" = Option<String>, Header, description = "Who pushes, for the record"),
    ),
    request_body(content = inline(WasmBytes), content_type = "application/wasm", description = "The component"),
    responses(
        (status = 201, description = "The version is stored", body = VersionView<'_>),
        (status = 200, description = "It was there already", body = VersionView<'_>),
        (status = 403, description = "It is not signed by anybody whom this server trusts, it is not what was signed or may reach more, or the \
            quota is used up"),
        (status = 409, description = "The name or the version is taken, or the version breaks clients of the running one or lacks a grant of it \
            (it is stored all the same)"),
    ),
)]
pub(crate) async fn push(
    State(app): State<App>,
    By(by): By,
    body: ComponentBody,
) -> Result<Response, Problem> {
    let ComponentBody {
        bytes,
        mut parameters,
        permit,
    } = body;
    let asked = Asked::read(&mut parameters)?;
    parameters.end(PARAMETERS)?;
    let push = Push {
        owner: asked.owner,
        manifest: asked.manifest,
        settings: asked.settings,
        signature: asked.signature,
        by: by.clone(),
        same_version: SameVersion::Refuse,
    };
    let registry = &app.services.registry;
    let pushed = registry.push(bytes.into(), push).await?;
    drop(permit);
    let mut plugin = pushed.plugin;
    if asked.activate {
        let version = &pushed.version.info.version;
        let activated = registry.activate(&plugin.name, version, asked.force, &by).await;
        // Also when it was refused: the version itself is there.
        app.offer().await;
        plugin = activated?;
    } else {
        app.offer().await;
    }
    let status = if pushed.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let note = pushed
        .settings_from
        .note(&plugin.name, &pushed.version.info.version);
    Ok(json(
        status,
        &VersionView::new(&plugin, &pushed.version, registry).with_settings_note(note),
    ))
}

/// A component as the request's body, whole, no larger than allowed and in time. Nothing else is known of it. While it is held, others wait.
pub(crate) struct ComponentBody {
    bytes: Bytes,
    parameters: Params,
    permit: OwnedSemaphorePermit,
}

impl FromRequest<App> for ComponentBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, mut body) = request.into_parts();
        let parameters = Params::from_request_parts(&mut parts, app).await?;
        plain(&parts.headers)?;
        let declared = parts.headers.get(header::CONTENT_TYPE);
        if declared.is_none_or(|declared| !declared.as_bytes().eq_ignore_ascii_case(b"application/wasm")) {
            let detail = "The request must say Content-Type: application/wasm.";
            return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        let client = parts.extensions.get::<Peer>().map(|peer| peer.client);
        let permit = app
            .push_permits
            .take(client)
            .await
            .ok_or_else(Problem::internal)?;
        let pace = Pace::new(&app.config, app.config.component_timeout);
        let bytes = whole(&parts.headers, &mut body, app.config.component_limit, pace).await?;
        let permit = permit.received();
        Ok(Self {
            bytes,
            parameters,
            permit,
        })
    }
}

/// What the query asks for.
struct Asked {
    owner: Option<TenantId>,
    manifest: Option<Manifest>,
    settings: Option<PluginSettings>,
    signature: Option<Vec<u8>>,
    activate: bool,
    force: Force,
}

impl Asked {
    fn read(query: &mut Params) -> Result<Self, Problem> {
        let text = |text: &str| Ok::<_, String>(text.to_owned());
        let manifest = query.one("manifest", object::<Manifest>)?;
        let name: Option<TaskType> =
            query.one("name", |text| text.parse().map_err(|error| format!("{error}")))?;
        let version = query.one("version", text)?;
        let summary = query.one("summary", text)?;
        Ok(Self {
            owner: query.one("tenant", |text| text.parse().map_err(|error| format!("{error}")))?,
            manifest: manifest_of(manifest, name, version, summary)?,
            settings: query.one("settings", object::<PluginSettings>)?,
            signature: query.one("signature", |text| match signature::unverified(text.as_bytes()) {
                Err(error @ SignatureError::Form(_)) => Err(error.to_string()),
                // Whether it counts is for the registry to say.
                _ => Ok(text.trim().as_bytes().to_vec()),
            })?,
            activate: query.one("activate", flag)?.unwrap_or_default(),
            force: Force {
                breaking: query.one("force", flag)?.unwrap_or_default(),
                downgrade: query.one("allow_downgrade", flag)?.unwrap_or_default(),
            },
        })
    }
}

/// The whole manifest, or what was given of it one by one.
fn manifest_of(
    whole: Option<Manifest>,
    name: Option<TaskType>,
    version: Option<String>,
    summary: Option<String>,
) -> Result<Option<Manifest>, Problem> {
    match (whole, name, version) {
        (Some(_), Some(_), _) => Err(Problem::parameter("name", "is in the manifest; give one of them")),
        (Some(_), _, Some(_)) => Err(Problem::parameter(
            "version",
            "is in the manifest; give one of them",
        )),
        (None, Some(_), None) => Err(Problem::parameter("version", "must be given together with name")),
        (None, None, Some(_)) => Err(Problem::parameter("name", "must be given together with version")),
        (Some(_), ..) | (None, None, None) if summary.is_some() => Err(Problem::parameter(
            "summary",
            "must be given together with name and version",
        )),
        (whole, None, None) => Ok(whole),
        (None, Some(name), Some(version)) => {
            let manifest = Manifest::new(name, version, summary.unwrap_or_default());
            Ok(Some(manifest))
        }
    }
}

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}
