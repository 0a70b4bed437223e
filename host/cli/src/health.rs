//! Asks a process whether it can do its work: for images and units that hold nothing else to ask
//! with.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use reqwest::{Url, redirect};

use crate::{address, args::HealthArgs, authorities, data_folder, output};

/// Prints what the process said.
///
/// # Errors
/// When it did not say yes, which is any answer of 2xx, or said nothing.
pub(crate) async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let url = url(&args)?;
    let http = reqwest::Client::builder()
        .timeout(args.timeout)
        // The process is asked itself: a proxy in the environment leads elsewhere, and a redirect
        // is no answer; it is told.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .tls_backend_preconfigured(authorities::client(&url)?)
        .build()?;
    let response =
        http.get(url.clone()).send().await.with_context(|| format!("no answer from {url}"))?;
    let status = response.status();
    let location = response.headers().get(reqwest::header::LOCATION);
    let location = location.and_then(|to| to.to_str().ok()).map(str::to_owned);
    let text = response.text().await.with_context(|| format!("the answer of {url} broke off"))?;
    if !text.is_empty() {
        output::line(text.trim_end());
    }
    if status.is_success() {
        return Ok(ExitCode::SUCCESS);
    }
    match location {
        Some(to) if status.is_redirection() => {
            bail!("{url} answered {status}, and leads to {to}: ask that")
        }
        _ => bail!("{url} answered {status}"),
    }
}

/// The URL that was named, or the readiness of whatever was told to listen with the same variables
/// as this command was. The admin address goes first: a process that has one answers there without
/// TLS, proxies or keys in between. Where nothing was named, a `dev` that runs on the data folder
/// is asked.
fn url(args: &HealthArgs) -> anyhow::Result<Url> {
    if let Some(url) = &args.url {
        // A process, and not what it should be asked.
        let is_bare = url.path() == "/" && url.query().is_none();
        return Ok(if is_bare { url.join("readyz")? } else { url.clone() });
    }
    let listen = args.admin_listen.or(args.listen);
    let listen = listen.or_else(|| data_folder::address(&args.data_dir).unwrap_or_default());
    let address = within_reach(listen.unwrap_or(address::API));
    Ok(Url::parse(&format!("http://{address}/readyz"))?)
}

/// Who listens on every address is asked on loopback.
pub(crate) fn within_reach(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What a process's variables say: the named URL, the admin address, the address of the API.
    fn asking(url: Option<&str>, admin_listen: Option<&str>, listen: &str) -> HealthArgs {
        HealthArgs {
            url: url.map(|url| crate::address::server_url(url).unwrap()),
            admin_listen: admin_listen.map(|address| address.parse().unwrap()),
            listen: Some(listen.parse().unwrap()),
            data_dir: "/nowhere".into(),
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn it_asks_the_process_that_was_started_with_the_same_variables() {
        let api = |listen| url(&asking(None, None, listen)).unwrap().to_string();
        assert_eq!(api("127.0.0.1:8000"), "http://127.0.0.1:8000/readyz");
        assert_eq!(api("0.0.0.0:8000"), "http://127.0.0.1:8000/readyz");
        assert_eq!(api("[::]:8000"), "http://[::1]:8000/readyz");
        let with_admin =
            |admin| url(&asking(None, Some(admin), "0.0.0.0:8000")).unwrap().to_string();
        assert_eq!(with_admin("0.0.0.0:9464"), "http://127.0.0.1:9464/readyz");
        assert_eq!(with_admin("10.1.2.3:9464"), "http://10.1.2.3:9464/readyz");
    }

    #[test]
    fn a_dev_that_runs_on_the_data_folder_is_asked_where_nothing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let unnamed = HealthArgs {
            listen: None,
            data_dir: folder.path().to_owned(),
            ..asking(None, None, "127.0.0.1:1")
        };
        assert_eq!(url(&unnamed).unwrap().as_str(), "http://127.0.0.1:8000/readyz");
        data_folder::keep_address(folder.path(), "127.0.0.1:8001".parse().unwrap()).unwrap();
        assert_eq!(url(&unnamed).unwrap().as_str(), "http://127.0.0.1:8001/readyz");
    }

    #[test]
    fn a_named_url_is_asked_as_it_is() {
        let named = asking(Some("http://api:8000/healthz"), Some("0.0.0.0:9464"), "0.0.0.0:8000");
        assert_eq!(url(&named).unwrap().as_str(), "http://api:8000/healthz");
    }

    #[test]
    fn a_process_that_is_named_is_asked_whether_it_is_ready() {
        for (named, asked) in [
            ("http://api:8000", "http://api:8000/readyz"),
            ("http://api:8000/", "http://api:8000/readyz"),
            ("localhost:8000", "http://localhost:8000/readyz"),
            ("https://api", "https://api/readyz"),
            ("api:8000/healthz", "http://api:8000/healthz"),
        ] {
            assert_eq!(url(&asking(Some(named), None, "127.0.0.1:1")).unwrap().as_str(), asked);
        }
    }

    /// A server that gives one answer.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    async fn asked(address: SocketAddr) -> anyhow::Result<ExitCode> {
        // As `main` does; fails after the first test.
        rustls::crypto::ring::default_provider().install_default().ok();
        run(asking(None, None, &address.to_string())).await
    }

    #[tokio::test]
    async fn only_a_yes_is_a_success() {
        let said = async |answer| {
            let address = answering(answer).await;
            let code = asked(address).await;
            // Exit codes cannot be compared, but shown.
            let said = code.map_or_else(|no| no.to_string(), |code| format!("{code:?}"));
            said.replace(&format!("http://{address}/"), "")
        };
        let yes = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(said(yes).await, format!("{:?}", ExitCode::SUCCESS));
        let no = "HTTP/1.1 503 Not Now\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(said(no).await, "readyz answered 503 Service Unavailable");
        let elsewhere = "HTTP/1.1 307 Elsewhere\r\nlocation: /docs/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(
            said(elsewhere).await,
            "readyz answered 307 Temporary Redirect, and leads to /docs/: ask that"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_address() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let error = asked(address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no answer from http://{address}/readyz"));
    }
}
