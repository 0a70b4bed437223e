//! What a component imports beside what it was granted.

use serde::Serialize;
use taskforge_domain::{DomainPattern, Excess, Grants, HostRule, MailGrant, PluginInfo};
use utoipa::ToSchema;

/// One capability, seen from both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reviewed {
    /// `http`, `mail`, `config`, `keyvalue`, `progress`, `logging`, `sockets`, `filesystem`, or a
    /// name that the component made up.
    pub capability: String,
    /// Whether the component imports it. Components of interpreters import more than they use.
    pub imported: bool,
    /// Whether the plugin says of itself that it wants it.
    pub wanted: bool,
    /// What the operator granted, in a few words: `no`, `POST api.example.com`, `always`, `never`.
    #[schema(example = "POST api.example.com")]
    pub granted: String,
    /// The component imports or wants it, and it could be granted and is not. Attempts that use it
    /// will fail.
    pub is_missing: bool,
}

/// What `new` imports and lacks the grant for that `old` has, if there is such a thing.
///
/// A host, a sender or a name of a value counts; how much may be kept does not.
pub(crate) fn dropped(old: &PluginInfo, new: &PluginInfo) -> Option<Excess> {
    let imports = |capability: &str| {
        let import = KNOWN.iter().find(|(name, _)| *name == capability);
        import.is_some_and(|(_, import)| new.imports.iter().any(|name| name.starts_with(import)))
    };
    let Grants { http, mail, keyvalue, .. } = old.grants.clone();
    let mut used = Grants::default();
    if imports("http") {
        used.http = http;
    }
    if imports("mail") {
        used.mail = mail;
    }
    if imports("keyvalue") && !new.grants.keyvalue.allowed {
        used.keyvalue = keyvalue;
    }
    if let Err(lacking) = used.within(&new.grants) {
        return Some(lacking);
    }
    // A value may have become a secret of the same name.
    let has = |info: &PluginInfo, name: &String| {
        info.config.contains_key(name) || info.grants.secrets.contains(name)
    };
    let names = old.config.keys().chain(&old.grants.secrets);
    let gone = names.filter(|_| imports("config")).find(|name| !has(new, name));
    gone.map(|name| Excess { field: "config", what: format!("{name:?}") })
}

/// What stands behind a capability.
enum Granted {
    /// The operator's to give; these are the words for what he gave, if he did.
    Perhaps(Option<String>),
    Always,
    Never(&'static str),
    Unknown,
}

/// The capabilities that this host knows, with the imports that tell of them.
const KNOWN: [(&str, &str); 8] = [
    ("http", "wasi:http/outgoing-handler"),
    ("mail", "taskforge:plugin/mail"),
    ("config", "wasi:config/"),
    ("keyvalue", "wasi:keyvalue/"),
    ("progress", "taskforge:plugin/progress"),
    ("logging", "wasi:logging/"),
    ("sockets", "wasi:sockets/"),
    ("filesystem", "wasi:filesystem/"),
];

/// Sets what a component imports and wants beside what its settings grant. Capabilities that are
/// neither imported, wanted nor granted are left out.
#[must_use]
pub fn review(info: &PluginInfo) -> Vec<Reviewed> {
    let known = KNOWN.iter().map(|(capability, import)| {
        let imported = info.imports.iter().any(|name| name.starts_with(import));
        (*capability, imported)
    });
    let is_known = |name: &str| KNOWN.iter().any(|(capability, _)| *capability == name);
    let made_up = info.capabilities.iter().filter(|name| !is_known(name));
    known
        .chain(made_up.map(|name| (name.as_str(), false)))
        .filter_map(|(capability, imported)| one(info, capability, imported))
        .collect()
}

fn one(info: &PluginInfo, capability: &str, imported: bool) -> Option<Reviewed> {
    let wanted = info.capabilities.iter().any(|name| name == capability);
    let granted = granted(info, capability);
    let was_given = matches!(granted, Granted::Perhaps(Some(_)));
    if !(imported || wanted || was_given) {
        return None;
    }
    let is_missing = matches!(granted, Granted::Perhaps(None) | Granted::Unknown);
    Some(Reviewed {
        capability: capability.to_owned(),
        imported,
        wanted,
        granted: match granted {
            Granted::Perhaps(Some(words)) => words,
            Granted::Perhaps(None) => "no".to_owned(),
            Granted::Always => "always".to_owned(),
            Granted::Never(reason) => format!("never: {reason}"),
            Granted::Unknown => "unknown to this host".to_owned(),
        },
        is_missing,
    })
}

fn granted(info: &PluginInfo, capability: &str) -> Granted {
    let Grants { http, mail, keyvalue, .. } = &info.grants;
    match capability {
        "http" => Granted::Perhaps((!http.hosts.is_empty()).then(|| {
            let hosts = http.hosts.iter().map(host);
            let private = http.private_networks.iter().map(|net| format!("private {net}"));
            hosts.chain(private).collect::<Vec<_>>().join(", ")
        })),
        "mail" => Granted::Perhaps(mail.allowed.then(|| addresses(mail))),
        "config" => Granted::Perhaps(config(info)),
        "keyvalue" => Granted::Perhaps(
            keyvalue
                .allowed
                .then(|| format!("{} in {} keys a tenant", size(keyvalue.bytes), keyvalue.keys)),
        ),
        "progress" | "logging" => Granted::Always,
        "sockets" => Granted::Never("no address connects"),
        "filesystem" => Granted::Never("no folder is there"),
        _ => Granted::Unknown,
    }
}

fn host(rule: &HostRule) -> String {
    match &rule.methods {
        Some(methods) => format!("{} {}", methods.join("/"), rule.host),
        None => rule.host.to_string(),
    }
}

fn addresses(mail: &MailGrant) -> String {
    let domains = |patterns: &Option<Vec<DomainPattern>>| match patterns {
        None => "anybody".to_owned(),
        Some(patterns) if patterns.is_empty() => "nobody".to_owned(),
        Some(patterns) => {
            let texts: Vec<_> = patterns.iter().map(ToString::to_string).collect();
            texts.join(", ")
        }
    };
    format!("from {}, to {}", domains(&mail.senders), domains(&mail.recipients))
}

/// Names only: a value may be long.
fn config(info: &PluginInfo) -> Option<String> {
    let values = info.config.keys().cloned();
    let secrets = info.grants.secrets.iter().map(|name| format!("secret {name}"));
    let names: Vec<_> = values.chain(secrets).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// A size for people.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, one)| bytes >= *one) {
        Some((unit, one)) => format!("{}.{} {unit}", bytes / one, bytes % one * 10 / one),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use taskforge_domain::{Digest, Json, Limits, Shape, TaskType};

    use super::*;

    fn info(imports: &[&str], capabilities: &[&str], grants: Grants) -> PluginInfo {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        PluginInfo {
            name: TaskType::new("work").unwrap(),
            version: "1.0.0".into(),
            shape: Shape::Handler,
            digest: Digest::from_bytes([1; 32]),
            summary: String::new(),
            input_schema: Json::from(serde_json::json!({})),
            output_schema: Json::from(serde_json::json!({})),
            capabilities: texts(capabilities),
            imports: texts(imports),
            exports: vec![],
            size: 1,
            limits: Limits::default(),
            grants,
            config: BTreeMap::new(),
        }
    }

    fn row<'a>(rows: &'a [Reviewed], capability: &str) -> Option<&'a Reviewed> {
        rows.iter().find(|row| row.capability == capability)
    }

    #[test]
    fn what_is_imported_and_not_granted_is_missing() {
        let imports = [
            "wasi:http/outgoing-handler@0.2.3",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:filesystem/types@0.2.3",
            "wasi:io/poll@0.2.3",
        ];
        let rows = review(&info(&imports, &["http", "telepathy"], Grants::default()));
        let http = row(&rows, "http").unwrap();
        assert!(http.imported && http.wanted && http.is_missing && http.granted == "no");
        assert!(row(&rows, "config").unwrap().is_missing);
        assert!(!row(&rows, "filesystem").unwrap().is_missing);
        assert_eq!(row(&rows, "telepathy").unwrap().granted, "unknown to this host");
        assert_eq!((row(&rows, "mail"), row(&rows, "io")), (None, None));
    }

    #[test]
    fn a_grant_is_dropped_only_if_it_is_imported() {
        let grants = |value: serde_json::Value| serde_json::from_value::<Grants>(value).unwrap();
        let all = || {
            grants(serde_json::json!({
                "http": {"hosts": ["a.test"]}, "mail": true, "keyvalue": {"bytes": 9, "keys": 9},
                "secrets": ["key"],
            }))
        };
        let everything = [
            "wasi:http/outgoing-handler@0.2.3",
            "taskforge:plugin/mail@0.1.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:config/store@0.2.0-rc.1",
        ];
        let old = info(&[], &[], all());
        let dropped = |imports: &[&str], new: Grants| {
            let found = dropped(&old, &info(imports, &[], new));
            found.map(|excess| excess.field)
        };
        assert_eq!(dropped(&everything, all()), None);
        assert_eq!(dropped(&[], Grants::default()), None, "it imports none of it");
        for (import, field) in
            everything.iter().zip(["grants.http.hosts", "grants.mail", "grants.keyvalue", "config"])
        {
            assert_eq!(dropped(&[*import], Grants::default()), Some(field));
        }
        let mut less = all();
        less.keyvalue.bytes = 1;
        assert_eq!(dropped(&everything, less), None);
        let mut other = all();
        other.http = grants(serde_json::json!({"http": {"hosts": ["b.test"]}})).http;
        assert_eq!(dropped(&everything, other), Some("grants.http.hosts"));
        let mut as_value = info(&everything, &[], all());
        as_value.grants.secrets.clear();
        as_value.config.insert("key".into(), "value".into());
        assert_eq!(super::dropped(&old, &as_value), None);
    }

    #[test]
    fn what_is_granted_is_told_in_words() {
        let grants: Grants = serde_json::from_value(serde_json::json!({
            "http": {
                "hosts": [{"host": "api.example.com", "methods": ["POST"]}, "*.example.org:8080"],
                "private_networks": ["10.0.0.0/8"],
            },
            "mail": {"recipients": ["example.com"]},
            "secrets": ["key"],
            "keyvalue": true,
        }))
        .unwrap();
        let rows = review(&info(&[], &[], grants));
        let texts: Vec<_> =
            rows.iter().map(|row| (row.capability.as_str(), row.granted.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("http", "POST api.example.com, *.example.org:8080, private 10.0.0.0/8"),
                ("mail", "from anybody, to example.com"),
                ("config", "secret key"),
                ("keyvalue", "1.0 MiB in 1000 keys a tenant"),
            ]
        );
        assert!(rows.iter().all(|row| !row.is_missing && !row.imported));
    }
}
