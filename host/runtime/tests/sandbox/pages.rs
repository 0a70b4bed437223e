//! Pages and servers as users met them, scraped through the sandbox: whole answers, byte for byte,
//! and what a browser makes of them. Each says in `plugins/scraper/testdata/pages.json` why the
//! expected value is the right one.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use taskforge_domain::Outcome;
use taskforge_runtime::{Invoked, Plugin};
use taskforge_testing::{guests, web::Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bed::{Bed, invocation, settings};

#[derive(Clone, Deserialize)]
struct Page {
    name: String,
    page: String,
    because: String,
    url: String,
    answers: Vec<Answer>,
    expected: Map<String, Value>,
    /// Attempts until the page is there.
    #[serde(default = "one")]
    attempts: u32,
}

#[derive(Clone, Deserialize)]
struct Answer {
    path: String,
    file: String,
    /// Only for requests whose header has this in its value.
    header: Option<(String, String)>,
    /// Only from the second request on.
    #[serde(default)]
    again: bool,
}

const fn one() -> u32 {
    1
}

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/scraper/testdata")
}

/// Texts name the server by what is known only when it runs.
fn placed(text: &str, server: &Server) -> String {
    let address = server.address();
    text.replace("{origin}", &format!("http://{address}"))
        .replace("{host}", &address.to_string())
        .replace("{port}", &address.port().to_string())
}

/// A server that answers as the page says.
async fn serve(page: &Page) -> Server {
    let answers: Arc<Vec<(Answer, Vec<u8>)>> = Arc::new(
        page.answers
            .iter()
            .map(|answer| {
                let bytes = fs::read(testdata().join("pages").join(&answer.file));
                (answer.clone(), bytes.unwrap())
            })
            .collect(),
    );
    let seen = Arc::new(Mutex::new(HashMap::new()));
    Server::on_connection(move |stream| answer(stream, Arc::clone(&answers), Arc::clone(&seen)))
        .await
}

async fn answer(
    mut stream: TcpStream,
    answers: Arc<Vec<(Answer, Vec<u8>)>>,
    seen: Arc<Mutex<HashMap<String, u32>>>,
) {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let count = {
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(path.clone()).or_insert(0);
        *count += 1;
        *count
    };
    let has = |(name, value): &(String, String)| {
        request.lines().any(|line| {
            let (header, said) = line.split_once(':').unwrap_or_default();
            header.eq_ignore_ascii_case(name) && said.contains(value)
        })
    };
    // Of the answers that fit, the last one is the most particular.
    let fits = |answer: &Answer| {
        answer.path == path
            && answer.header.as_ref().is_none_or(has)
            && (!answer.again || count > 1)
    };
    let found = answers.iter().rfind(|(answer, _)| fits(answer));
    let missing =
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    let mut bytes = found.map_or(missing, |(_, bytes)| bytes.clone());
    // Only heads and bodies without a length hold these, so that no length becomes wrong.
    if let (Ok(text), Ok(address)) = (std::str::from_utf8(&bytes), stream.local_addr())
        && (text.contains("{host}") || text.contains("{port}"))
    {
        let port = address.port().to_string();
        let placed = text.replace("{host}", &address.to_string()).replace("{port}", &port);
        bytes = placed.into_bytes();
    }
    stream.write_all(&bytes).await.ok();
    stream.shutdown().await.ok();
    // Closing with unread bytes would reset the connection before the client has read the answer.
    while stream.read_buf(&mut Vec::new()).await.is_ok_and(|read| read > 0) {}
}

async fn scrape(bed: &Bed, plugin: &Plugin, url: &str, last: bool) -> Invoked {
    let mut invocation = invocation(json!({ "url": url }));
    invocation.max_attempts = if last { 1 } else { 2 };
    bed.runtime.invoke(plugin, invocation).await
}

/// What differs from what is expected.
async fn differs(bed: &Bed, plugin: &Plugin, page: &Page) -> Option<String> {
    let server = serve(page).await;
    let url = placed(&page.url, &server);
    for _ in 1..page.attempts {
        let early = scrape(bed, plugin, &url, false).await;
        let Outcome::Failed(failure) = &early.outcome else {
            return Some(format!("the first attempt was the last: {:?}", early.outcome));
        };
        if failure.retry_after.is_none() {
            return Some(format!("the server's time to wait is lost: {failure:?}"));
        }
    }
    let invoked = scrape(bed, plugin, &url, true).await;
    let Outcome::Completed(output) = &invoked.outcome else {
        return Some(format!("{:?}", invoked.outcome));
    };
    let output = output.to_value();
    let text = output.to_string();
    if text.contains("pw@") || text.contains("secret") {
        return Some(format!("credentials are repeated: {text}"));
    }
    let expected = placed(&Value::from(page.expected.clone()).to_string(), &server);
    let expected: Map<String, Value> = serde_json::from_str(&expected).unwrap();
    let wrong: Vec<String> = expected
        .iter()
        .filter(|(field, value)| output[field.as_str()] != **value)
        .map(|(field, value)| format!("{field}: expected {value}, got {}", output[field.as_str()]))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_read_as_browsers_read_them() {
    let bed = Bed::new().await;
    let with = json!({
        "grants": {"http": {"hosts": ["*:*"], "private_networks": ["127.0.0.0/8", "::1/128"]}},
        "limits": {"memory": "128 MiB", "fuel": 20_000_000_000_u64},
    });
    let loaded = bed.runtime.load(guests::bytes("scraper"), settings(with)).await;
    let plugin = loaded.unwrap();
    let pages = fs::read_to_string(testdata().join("pages.json")).unwrap();
    let pages: Vec<Page> = serde_json::from_str(&pages).unwrap();
    assert!(pages.len() > 50, "{}", pages.len());
    let mut wrong = Vec::new();
    for page in &pages {
        if let Some(difference) = differs(&bed, &plugin, page).await {
            wrong.push(format!(
                "{} ({}): {difference}\n    because {}",
                page.name, page.page, page.because
            ));
        }
    }
    assert!(wrong.is_empty(), "{} pages:\n{}", wrong.len(), wrong.join("\n"));
}
