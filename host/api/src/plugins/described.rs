//! What is served or read as types of other crates, described for OpenAPI.
#![expect(dead_code, reason = "describes bodies for OpenAPI")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// The bytes of a component.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct WasmBytes(Vec<u8>);

// `usize`: whole numbers without the maximum that the formats of u32 and u64 would imply.
/// The ceilings of one attempt. Sizes in bytes; where they are set also as text such as `64 MiB`.
/// What is left out there gets its default.
#[derive(ToSchema)]
#[schema(as = Limits)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsBody {
    /// Roughly one unit an instruction.
    #[schema(required = false)]
    fuel: usize,
    /// All memories and tables, and what the host holds for the attempt, together.
    #[schema(value_type = SizeText, required = false)]
    memory: usize,
    /// Wall time, as text such as `30s`.
    #[schema(example = "30s", required = false)]
    deadline: String,
    /// The output JSON.
    #[schema(value_type = SizeText, required = false)]
    output: usize,
    /// The log as it is stored.
    #[schema(value_type = SizeText, required = false)]
    log: usize,
    /// Calls to the host.
    #[schema(required = false)]
    host_calls: usize,
    /// Handles open at once, of the host's and of the component's own resources.
    #[schema(required = false)]
    handles: usize,
    /// The call stack that the handler needs. The host has one size for all, and refuses what needs
    /// more.
    #[schema(value_type = SizeText, required = false)]
    stack: usize,
    /// Elements of all tables together.
    #[schema(required = false)]
    table_elements: usize,
    /// Core instances.
    #[schema(required = false)]
    instances: usize,
    /// Linear memories.
    #[schema(required = false)]
    memories: usize,
    /// Tables.
    #[schema(required = false)]
    tables: usize,
    /// Outgoing HTTP requests.
    #[schema(required = false)]
    http_requests: usize,
    /// All HTTP response bodies together.
    #[schema(value_type = SizeText, required = false)]
    http_bytes: usize,
    /// E-mails of one attempt; one to several recipients counts as so many.
    #[schema(required = false)]
    mails: usize,
    /// Addresses, subjects and bodies of all e-mails of one attempt.
    #[schema(value_type = SizeText, required = false)]
    mail_bytes: usize,
    /// E-mails of all attempts of the version in one hour of the clock, in the whole fleet.
    #[schema(required = false)]
    mails_per_hour: usize,
    /// Their bytes.
    #[schema(value_type = SizeText, required = false)]
    mail_bytes_per_hour: usize,
    /// Attempts at once in the whole fleet; the lower of this and the queue's cap counts.
    #[schema(minimum = 1)]
    concurrency: Option<usize>,
}

/// A number of bytes, or text such as `64 MiB`.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum SizeText {
    /// Bytes.
    Bytes(usize),
    /// For people.
    Text(String),
}

/// What a plugin may reach outside its sandbox. What is left out is not granted.
#[derive(ToSchema)]
#[schema(as = Grants)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantsBody {
    /// Outgoing HTTP.
    #[schema(required = false)]
    http: HttpGrantBody,
    /// Sending e-mail: `true`, `false`, or an object with `senders` and `recipients`, each a list
    /// of domains.
    #[schema(value_type = Value, required = false,
        example = json!({"recipients": ["example.com"]}))]
    mail: Value,
    /// Secrets of the plugin that this version reads through `wasi:config`.
    #[schema(required = false)]
    secrets: Vec<String>,
    /// Keeping values in `wasi:keyvalue`: `true`, `false`, or an object with `bytes` and `keys`,
    /// for each tenant.
    #[schema(value_type = Value, required = false,
        example = json!({"bytes": 1_048_576, "keys": 1000}))]
    keyvalue: Value,
}

/// Where a plugin may send HTTP requests.
#[derive(ToSchema)]
#[schema(as = HttpGrant)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpGrantBody {
    /// `example.com`, `*.example.com` or `*`, each with `:port` where it is not 80 or 443; or
    /// `{"host": …, "methods": ["POST"]}`.
    #[schema(value_type = Vec<Value>, required = false)]
    hosts: Vec<Value>,
    /// Networks that are allowed although they are private.
    #[schema(required = false)]
    private_networks: Vec<String>,
}

/// What the operator sets for one version. What is left out gets its default.
#[derive(ToSchema)]
#[schema(as = PluginSettings)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsBody {
    /// What one attempt may use.
    #[schema(required = false)]
    limits: LimitsBody,
    /// What it may reach.
    #[schema(required = false)]
    grants: GrantsBody,
    /// Values that it reads through `wasi:config`. Nothing secret: they are shown.
    #[schema(required = false)]
    config: BTreeMap<String, String>,
}

/// What a component is that does not say it itself.
#[derive(ToSchema)]
#[schema(as = PluginManifest)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestBody {
    /// The task type.
    #[schema(example = "shout")]
    name: String,
    /// Semantic version.
    #[schema(example = "1.0.0")]
    version: String,
    /// One line for people.
    #[schema(required = false)]
    summary: String,
    /// JSON Schema of the input; anything if left out.
    #[schema(value_type = Value, required = false)]
    input_schema: Value,
    /// JSON Schema of the output; anything if left out.
    #[schema(value_type = Value, required = false)]
    output_schema: Value,
}

/// A DSSE envelope, as `taskforge plugin sign` writes it. Fields that are not named here are
/// ignored.
#[derive(ToSchema)]
#[schema(as = SignatureEnvelope)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvelopeBody {
    /// The statement as JSON, in base64.
    payload: String,
    /// `application/vnd.taskforge.plugin+json`.
    payload_type: String,
    /// Ed25519 signatures over DSSE's pre-authentication encoding of both.
    #[schema(min_items = 1, max_items = 8)]
    signatures: Vec<EnvelopeSignatureBody>,
}

/// One signature of an envelope.
#[derive(ToSchema)]
#[schema(as = EnvelopeSignature)]
pub(crate) struct EnvelopeSignatureBody {
    /// Names the key, for people: SHA-256 of the public key.
    keyid: Option<String>,
    /// 64 bytes in base64.
    sig: String,
}

/// What was signed: what the version is, whose, and what it may reach at most.
#[derive(ToSchema)]
#[schema(as = Statement)]
pub(crate) struct StatementBody {
    /// The plugin.
    name: String,
    /// The version.
    version: String,
    /// The tenant that it belongs to; null: all share it.
    #[schema(required)]
    owner: Option<String>,
    /// SHA-256 of the component, in hexadecimal.
    digest: String,
    /// How it takes a task.
    shape: taskforge_domain::Shape,
    /// The most that may be granted.
    grants: GrantsBody,
    /// Names of the configuration values that it may be given.
    config: Vec<String>,
}
