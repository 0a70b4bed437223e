use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};
use taskforge_domain::{Failure, FailureKind, Next, Outcome, TaskId};
use taskforge_registry::{catalog::active, signature};

use crate::harness::{Answer, Api};

/// Every documented operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operation = |path: &String, (method, operation): (&String, &Value)| {
        (method.to_uppercase(), path.clone(), operation.clone())
    };
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |pair| operation(path, pair))
        })
        .collect()
}

/// Asserts that an answer is one that the document announces for this operation, with a body that
/// fits its schema and has no member that the schema does not know.
#[track_caller]
fn fits(document: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &document["paths"][path][method.to_lowercase()]["responses"];
    let response = &responses[answer.status.to_string()];
    assert!(
        response.is_object(),
        "{method} {path} does not announce {}: {}",
        answer.status,
        answer.text()
    );
    let content_type = answer.header("content-type").split(';').next().unwrap();
    let schema = &response["content"][content_type]["schema"];
    assert!(
        schema.is_object(),
        "{method} {path} {} does not announce {content_type}",
        answer.status
    );
    if content_type.ends_with("json") {
        let root =
            json!({"$ref": "#/schema", "schema": schema, "components": document["components"]});
        let validator = jsonschema::draft202012::new(&root).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&answer.json())
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(
            errors.is_empty(),
            "{method} {path} {}: {errors:?}\n{}",
            answer.status,
            answer.text()
        );
        known_members(document, schema, &answer.json(), path);
    }
}

/// Asserts that every member of an object is a property in its schema.
#[track_caller]
fn known_members(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => {
            document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => schema,
    };
    match value {
        Value::Object(members) if schema["properties"].is_object() => {
            for (name, value) in members {
                let property = &schema["properties"][name];
                assert!(
                    property.is_object() || *property == json!(true),
                    "{place}/{name} is not documented"
                );
                known_members(document, property, value, &format!("{place}/{name}"));
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| known_members(document, &schema["items"], item, place));
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_documented_operation_answers_as_documented() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    let (done, open, failed) =
        (api.fibonacci().await, api.fibonacci().await, api.fibonacci().await);
    api.complete(done).await;
    let (worker, task) = api.claim(failed).await;
    api.end(
        worker,
        &task,
        Outcome::Failed(Failure::new(FailureKind::Trap, "unreachable")),
        Next::DeadLetter,
    )
    .await;
    let dead = json!({"task_type": "echo"});
    let dead = api.dead_letter(dead, FailureKind::Trap, "unreachable").await;
    // Leased from the queue below; those above were claimed past it, and their hints lead nowhere.
    let next = json!({"task_types": ["fibonacci"], "wait": "20s"});
    let leased = api.fibonacci().await;
    let heartbeat = api.post("/task/next", &next).await.json()["tasks"][0].clone();
    assert_eq!(heartbeat["id"], open.to_string());
    let heartbeat = json!({"task_id": heartbeat["id"], "lease_token": heartbeat["lease_token"]});
    let mut complete = heartbeat.clone();
    complete["output"] = json!({"result": 55});
    let mut forged = complete.clone();
    forged["task_id"] = json!(leased.to_string());
    let mut unclear = complete.clone();
    unclear["failure"] = json!({"kind": "permanent", "message": "no"});
    let forged_beat = json!({"task_id": leased.to_string(), "lease_token": "x"});
    let requeue = json!({"ids": [dead.to_string()]});
    let (queue, tenant) = (json!({"paused": false, "max_running": 3}), json!({"weight": 2}));
    let nothing = json!({});
    let open = api.create(json!({"task_type": "echo"})).await;
    let echo = json!({"task_type": "echo"});
    let batch = json!({"tasks": [&echo]});
    let path = |path: &str, id: TaskId| path.replace("{id}", &id.to_string());
    let requests: Vec<(&str, &str, String, Option<&Value>, u16)> = vec![
        ("POST", "/tasks", "/tasks".into(), Some(&echo), 201),
        ("POST", "/tasks", "/tasks".into(), Some(&batch), 422),
        ("POST", "/tasks/batch", "/tasks/batch".into(), Some(&batch), 201),
        ("POST", "/tasks/batch", "/tasks/batch".into(), Some(&echo), 422),
        ("GET", "/tasks", "/tasks?limit=2".into(), None, 200),
        ("GET", "/tasks", "/tasks?limit=x".into(), None, 400),
        ("GET", "/tasks/{id}", path("/tasks/{id}", done), None, 200),
        ("GET", "/tasks/{id}", path("/tasks/{id}", failed), None, 200),
        ("GET", "/tasks/{id}", path("/tasks/{id}", TaskId::generate()), None, 404),
        ("GET", "/tasks/{id}", "/tasks/1".into(), None, 400),
        ("GET", "/tasks/{id}/logs", path("/tasks/{id}/logs", done), None, 200),
        ("GET", "/tasks/{id}/logs", path("/tasks/{id}/logs", failed), None, 200),
        ("GET", "/tasks/{id}/logs", path("/tasks/{id}/logs", open), None, 200),
        ("POST", "/tasks/{id}/retry", path("/tasks/{id}/retry", failed), None, 200),
        ("POST", "/tasks/{id}/retry", path("/tasks/{id}/retry", done), None, 409),
        ("POST", "/tasks/{id}/cancel", path("/tasks/{id}/cancel", open), None, 200),
        ("POST", "/tasks/{id}/cancel", path("/tasks/{id}/cancel", done), None, 409),
        ("DELETE", "/tasks", "/tasks?first=1".into(), None, 200),
        ("DELETE", "/tasks", "/tasks".into(), None, 400),
        ("GET", "/dlq", "/dlq".into(), None, 200),
        ("GET", "/dlq", "/dlq?limit=0".into(), None, 400),
        ("GET", "/dlq/groups", "/dlq/groups".into(), None, 200),
        ("GET", "/dlq/groups", "/dlq/groups?group=x".into(), None, 400),
        ("POST", "/dlq/requeue", "/dlq/requeue".into(), Some(&requeue), 200),
        ("POST", "/dlq/requeue", "/dlq/requeue".into(), Some(&nothing), 422),
        ("DELETE", "/dlq", "/dlq?all=true".into(), None, 200),
        ("DELETE", "/dlq", "/dlq".into(), None, 400),
        ("POST", "/task/next", "/task/next".into(), Some(&next), 200),
        ("POST", "/task/next", "/task/next".into(), Some(&nothing), 422),
        ("POST", "/task/heartbeat", "/task/heartbeat".into(), Some(&heartbeat), 200),
        ("POST", "/task/heartbeat", "/task/heartbeat".into(), Some(&forged_beat), 409),
        ("POST", "/task/heartbeat", "/task/heartbeat".into(), Some(&nothing), 422),
        ("POST", "/complete_task", "/complete_task".into(), Some(&forged), 409),
        ("POST", "/complete_task", "/complete_task".into(), Some(&unclear), 422),
        ("POST", "/complete_task", "/complete_task".into(), Some(&complete), 200),
        ("GET", "/queues", "/queues".into(), None, 200),
        ("PUT", "/queues/{type}", "/queues/echo".into(), Some(&queue), 200),
        ("PUT", "/queues/{type}", "/queues/echo".into(), Some(&tenant), 422),
        ("PUT", "/queues/{type}", "/queues/9".into(), Some(&queue), 400),
        ("POST", "/queues/{type}/pause", "/queues/echo/pause".into(), None, 200),
        ("POST", "/queues/{type}/resume", "/queues/echo/resume".into(), None, 200),
        ("GET", "/tenants", "/tenants".into(), None, 200),
        ("PUT", "/tenants/{tenant}", "/tenants/acme".into(), Some(&tenant), 200),
        ("PUT", "/tenants/{tenant}", "/tenants/acme".into(), Some(&requeue), 422),
        ("GET", "/plugins", "/plugins".into(), None, 200),
        ("GET", "/plugins/{name}", "/plugins/fibonacci".into(), None, 200),
        ("GET", "/plugins/{name}", "/plugins/nobody".into(), None, 404),
        ("POST", "/plugins", "/plugins?colour=red".into(), None, 415),
        ("GET", "/healthz", "/healthz".into(), None, 200),
        ("GET", "/readyz", "/readyz".into(), None, 200),
        ("GET", "/metrics", "/metrics".into(), None, 200),
    ];
    let mut tried = HashSet::new();
    for (method, template, path, body, status) in requests {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer =
            api.send(method, &path, &[("content-type", "application/json")], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        fits(&document, method, template, &answer);
        tried.insert((method.to_owned(), template.to_owned()));
    }
    // Last: what is offered then is the registry's, and no longer what the harness offers.
    try_registry(&api, &document, &mut tried).await;
    for (method, path, _) in operations(&document) {
        assert!(
            tried.contains(&(method.clone(), path.clone())),
            "{method} {path} is documented, and nobody tried it"
        );
    }
}

/// Pushes a WASI command under a version, that takes objects whose `n` is at least so much.
async fn push(api: &Api, version: &str, least: i64) -> Answer {
    let schema = json!({"properties": {"n": {"minimum": least}}});
    crate::plugins::push_command(api, version, schema).await
}

/// Tries every operation of the registry.
async fn try_registry(api: &Api, document: &Value, tried: &mut HashSet<(String, String)>) {
    for (version, least, status) in [
        ("1.0.0", 0, 201),
        ("1.0.0", 0, 200),
        ("1.0.0", 1, 409),
        ("2.0.0", 0, 201),
        ("3.0.0", 5, 201),
    ] {
        let answer = push(api, version, least).await;
        assert_eq!(answer.status, status, "{version}: {}", answer.text());
        fits(document, "POST", "/plugins", &answer);
    }
    // Known by name only, before a version of it runs.
    for path in ["/plugins", "/plugins/shaped"] {
        let answer = api.get(path).await;
        let template = path.replace("shaped", "{name}");
        assert!(answer.text().contains("\"version\":null"), "{path}: {}", answer.text());
        fits(document, "GET", &template, &answer);
    }
    let broken = api.push(&[], b"no component").await;
    assert_eq!(broken.status, 422, "{}", broken.text());
    fits(document, "POST", "/plugins", &broken);
    let version = |version: &str| Some(json!({ "version": version }));
    let canary = |percent: u32| Some(json!({"version": "2.0.0", "percent": percent}));
    let value = Some(json!({"value": "k-0123456789"}));
    let requests = [
        ("POST", "/activate", "", version("1.0.0"), 200),
        ("POST", "/activate", "", version("3.0.0"), 409),
        ("POST", "/activate", "", version("4.0.0"), 404),
        ("POST", "/activate", "", Some(json!({"version": 7})), 422),
        ("POST", "/canary", "", canary(10), 200),
        ("POST", "/canary", "", canary(0), 422),
        ("GET", "", "", None, 200),
        ("GET", "/versions", "", None, 200),
        ("GET", "/versions/{version}", "/versions/2.0.0", None, 200),
        ("GET", "/versions/{version}", "/versions/4.0.0", None, 404),
        ("GET", "/versions/{version}/component", "/versions/2.0.0/component", None, 200),
        ("PUT", "/versions/{version}/settings", "/versions/2.0.0/settings", Some(json!({})), 200),
        (
            "PUT",
            "/versions/{version}/settings",
            "/versions/2.0.0/settings",
            Some(json!({"limits": {"feul": 1}})),
            422,
        ),
        ("PUT", "/versions/{version}/signature", "/versions/2.0.0/signature", Some(json!({})), 422),
        ("POST", "/prune", "", Some(json!({"keep": 9})), 200),
        ("POST", "/prune", "", Some(json!({"keep": 0})), 422),
        ("DELETE", "/canary", "", None, 200),
        ("DELETE", "/canary", "", None, 409),
        ("POST", "/rollback", "", None, 409),
        ("POST", "/activate", "", version("2.0.0"), 200),
        ("POST", "/rollback", "", None, 200),
        ("POST", "/pause", "", None, 200),
        ("POST", "/resume", "", None, 200),
        ("PUT", "/secrets/{key}", "/secrets/api-key", value, 200),
        ("PUT", "/secrets/{key}", "/secrets/api-key", Some(json!({})), 422),
        ("GET", "/secrets", "", None, 200),
        ("DELETE", "/secrets/{key}", "/secrets/api-key", None, 200),
        ("DELETE", "/secrets/{key}", "/secrets/api-key", None, 404),
        ("GET", "/advice", "", None, 200),
        ("GET", "/advice", "/advice?version=4.0.0", None, 404),
        ("GET", "/events", "", None, 200),
        ("GET", "/events", "/events?limit=0", None, 400),
        ("POST", "/retire", "", version("2.0.0"), 200),
        ("POST", "/retire", "", version("1.0.0"), 409),
        ("POST", "/retire", "", Some(json!({})), 200),
    ];
    for (method, template, path, body, status) in requests {
        let path = if path.is_empty() { template } else { path };
        let (path, template) =
            (format!("/plugins/shaped{path}"), format!("/plugins/{{name}}{template}"));
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let json = [("content-type", "application/json")];
        let headers = if body.is_empty() { &[][..] } else { &json[..] };
        let answer = api.send(method, &path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        fits(document, method, &template, &answer);
        tried.insert((method.to_owned(), template));
    }
    let pair = signature::keygen().unwrap();
    let read = api.get("/plugins/shaped/versions/1.0.0").await.json();
    for (change, status) in [(json!({}), 200), (json!({"owner": "acme"}), 403)] {
        let signed = crate::plugins::envelope(&pair, &read, &change);
        let signed = serde_json::from_str(&signed).unwrap();
        let answer = api.put("/plugins/shaped/versions/1.0.0/signature", &signed).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        fits(document, "PUT", "/plugins/{name}/versions/{version}/signature", &answer);
    }
    let signed = api.get("/plugins/shaped/versions/1.0.0").await;
    assert!(signed.json()["signature"]["statement"].is_object());
    fits(document, "GET", "/plugins/{name}/versions/{version}", &signed);
}

#[tokio::test]
async fn every_operation_says_what_it_takes_and_what_may_go_wrong() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{place}");
        assert!(
            !operation["summary"].as_str().unwrap_or_default().is_empty(),
            "{place} has a summary"
        );
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')) && responses.contains_key("500"),
            "{place}"
        );
        for (status, response) in responses {
            let content = response["content"]
                .as_object()
                .unwrap_or_else(|| panic!("{place} {status} has a body"));
            let problem = status.starts_with('4') || status.starts_with('5') && path != "/readyz";
            assert_eq!(
                content.contains_key("application/problem+json"),
                problem || status == "500",
                "{place} {status}"
            );
        }
        if operation["requestBody"].is_object() {
            for status in ["400", "408", "413", "415", "422"] {
                assert!(responses.contains_key(status), "{place} {status}");
            }
        }
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let parameters = operation["parameters"].as_array().unwrap();
            assert!(
                parameters
                    .iter()
                    .any(|p| p["name"] == name && p["in"] == "path" && p["required"] == true),
                "{place}"
            );
        }
    }
    // Every reference in it leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn what_requests_are_refused_for_is_documented() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    let schemas = &document["components"]["schemas"];
    for (pointer, rule) in [
        ("/Requeue/properties/all/enum", json!([true])),
        ("/Requeue/properties/ids/maxItems", json!(1000)),
        ("/DeadLetterFilter/properties/task_type/minItems", json!(1)),
        ("/DeadLetterFilter/properties/error_kind/maxItems", json!(100)),
        ("/DeadLetterFilter/properties/group/maxItems", json!(100)),
        ("/CompleteTask/properties/logs/maxItems", json!(10_000)),
        ("/Limits/additionalProperties", json!(false)),
        ("/Grants/additionalProperties", json!(false)),
        ("/HttpGrant/additionalProperties", json!(false)),
    ] {
        assert_eq!(schemas.pointer(pointer), Some(&rule), "{pointer}");
    }
    let kinds = vec!["trap"; 101];
    for body in [
        json!({"all": false}),
        json!({"filter": {"error_kind": []}}),
        json!({"filter": {"error_kind": kinds}}),
    ] {
        assert_eq!(api.post("/dlq/requeue", &body).await.status, 422, "{body}");
    }
}

#[tokio::test]
async fn the_examples_of_requests_are_accepted() {
    let api = Api::start().await;
    let mut plugins = crate::harness::plugins();
    plugins.push(crate::harness::plugin("scraper", json!(true)));
    api.catalog.set_plugins(active(plugins));
    let document = api.get("/openapi.json").await.json();
    // What the example of `/task/next` asks for.
    api.fibonacci().await;
    let schema = &document["components"]["schemas"]["NewTask"];
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(api.post("/tasks", &schema["example"]).await.status, 201);
    let mut tried = 0;
    // Those of the registry last: what is offered then is the registry's, and no longer what the
    // harness offers.
    let mut operations = operations(&document);
    operations.sort_by_key(|(_, path, _)| path.starts_with("/plugins"));
    for (method, path, operation) in operations {
        if path == "/plugins/{name}/activate" {
            for version in ["0.9.0", "1.0.0", "1.1.0"] {
                assert_eq!(push(&api, version, 0).await.status, 201);
            }
        }
        let path = path.replace("{type}", "fibonacci").replace("{tenant}", "default");
        let path = path
            .replace("{name}", "shaped")
            .replace("{version}", "1.0.0")
            .replace("{key}", "api-key");
        let content = &operation["requestBody"]["content"]["application/json"];
        let several = content["examples"]
            .as_object()
            .into_iter()
            .flat_map(|examples| examples.values().map(|e| &e["value"]));
        for example in several.chain(content.get("example")) {
            let body = example.to_string();
            let json = [("content-type", "application/json")];
            let answer = api.send(&method, &path, &json, body.as_bytes()).await;
            // The lease in an example is nobody's; but it is understood.
            let expected = [200, 201, if body.contains("lease_token") { 409 } else { 200 }];
            assert!(
                expected.contains(&answer.status),
                "{method} {path} {example}: {}",
                answer.text()
            );
            tried += 1;
        }
    }
    assert!(tried >= 17, "{tried} examples");
}

#[tokio::test]
async fn the_pattern_of_an_id_prefix_takes_what_is_taken() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    let parameters = document["paths"]["/tasks"]["get"]["parameters"].as_array();
    let prefix = parameters.unwrap().iter().find(|p| p["name"] == "id_prefix");
    let schema = jsonschema::validator_for(&prefix.unwrap()["schema"]).unwrap();
    let (digits, more) = ("0123456789abcdef0123456789ABCDEF", "0123456789abcdef0123456789ABCDEF0");
    let dashed = "-01234567-89ab-7def--0123-456789abcdef-";
    for text in ["0", "-0", digits, dashed, "", "-", "g", "0x", more] {
        let taken = api.get(&format!("/tasks?id_prefix={text}")).await.status == 200;
        assert_eq!(schema.is_valid(&json!(text)), taken, "{text:?}");
    }
}

/// Generators of clients take the document at its word; `make clients` runs two of them.
#[tokio::test]
async fn generators_of_clients_can_read_the_document() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(
                schema.get("default").is_none(),
                "{name}.{property} has a default, which makes it look required"
            );
        }
    }
    let binary = json!({"type": "string", "format": "binary"});
    let component = &document["paths"]["/plugins/{name}/versions/{version}/component"]["get"];
    for wasm in [
        &document["paths"]["/plugins"]["post"]["requestBody"]["content"],
        &component["responses"]["200"]["content"],
    ] {
        let schema = &wasm["application/wasm"]["schema"];
        for member in ["type", "format"] {
            assert_eq!(schema[member], binary[member], "{wasm}");
        }
    }
    let handler = &schemas["Handler"];
    assert_eq!(handler["discriminator"]["propertyName"], "kind");
    for (kind, reference) in handler["discriminator"]["mapping"].as_object().unwrap() {
        let schema = document.pointer(&reference.as_str().unwrap()[1..]).unwrap();
        assert_eq!(schema["type"], "object", "{kind} is one object");
        assert_eq!(schema["properties"]["kind"]["enum"], json!([kind]));
        let required = schema["required"].as_array().unwrap();
        assert!(required.contains(&json!("kind")), "{kind}");
    }
    assert_eq!(handler["oneOf"].as_array().unwrap().len(), 2);
}
