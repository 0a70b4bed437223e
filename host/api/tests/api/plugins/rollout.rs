//! Versions activated, tried, rolled back and deleted.

use serde_json::{Value, json};
use taskforge_domain::PluginSettings;
use taskforge_registry::{Push, SameVersion};
use taskforge_testing::guests;

use super::{number, post, push_command};
use crate::harness::Api;

#[tokio::test]
async fn a_version_that_refuses_what_the_running_one_takes_must_be_forced() {
    let api = Api::start().await;
    for (version, least) in [("1.0.0", 0), ("1.1.0", 1)] {
        let pushed = push_command(&api, version, number(least)).await;
        assert_eq!((pushed.status, pushed.json()["shape"] == "command"), (201, true), "{pushed:?}");
    }
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let breaking = json!({"version": "1.1.0"});
    let problem = api.post("/plugins/shaped/activate", &breaking).await;
    let problem = problem.problem(409, "breaking-change");
    assert_eq!(problem["errors"], json!([{"pointer": "/n", "detail": "minimum rose from 0 to 1"}]));
    let canary = json!({"version": "1.1.0", "percent": 10});
    api.post("/plugins/shaped/canary", &canary).await.problem(409, "breaking-change");

    let forced =
        post(&api, "/plugins/shaped/activate", json!({"version": "1.1.0", "force": true})).await;
    assert_eq!((&forced["active"], &forced["previous"]), (&json!("1.1.0"), &json!("1.0.0")));
    let task = json!({"task_type": "shaped", "input": {"n": 0}});
    assert_eq!(api.post("/tasks", &task).await.pointers(), ["/input/n"]);
    let back = post(&api, "/plugins/shaped/rollback", json!({})).await;
    assert_eq!(back["active"], "1.0.0");
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    let other = push_command(&api, "1.0.0", number(7)).await;
    other.problem(409, "plugin-conflict");
}

#[tokio::test]
async fn tasks_are_checked_against_the_version_that_will_run_them() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", number(0)).await;
    push_command(&api, "1.1.0", number(5)).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let canary =
        json!({"version": "1.1.0", "percent": 50, "guard": {"min_attempts": 7}, "force": true});
    let trial = post(&api, "/plugins/shaped/canary", canary).await;
    assert_eq!(
        (&trial["canary"]["percent"], &trial["canary"]["guard"]["min_attempts"]),
        (&json!(50), &json!(7))
    );
    let task = json!({"task_type": "shaped", "input": {"n": 3}});
    let mut accepted = 0;
    for _ in 0..60 {
        accepted += i32::from(api.post("/tasks", &task).await.status == 201);
    }
    assert!(
        (10..50).contains(&accepted),
        "about half of them are of the stable version: {accepted}"
    );
    assert_eq!(api.get("/plugins").await.json()["plugins"][0]["canary"], "1.1.0");
    let ended = api.delete("/plugins/shaped/canary").await;
    assert_eq!((ended.status, &ended.json()["canary"]), (200, &Value::Null));
    api.delete("/plugins/shaped/canary").await.problem(409, "plugin-conflict");
    assert_eq!(api.post("/tasks", &task).await.status, 201);
}

#[tokio::test]
async fn a_version_that_would_lose_a_grant_goes_live_only_by_force() {
    let api = Api::start().await;
    let settings = json!({"grants": {"http": {"hosts": ["a.test"]}}}).to_string();
    let scraper = guests::bytes("scraper");
    let pushed = api.push(&[("settings", &settings), ("activate", "true")], &scraper).await;
    let one = pushed.json()["version"].as_str().unwrap().to_owned();
    assert_eq!(pushed.status, 201, "{pushed:?}");
    // Another version of it, which is granted nothing. No component of a higher version is at hand.
    let registry = api.registry();
    let push = Push {
        owner: None,
        manifest: None,
        settings: Some(PluginSettings::default()),
        signature: None,
        by: "test".to_owned(),
        same_version: SameVersion::Suffix,
    };
    let mut rebuilt = scraper;
    // A custom section of no name and no content.
    rebuilt.extend([0, 1, 0]);
    let two = registry.push(rebuilt, push).await.unwrap().version.info.version;
    let activate = async |path: &str, more: Value| {
        let mut body = json!({ "version": two });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post(&format!("/plugins/scraper/{path}"), &body).await
    };
    for (path, more) in [("activate", json!({})), ("canary", json!({"percent": 10}))] {
        let refused = activate(path, more).await.problem(409, "plugin-conflict");
        let detail = refused["detail"].as_str().unwrap();
        assert!(
            detail.contains("grants.http.hosts: a.test")
                && detail.contains(&one)
                && detail.contains("force"),
            "{detail}"
        );
    }
    assert_eq!(activate("activate", json!({"force": true})).await.status, 200);
}

#[tokio::test]
async fn versions_that_nothing_refers_to_can_be_deleted() {
    let api = Api::start().await;
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        push_command(&api, version, json!({})).await;
    }
    let prune = async |body: Value| api.post("/plugins/shaped/prune", &body).await;
    for (body, pointer) in [
        (json!({}), "/keep"),
        (json!({"keep": 0}), "/keep"),
        (json!({"keep": 1, "dry_run": 1}), "/dry_run"),
        (json!({"keep": 1, "all": true}), "/all"),
    ] {
        assert_eq!(prune(body).await.pointers(), [pointer]);
    }
    let dry = prune(json!({"keep": 1, "dry_run": true})).await;
    assert_eq!(dry.json()["versions"].as_array().unwrap().len(), 2);
    let pruned = prune(json!({"keep": 1})).await;
    assert_eq!((pruned.status, &pruned.json()["versions"]), (200, &dry.json()["versions"]));
    assert_eq!(pruned.json()["components"], 0, "the last version is made of it too");
    let left = api.get("/plugins/shaped/versions").await;
    assert_eq!(left.json()["versions"].as_array().unwrap().len(), 1);
    let nobody = api.post("/plugins/nobody/prune", &json!({"keep": 1})).await;
    nobody.problem(404, "not-found");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    for path in [
        "/plugins/nobody",
        "/plugins/nobody/versions",
        "/plugins/nobody/versions/1.0.0",
        "/plugins/shaped/versions/9.0.0",
        "/plugins/shaped/versions/9.0.0/component",
        "/plugins/nobody/secrets",
        "/plugins/nobody/events",
        "/plugins/nobody/advice",
        "/plugins/shaped/advice?version=9.0.0",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    let unknown = json!({"version": "9.0.0"});
    for path in [
        "/plugins/nobody/activate",
        "/plugins/shaped/activate",
        "/plugins/nobody/pause",
        "/plugins/shaped/retire",
    ] {
        api.post(path, &unknown).await.problem(404, "not-found");
    }
    api.get("/plugins/shaped/advice").await.problem(409, "plugin-conflict");
    let advice = api.get("/plugins/shaped/advice?version=1.0.0").await.json();
    assert_eq!((&advice["attempts"], advice["reason"].is_string()), (&json!(0), true));
    api.post("/plugins/shaped/rollback", &json!({})).await.problem(409, "plugin-conflict");
}
