//! Servers as people name them, and which key is sent to which.

use std::fs;

use crate::server::{Server, done, run, said};

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_named_as_people_type_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let address = server.url.strip_prefix("http://").unwrap();
    let (_, port) = address.split_once(':').unwrap();
    for name in [
        address.to_owned(),
        format!("localhost:{port}"),
        format!(":{port}"),
        format!("http://{address}/"),
    ] {
        done(&server, &["task", "list", "--server", &name]);
        let healthy = said(&run(&server, &["health", &name]));
        assert!(healthy.contains("\"status\""), "{name}: {healthy}");
        assert!(run(&server, &["health", &name]).status.success(), "{name}");
    }
    assert!(run(&server, &["health", &format!("{address}/healthz")]).status.success());
    let elsewhere = run(&server, &["health", &format!("{address}/docs")]);
    assert!(
        elsewhere.status.code() == Some(1) && said(&elsewhere).contains("leads to /docs/"),
        "{}",
        said(&elsewhere)
    );
    let scheme = run(&server, &["task", "list", "--server", "ftp://a.test"]);
    assert!(
        scheme.status.code() == Some(2) && said(&scheme).contains("http://"),
        "{}",
        said(&scheme)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_is_traced_to_where_it_came_from() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let list = |folder: &std::path::Path| {
        let folder = folder.to_str().unwrap();
        run(&server, &["task", "list", "--data-dir", folder])
    };
    let file = other.path().join("key");
    fs::write(&file, "another-key-of-another-server\n").unwrap();
    let unsent = list(other.path());
    assert!(
        unsent.status.code() == Some(5) && said(&unsent).contains("was not sent"),
        "{}",
        said(&unsent)
    );
    fs::write(other.path().join("address"), &server.url).unwrap();
    let foreign = list(other.path());
    assert!(
        foreign.status.code() == Some(5) && said(&foreign).contains(file.to_str().unwrap()),
        "{}",
        said(&foreign)
    );
    // A folder in the place of the file cannot be read by root either.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let unreadable = list(other.path());
    assert!(
        unreadable.status.code() == Some(5) && said(&unreadable).contains(file.to_str().unwrap()),
        "{}",
        said(&unreadable)
    );
    let free_data = tempfile::tempdir().unwrap();
    let free = Server::start_with(free_data.path(), |command| {
        command.env("TASKFORGE_NO_KEY", "true");
    });
    fs::write(other.path().join("address"), &free.url).unwrap();
    let folder = other.path().to_str().unwrap();
    let goes_on = run(&free, &["task", "list", "--data-dir", folder]);
    assert!(goes_on.status.success(), "{}", said(&goes_on));
    assert!(said(&goes_on).contains("going on without a key"), "{}", said(&goes_on));
}
