//! HTTP clients that hang up at any moment.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A request with a JSON body, or none if that is empty, on a connection of its own.
#[must_use]
pub fn request(method: &str, path: &str, key: Option<&str>, body: &str) -> String {
    let key = key.map_or_else(String::new, |key| format!("authorization: Bearer {key}\r\n"));
    let json = match body {
        "" => "",
        _ => "content-type: application/json\r\n",
    };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}{json}content-length: {length}\r\n\r\n{body}"
    )
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, which is JSON for every route.
    pub body: serde_json::Value,
}

/// Sends a request and waits for its answer, but no longer than `limit`, and hangs up then.
/// `None` if the whole answer did not come.
pub async fn ask(address: SocketAddr, request: &str, limit: Duration) -> Option<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer {
            status: head.split(' ').nth(1)?.parse().ok()?,
            body: serde_json::from_str(body).unwrap_or_default(),
        })
    };
    tokio::time::timeout(limit, exchange).await.ok().flatten()
}

/// The beginning of a request, for a client that hangs up before all of it is sent.
#[must_use]
pub fn cut(request: &str, at: usize) -> &str {
    let mut end = at.min(request.len());
    while !request.is_char_boundary(end) {
        end -= 1;
    }
    &request[..end]
}
