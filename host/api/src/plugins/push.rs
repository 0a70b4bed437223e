//! `POST /plugins`: how a component comes in.

use std::{str::FromStr, time::Duration};

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_domain::{Manifest, TaskType, TenantId};
use taskforge_registry::{Force, Push, RegistryError, SameVersion};

use crate::{
    Problem,
    http::{answer::json, path::By, query::Params},
    plugins::{
        described::WasmBytes,
        upload::{PushForm, Upload},
        view::VersionView,
    },
    state::App,
};

/// The longest that a pushed component may take to be checked and compiled. One of an interpreter
/// takes half a minute on a slow machine.
pub(crate) const COMPILATION: Duration = Duration::from_secs(300);

/// Push a component.
///
/// Checks it, compiles it and stores it as a new version, which runs once it is activated. The same
/// version with the same bytes again is no error and changes nothing; with other bytes it is
/// refused: a version never changes.
///
/// A component that exports the handler interface says its name, version and schemas itself. For a
/// WASI command or a WASI web server they come with the push: `name` and `version`, or a whole
/// `manifest`. The component is the whole body, or a part of a form that has settings, a manifest
/// or a signature too; what is wrong in a part is named by a pointer such as
/// `/settings/limits/fuel`.
#[utoipa::path(
    post, path = "/plugins", tag = "plugins", operation_id = "pushPlugin",
    params(
        ("tenant" = Option<String>, Query,
            description = "The tenant whose plugin it is, who alone may use it; shared by all if \
                left out"),
        ("name" = Option<String>, Query,
            description = "The task type, of a component that does not say it itself"),
        ("version" = Option<String>, Query,
            description = "The version, of a component that does not say it itself"),
        ("summary" = Option<String>, Query,
            description = "One line for people, of a component that does not say it itself"),
        ("activate" = Option<bool>, Query, description = "Let it run at once; false if left out"),
        ("force" = Option<bool>, Query,
            description = "Activate it even if it refuses inputs that the running \
            version takes, or imports what the running version is granted and it is not"),
        ("allow_downgrade" = Option<bool>, Query,
            description = "Activate it even if it is older than a \
            version that was active, where the server requires signatures"),
        ("x-operator" = Option<String>, Header, description = "Who pushes, for the record"),
    ),
    request_body(
        content((PushForm = "multipart/form-data"), (inline(WasmBytes) = "application/wasm")),
        description = "The component, alone or in a form with what comes with it",
    ),
    responses(
        (status = 201, description = "The version is stored", body = VersionView<'_>),
        (status = 200, description = "It was there already", body = VersionView<'_>),
        (status = 403,
            description = "It is not signed by anybody whom this server trusts, it is not what \
            was signed or may reach more, or the quota is used up"),
        (status = 409,
            description = "The name or the version is taken, or the version breaks clients of \
            the running one or lacks a grant of it (it is stored all the same)"),
    ),
)]
pub(crate) async fn push(
    State(app): State<App>,
    By(by): By,
    upload: Upload,
) -> Result<Response, Problem> {
    let Upload { component, with, parameters, permit } = upload;
    let asked = Asked::read(parameters)?;
    let has_manifest = with.manifest.is_some();
    let push = Push {
        owner: asked.owner,
        manifest: manifest(with.manifest, asked.name, asked.version, asked.summary)?,
        settings: with.settings,
        signature: with.signature,
        by: by.clone(),
        same_version: SameVersion::Refuse,
    };
    let registry = &app.services.registry;
    let pushed = registry.push(component.into(), push).await;
    let pushed = pushed.map_err(|error| {
        // Schemas are the component's own, or its manifest's.
        let is_of_schema =
            matches!(&error, RegistryError::Invalid { field, .. } if field.ends_with("_schema"));
        let part = match (is_of_schema, has_manifest) {
            (false, _) => "/settings",
            (true, true) => "/manifest",
            (true, false) => "/component",
        };
        Problem::from(error).below(part)
    })?;
    drop(permit);
    let mut plugin = pushed.plugin;
    if asked.activate {
        let version = &pushed.version.info.version;
        let activated = registry.activate(&plugin.name, version, asked.force, &by).await;
        // Also when it was refused: the version itself is there.
        app.refresh().await;
        plugin = activated?;
    } else {
        app.refresh().await;
    }
    let status = if pushed.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let note = pushed.settings_from.note(&plugin.name, &pushed.version.info.version);
    Ok(json(status, &VersionView::new(&plugin, &pushed.version, registry).with_settings_note(note)))
}

/// What the query asks for.
struct Asked {
    owner: Option<TenantId>,
    name: Option<TaskType>,
    version: Option<String>,
    summary: Option<String>,
    activate: bool,
    force: Force,
}

impl Asked {
    fn read(mut query: Params) -> Result<Self, Problem> {
        let text = |text: &str| Ok::<_, String>(text.to_owned());
        let asked = Self {
            owner: query.one("tenant", parsed)?,
            name: query.one("name", parsed)?,
            version: query.one("version", text)?,
            summary: query.one("summary", text)?,
            activate: query.one("activate", flag)?.unwrap_or_default(),
            force: Force {
                breaking: query.one("force", flag)?.unwrap_or_default(),
                downgrade: query.one("allow_downgrade", flag)?.unwrap_or_default(),
            },
        };
        query.end("tenant, name, version, summary, activate, force, allow_downgrade")?;
        Ok(asked)
    }
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The whole manifest, or what was given of it one by one.
fn manifest(
    whole: Option<Manifest>,
    name: Option<TaskType>,
    version: Option<String>,
    summary: Option<String>,
) -> Result<Option<Manifest>, Problem> {
    match (whole, name, version) {
        (Some(_), Some(_), _) => {
            Err(Problem::parameter("name", "is in the manifest; give one of them"))
        }
        (Some(_), _, Some(_)) => {
            Err(Problem::parameter("version", "is in the manifest; give one of them"))
        }
        (None, Some(_), None) => {
            Err(Problem::parameter("version", "must be given together with name"))
        }
        (None, None, Some(_)) => {
            Err(Problem::parameter("name", "must be given together with version"))
        }
        (Some(_), ..) | (None, None, None) if summary.is_some() => {
            Err(Problem::parameter("summary", "must be given together with name and version"))
        }
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
