//! Sealed secrets.

use super::{versions::event, *};
use taskforge_domain::PluginEventKind;

use crate::SealedSecret;

fn secret(name: &str, n: u8) -> SealedSecret {
    SealedSecret { name: name.into(), sealed: vec![n, 0, 0xff], updated_at: at(i64::from(n)) }
}

impl World {
    async fn set_secret(&self, plugin: &str, secret: &SealedSecret) {
        let (plugin, event) = (kind(plugin), event(PluginEventKind::SecretSet, &secret.name));
        let set = self.plugins.set_secret(&plugin, secret, &event);
        set.await.unwrap();
    }

    async fn secrets(&self, plugin: &str) -> Vec<SealedSecret> {
        self.plugins.secrets(&kind(plugin)).await.unwrap()
    }
}

pub async fn a_secret_reads_back_sealed(world: World) {
    // Secrets may be there before their plugin.
    world.set_secret("x", &secret("b", 1)).await;
    world.set_secret("x", &secret("B", 2)).await;
    world.set_secret("x", &secret("a", 3)).await;
    world.set_secret("y", &secret("b", 4)).await;
    world.push("x", "1.0.0", 1).await;
    world.set_secret("x", &secret("b", 5)).await;
    assert_eq!(world.secrets("x").await, [secret("B", 2), secret("a", 3), secret("b", 5)]);
    assert_eq!(world.secrets("y").await, [secret("b", 4)]);
    assert!(world.secrets("z").await.is_empty());
}

pub async fn a_secret_goes_and_leaves_the_others(world: World) {
    for plugin in ["x", "y"] {
        for name in ["a", "b"] {
            world.set_secret(plugin, &secret(name, 1)).await;
        }
    }
    let revision = world.revision().await;
    let gone = event(PluginEventKind::SecretDeleted, "a");
    let delete = async |name| world.plugins.delete_secret(&kind("x"), name, &gone).await.unwrap();
    assert!(delete("a").await);
    assert_eq!(world.revision().await.0, revision.0 + 1);
    assert!(!delete("a").await);
    assert!(!delete("none").await);
    assert_eq!(world.revision().await.0, revision.0 + 1);
    assert_eq!(world.secrets("x").await, [secret("b", 1)]);
    assert_eq!(world.secrets("y").await.len(), 2);
    let events = world.plugins.plugin_events(&kind("x"), 10).await.unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0], gone);
}
