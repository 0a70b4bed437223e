//! How a component arrives, with what comes with it: alone as `application/wasm`, or as a part of a
//! `multipart/form-data`. Whole, no larger than allowed and in time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, header};
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde::de::DeserializeOwned;
use taskforge_domain::{Manifest, PluginSettings};
use taskforge_registry::{SignatureError, signature};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use crate::{
    FieldError, Problem, ProblemKind,
    http::{
        body::{Incoming, Pace, plain},
        connection::Peer,
        json::{checked, join, shorten, strict},
        query::Params,
    },
    plugins::described::{EnvelopeBody, ManifestBody, SettingsBody},
    state::App,
};

/// Bytes of each part beside the component. The largest is a manifest, with two schemas of up to
/// 256 KiB each.
const SMALL_PART: usize = 1 << 20;
/// The parts beside the component.
const SMALL_PARTS: [&str; 3] = ["settings", "manifest", "signature"];
/// For the headers of the parts and what separates them.
const FRAME: usize = 64 << 10;

/// A component and what comes with it.
#[derive(ToSchema)]
#[schema(as = PushForm)]
#[expect(dead_code, reason = "describes the form for OpenAPI; `Upload` reads it part by part")]
pub(crate) struct PushForm {
    /// The component.
    #[schema(value_type = String, format = Binary)]
    component: Vec<u8>,
    /// What the version may use and reach. Left out, it gets the settings of the version that runs.
    /// A version that is there keeps the settings that it has; `settings_note` says so if they
    /// differ.
    #[schema(required = false)]
    settings: SettingsBody,
    /// What the component is, if it does not say it itself.
    #[schema(required = false)]
    manifest: ManifestBody,
    /// Who vouches for it, and for what of it.
    #[schema(required = false)]
    signature: EnvelopeBody,
}

/// What was sent to be pushed. While it is held, others wait.
pub(crate) struct Upload {
    pub(crate) component: Bytes,
    pub(crate) with: With,
    pub(crate) parameters: Params,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// What comes with a component.
#[derive(Default)]
pub(crate) struct With {
    pub(crate) settings: Option<PluginSettings>,
    pub(crate) manifest: Option<Manifest>,
    /// The text of a signature that may be one.
    pub(crate) signature: Option<Vec<u8>>,
}

impl FromRequest<App> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut head, body) = request.into_parts();
        let parameters = Params::from_request_parts(&mut head, app).await?;
        plain(&head.headers)?;
        let boundary = boundary(&head.headers)?;
        let client = head.extensions.get::<Peer>().map(|peer| peer.client);
        let permit = app.push_permits.take(client).await.ok_or_else(Problem::internal)?;
        let pace = Pace::new(&app.config, app.config.component_timeout);
        let limit = app.config.component_limit;
        let (component, with) = match boundary {
            None => {
                let component = Incoming::new(&head.headers, body, limit, pace)?.whole().await?;
                (component, With::default())
            }
            Some(boundary) => {
                let all = limit + SMALL_PARTS.len() * SMALL_PART + FRAME;
                form(Incoming::new(&head.headers, body, all, pace)?, boundary, limit).await?
            }
        };
        Ok(Self { component, with, parameters, permit: permit.received() })
    }
}

/// What separates the parts of a form. `None`: it is a component alone.
fn boundary(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let declared = headers.get(header::CONTENT_TYPE);
    let declared = declared.and_then(|declared| declared.to_str().ok()).unwrap_or_default();
    if declared.eq_ignore_ascii_case("application/wasm") {
        return Ok(None);
    }
    multer::parse_boundary(declared).map(Some).map_err(|error| {
        let detail = match error {
            multer::Error::NoBoundary => {
                "The Content-Type multipart/form-data must say its boundary."
            }
            _ => "The request must say Content-Type: application/wasm, or multipart/form-data.",
        };
        Problem::new(ProblemKind::UnsupportedMediaType, detail)
    })
}

async fn form(
    incoming: Incoming,
    boundary: String,
    limit: usize,
) -> Result<(Bytes, With), Problem> {
    let frame = Arc::new(Frame::default());
    let watched = (incoming, Arc::clone(&frame));
    let pieces = stream::try_unfold(watched, |(mut incoming, frame)| async move {
        // One piece at a time: the reader of the form looks through all that is ready.
        tokio::task::yield_now().await;
        let piece = incoming.piece().await?;
        if let Some(piece) = &piece {
            frame.take(piece.len())?;
        }
        Ok::<_, Problem>(piece.map(|piece| (piece, (incoming, frame))))
    });
    let sizes = SizeLimit::new().per_field(SMALL_PART as u64).for_field("component", limit as u64);
    let mut parts =
        Multipart::with_constraints(pieces, boundary, Constraints::new().size_limit(sizes));
    let (mut component, mut with) = (None, With::default());
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        frame.begin_part();
        let Some(name) = part.name().map(str::to_owned) else {
            return Err(Problem::new(
                ProblemKind::MalformedBody,
                "A part of the form has no name in its Content-Disposition.",
            ));
        };
        match name.as_str() {
            "component" => once(&name, &mut component, part.bytes().await.map_err(broken)?)?,
            "settings" => once(&name, &mut with.settings, json(&name, part).await?)?,
            "manifest" => once(&name, &mut with.manifest, json(&name, part).await?)?,
            "signature" => once(&name, &mut with.signature, envelope(&name, part).await?)?,
            _ => {
                let known = SMALL_PARTS.join(", ");
                return Err(wrong(&name, format!("is not a part; known are component, {known}")));
            }
        }
        frame.is_within_part.store(false, Relaxed);
    }
    let component = component.ok_or_else(|| wrong("component", "is required"))?;
    Ok((component, with))
}

/// What comes before a part of a form: its headers, and what separates it from the one before.
#[derive(Default)]
struct Frame {
    is_within_part: AtomicBool,
    bytes: AtomicUsize,
}

impl Frame {
    fn begin_part(&self) {
        self.is_within_part.store(true, Relaxed);
        self.bytes.store(0, Relaxed);
    }

    /// Counts a piece that came outside. One of them may hold the beginning of a part.
    fn take(&self, piece: usize) -> Result<(), Problem> {
        if self.is_within_part.load(Relaxed) || self.bytes.fetch_add(piece, Relaxed) <= FRAME {
            return Ok(());
        }
        let detail = format!("There are more than {FRAME} bytes before a part of the form.");
        Err(Problem::new(ProblemKind::MalformedBody, detail))
    }
}

/// A part that is wrong, named as a member of the form. Its name may be of any length.
fn wrong(part: &str, detail: impl Into<String>) -> Problem {
    Problem::validation(vec![FieldError::at(join("", &shorten(part, 100)), detail)])
}

fn once<T>(name: &str, part: &mut Option<T>, given: T) -> Result<(), Problem> {
    match part.replace(given) {
        None => Ok(()),
        Some(_) => Err(wrong(name, "is given twice")),
    }
}

async fn json<T: DeserializeOwned>(name: &str, part: Field<'_>) -> Result<T, Problem> {
    let bytes = part.bytes().await.map_err(broken)?;
    let raw = checked(&bytes).map_err(|rule| wrong(name, rule))?;
    strict(raw.get(), &format!("/{name}")).map_err(|error| Problem::validation(vec![error]))
}

async fn envelope(name: &str, part: Field<'_>) -> Result<Vec<u8>, Problem> {
    let bytes = part.bytes().await.map_err(broken)?;
    match signature::unverified(&bytes) {
        Err(error @ SignatureError::Form(_)) => Err(wrong(name, error.to_string())),
        // Whether it counts is for the registry to say.
        _ => Ok(bytes.trim_ascii().to_vec()),
    }
}

/// Why a form cannot be read.
fn broken(error: multer::Error) -> Problem {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<Problem>() {
            Ok(problem) => *problem,
            Err(_) => Problem::internal(),
        },
        multer::Error::FieldSizeExceeded { limit, field_name } => {
            let name = field_name.unwrap_or_default();
            let name = shorten(&name, 100);
            let detail = format!("is larger than {limit} bytes");
            let error = FieldError::at(join("", &name), &detail);
            Problem::new(ProblemKind::BodyTooLarge, format!("The part {name} {detail}."))
                .with_errors(vec![error])
        }
        error => {
            let why = error.to_string();
            let detail = format!("The form cannot be read: {}.", shorten(&why, 300));
            Problem::new(ProblemKind::MalformedBody, detail)
        }
    }
}
