//! The pages, in a browser.

use std::process::Command;

use crate::server::Server;

const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn browser() -> Option<&'static str> {
    BROWSERS.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success())
    })
}

#[tokio::test]
async fn swagger_ui_shows_every_route_with_the_key_and_without_the_internet() {
    let Some(browser) = browser() else {
        // A developer's machine may have none; the machine that decides what lands must.
        assert!(std::env::var_os("CI").is_none(), "no browser: install chromium");
        eprintln!("skipped: no browser found (looked for {})", BROWSERS.join(", "));
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let page = tokio::task::spawn_blocking({
        let key = std::fs::read_to_string(data.path().join("key")).unwrap();
        let url = format!("{}/docs/#key={}", server.url, key.trim());
        let profile = format!("--user-data-dir={}", profile.path().display());
        move || {
            Command::new(browser)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                ])
                .args([
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                ])
                // Any other host is unreachable, so an asset from elsewhere would leave the page
                // empty.
                .args([
                    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
                    "--virtual-time-budget=20000",
                ])
                .args([&profile, "--dump-dom", &url])
                .output()
                .unwrap()
        }
    })
    .await
    .unwrap();
    let page = String::from_utf8_lossy(&page.stdout);
    let document = server.get("/openapi.json").await;
    assert!(page.contains("btn authorize locked"), "the key is entered");
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("data-path=\"{path}\"")), "{path} is not on the page");
    }
}
