//! Guests that open as many connections as they can leave descriptors to everything else.

use std::time::Duration;

use serde_json::json;
use taskforge_testing::{guests, wait::wait_until, web};

use crate::server::Server;

/// What the server may open.
const DESCRIPTORS: u32 = 256;

/// What a tenant's requests may have of it: a quarter is for requests, of which one tenant alone
/// gets half.
const CONNECTIONS: usize = DESCRIPTORS as usize / 2 / 2 / 2;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slow_requests_of_many_attempts_leave_descriptors_to_everything_else() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with_descriptors(data.path(), DESCRIPTORS, |_| {});
    let silent = web::Server::silent().await;
    let component = files.path().join("hostile.wasm");
    std::fs::write(&component, guests::bytes("hostile")).unwrap();
    let settings = "[limits]\ndeadline = \"40s\"\n[grants]\n\
                    http = { hosts = [\"*:*\"], private_networks = [\"127.0.0.0/8\"] }\n";
    std::fs::write(component.with_extension("toml"), settings).unwrap();
    let pushed = server.command(&["plugin", "push", component.to_str().unwrap()]).output().unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));

    let input = json!({"attack": "slow_requests", "url": silent.url("/"), "count": 100});
    let mut attempts = Vec::new();
    for _ in 0..8 {
        attempts.push(server.submit("hostile", input.clone()).await);
    }
    wait_until("the share of connections is in use", async || silent.connections() >= CONNECTIONS)
        .await;
    for _ in 0..20 {
        // Each with a connection of its own, through the accept loop, to the database and back.
        let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = fresh.get(format!("{}/healthz", server.url)).send().await.unwrap();
        assert!(answer.status().is_success());
        let done = server.run("fibonacci", json!({"n": 10})).await;
        assert_eq!(done["status"], "completed", "{done}");
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
        assert!(open < DESCRIPTORS as usize - 50, "{open} descriptors are open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(silent.connections() <= CONNECTIONS, "{} connections", silent.connections());
}
