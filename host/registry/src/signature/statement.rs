//! What is signed.

use serde::{Deserialize, Serialize};
use taskforge_domain::{
    Digest, Excess, Grants, PluginInfo, PluginSettings, Shape, TaskType, TenantId,
};

use super::SignatureError;

/// What a version is, whose it is, and what it may reach at most. Its limits are the operator's.
///
/// Every field must be there, and no other: a field that this release does not know might say
/// something that it would not keep to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The plugin, which is the task type.
    pub name: TaskType,
    /// The version's number, exactly.
    pub version: String,
    /// The tenant whose plugin it is; null: all share it, which must be said.
    #[serde(deserialize_with = "Option::deserialize")]
    pub owner: Option<TenantId>,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: Digest,
    /// How it takes a task.
    pub shape: Shape,
    /// The most that may be granted. The secrets that it may read are among them.
    pub grants: Grants,
    /// Names of the configuration values that it may be given.
    pub config: Vec<String>,
}

impl Statement {
    /// That a version is what it is now, under these settings and less.
    #[must_use]
    pub fn of(info: &PluginInfo, owner: Option<TenantId>) -> Self {
        Self {
            name: info.name.clone(),
            version: info.version.clone(),
            owner,
            digest: info.digest,
            shape: info.shape,
            grants: info.grants.clone(),
            config: info.config.keys().cloned().collect(),
        }
    }

    /// Whether a plugin's version is the one that this is about, and keeps within it.
    ///
    /// # Errors
    /// In what it is another, or what of its settings is too much.
    pub fn check(
        &self,
        plugin: &TaskType,
        owner: Option<&TenantId>,
        info: &PluginInfo,
    ) -> Result<(), SignatureError> {
        self.check_source(owner, &info.digest)?;
        self.check_name(plugin, &info.version)?;
        // The version's own word, where it is not the plugin's.
        self.check_name(&info.name, &info.version)?;
        same("shape", &self.shape, &info.shape)?;
        self.check_settings(&info.settings())
    }

    /// The part that can be checked before the component was compiled: whose it is, and its bytes.
    pub(crate) fn check_source(
        &self,
        owner: Option<&TenantId>,
        digest: &Digest,
    ) -> Result<(), SignatureError> {
        same("a plugin of", &whose(self.owner.as_ref()), &whose(owner))?;
        same("the component", &self.digest, digest)
    }

    pub(crate) fn check_name(&self, name: &TaskType, version: &str) -> Result<(), SignatureError> {
        same("the plugin", self.name.as_str(), name.as_str())?;
        same("version", self.version.as_str(), version)
    }

    /// Whether settings allow no more than the statement does.
    ///
    /// # Errors
    /// What is too much.
    pub fn check_settings(&self, settings: &PluginSettings) -> Result<(), SignatureError> {
        settings.grants.within(&self.grants)?;
        match settings.config.keys().find(|name| !self.config.contains(name)) {
            Some(name) => {
                Err(SignatureError::Beyond(Excess { field: "config", what: format!("{name:?}") }))
            }
            None => Ok(()),
        }
    }
}

/// Names whoever a plugin belongs to.
pub(super) fn whose(owner: Option<&TenantId>) -> String {
    owner.map_or_else(|| "all tenants".to_owned(), |tenant| format!("tenant {tenant}"))
}

fn same<T: PartialEq + ToString + ?Sized>(
    what: &'static str,
    said: &T,
    actual: &T,
) -> Result<(), SignatureError> {
    if said == actual {
        return Ok(());
    }
    // Both may be a stranger's.
    let short = |text: String| taskforge_schema::text::shorten(&text, 100).into_owned();
    Err(SignatureError::Other {
        what,
        said: short(said.to_string()),
        actual: short(actual.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn statement() -> Value {
        json!({
            "name": "work", "version": "1.0.0", "owner": null, "digest": "ab".repeat(32),
            "shape": "command",
            "grants": {"http": {"hosts": ["*.example.com"]}, "secrets": ["key"]}, "config": ["url"],
        })
    }

    fn info(statement: &Statement) -> PluginInfo {
        let anything = || taskforge_domain::Json::from(json!({}));
        PluginInfo {
            name: statement.name.clone(),
            version: statement.version.clone(),
            shape: statement.shape,
            digest: statement.digest,
            summary: String::new(),
            input_schema: anything(),
            output_schema: anything(),
            capabilities: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            size: 1,
            limits: taskforge_domain::Limits::default(),
            grants: statement.grants.clone(),
            config: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_statement_is_about_one_version_of_one_plugin() {
        let signed: Statement = serde_json::from_value(statement()).unwrap();
        let (own, acme) = (info(&signed), TenantId::new("acme").unwrap());
        signed.check(&own.name, None, &own).unwrap();
        assert_eq!(Statement { config: vec!["url".into()], ..Statement::of(&own, None) }, signed);
        let refused = |owner, plugin: &TaskType, change: &dyn Fn(&mut PluginInfo)| {
            let mut other = own.clone();
            change(&mut other);
            signed.check(plugin, owner, &other).unwrap_err().to_string()
        };
        let work = own.name.clone();
        let other = TaskType::new("other").unwrap();
        assert_eq!(
            refused(None, &work, &|info| info.version = "1.0.1".into()),
            "the signature is for version 1.0.0, and this is 1.0.1"
        );
        assert!(refused(None, &work, &|info| info.version = "1.0.0+x".into()).contains("version"));
        assert!(refused(None, &other, &|_| {}).contains("the plugin work, and this is other"));
        assert!(
            refused(None, &work, &|info| info.name = other.clone()).contains("the plugin work")
        );
        assert!(
            refused(Some(&acme), &work, &|_| {}).contains("all tenants, and this is tenant acme")
        );
        assert!(refused(None, &work, &|info| info.shape = Shape::Http).contains("shape command"));
        let bytes = refused(None, &work, &|info| info.digest = Digest::from_bytes([1; 32]));
        assert!(bytes.contains("the component abab"), "{bytes}");
        let secret = refused(None, &work, &|info| info.grants.secrets = vec!["Key".into()]);
        assert_eq!(secret, "grants.secrets: \"Key\" is more than the signature allows");
        let config = refused(None, &work, &|info| {
            info.config.insert("u\u{0440}l".into(), String::new());
        });
        assert!(config.contains("config"), "{config}");
    }

    #[test]
    fn a_statement_has_every_field_and_no_other() {
        let read = |value: &Value| serde_json::from_value::<Statement>(value.clone());
        read(&statement()).unwrap();
        for field in ["name", "version", "owner", "digest", "shape", "grants", "config"] {
            let mut less = statement();
            less.as_object_mut().unwrap().remove(field);
            assert!(read(&less).is_err(), "{field}");
        }
        let mut more = statement();
        more["expires"] = json!("2030-01-01");
        assert!(read(&more).unwrap_err().to_string().contains("unknown field `expires`"));
        for (pointer, value) in [
            ("/grants", json!({"files": true})),
            ("/grants/http", json!({"hosts": [], "ports": []})),
            ("/digest", json!("AB")),
            ("/shape", json!("script")),
            ("/name", json!("no name")),
        ] {
            let mut wrong = statement();
            *wrong.pointer_mut(pointer).unwrap() = value.clone();
            assert!(read(&wrong).is_err(), "{pointer} {value}");
        }
        for twice in [
            statement().to_string().replacen('{', r#"{"version":"0.9.0","#, 1),
            statement().to_string().replacen('{', r#"{"ver\u0073ion":"0.9.0","#, 1),
            statement().to_string().replace(r#""grants":{"#, r#""grants":{"secrets":["all"],"#),
        ] {
            let refused = serde_json::from_str::<Statement>(&twice).unwrap_err();
            assert!(refused.to_string().contains("duplicate field"), "{refused}");
        }
    }
}
