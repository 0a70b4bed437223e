use std::time::{Duration, Instant};

use serde_json::json;
use taskforge_api::ServeError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Answer, Api, Setup, TEST_DEADLINE};

const SHORT: Duration = Duration::from_millis(300);
const DRIP: Duration = Duration::from_millis(20);

/// Writes a byte now and then until the server has had enough, and returns what it said.
async fn drip(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let dripping = async {
        for byte in bytes.iter().cycle() {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(DRIP).await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async { read.read_to_end(&mut answer).await.ok() };
    tokio::time::timeout(TEST_DEADLINE, async {
        tokio::select! { _ = reading => {}, () = dripping => {} }
    })
    .await
    .expect("the server does not put up with it");
    answer
}

#[tokio::test]
async fn headers_that_drip_in_are_cut_off() {
    let api = Setup::config(|config| config.header_timeout = SHORT).start().await;
    let mut stream = api.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
    let begin = Instant::now();
    drip(stream, b"a").await;
    assert!(begin.elapsed() >= SHORT, "it had its time");
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let api = Setup::config(|config| config.header_timeout = SHORT).start().await;
    let mut stream = api.connect().await;
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("closed")
        .unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_body_that_drips_in_is_cut_off() {
    let api = Setup::config(|config| config.body_timeout = SHORT).start().await;
    let mut stream = api.connect().await;
    let head = "POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = drip(stream, b" ").await;
    Answer::parse(&answer).expect("an answer").problem(408, "slow-body");
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let api = Api::start().await;
    let mut stream = api.connect().await;
    let head = "POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(br#"{"task_type":"echo"}"#).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("closed")
        .ok();
    // A client that has gone for good is not answered at all.
    if let Some(answer) = Answer::parse(&answer) {
        answer.problem(400, "malformed-body");
    }
    assert_eq!(api.get("/tasks").await.json()["tasks"], json!([]));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_however_it_comes() {
    let api = Setup::config(|config| config.body_limit = 100_000).start().await;
    let body = json!({"task_type": "echo", "input": "x".repeat(150_000)}).to_string();
    let problem = api.post_text("/tasks", &body).await.problem(413, "body-too-large");
    assert!(problem["detail"].as_str().unwrap().contains("100000"), "{problem}");
    // Without a length.
    let mut request = b"POST /tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in body.as_bytes().chunks(10_000) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    Answer::parse(&api.raw(&request).await.unwrap()).unwrap().problem(413, "body-too-large");
    // A client that asks first is told before it sends.
    let asks = "POST /tasks HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 150000\r\n\r\n";
    Answer::parse(&api.raw(asks.as_bytes()).await.unwrap()).unwrap().problem(413, "body-too-large");
    let fits = json!({"task_type": "echo", "input": "x".repeat(99_000)}).to_string();
    assert_eq!(api.post_text("/tasks", &fits).await.status, 201);
}

#[tokio::test]
async fn a_body_without_end_is_not_read_without_end() {
    let api = Setup::config(|config| config.body_limit = 100_000).start().await;
    let mut stream = api.connect().await;
    let head = "POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let flood = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(TEST_DEADLINE, flood).await.expect("the server closes the connection");
}

#[tokio::test]
async fn headers_are_limited_in_size_and_number() {
    let api = Api::start().await;
    for request in [
        format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n",
            "x".repeat(70_000)
        ),
        format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(101)),
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000)),
    ] {
        let raw = api.raw(request.as_bytes()).await.unwrap();
        let status = Answer::parse(&raw).unwrap().status;
        // 414 for an address that is too long to be one.
        assert!([414, 431].contains(&status), "{}", String::from_utf8_lossy(&raw));
    }
}

/// Connections that say nothing.
async fn silent(api: &Api, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(api.connect().await);
    }
    streams
}

#[tokio::test]
async fn probes_are_answered_beyond_the_limit_and_everything_else_is_told_to_come_back() {
    let api = Setup::config(|config| config.max_connections = 2).start().await;
    let _busy = [long_poll(&api).await, long_poll(&api).await];
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    for path in ["/tasks", "/metrics", "/docs/"] {
        let answer = api.get(path).await;
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
}

/// A connection whose request is being answered for a while.
async fn long_poll(api: &Api) -> TcpStream {
    let id = api.fibonacci().await;
    let mut stream = api.connect().await;
    let head = format!("GET /tasks/{id}?wait=60s HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(SHORT).await;
    stream
}

#[tokio::test]
async fn silent_connections_give_way_to_those_that_speak() {
    let api = Setup::config(|config| config.max_connections = 64).start().await;
    let _flood = silent(&api, 200).await;
    assert_eq!(api.get("/healthz").await.status, 200, "at once");
    // They may be about to speak for a second.
    let served = async { while api.get("/tasks").await.status != 200 {} };
    tokio::time::timeout(TEST_DEADLINE, served).await.expect("it is served");
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections() {
    let setup = Setup::config(|config| {
        config.max_connections = 8;
        config.max_connections_per_address = 2;
    });
    let api = setup.start().await;
    let _busy = [long_poll(&api).await, long_poll(&api).await];
    api.get("/tasks").await.problem(503, "unavailable");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(api.address).await.unwrap();
    let request = "GET /tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    other.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    other.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Answer::parse(&answer).unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_has_a_short_time_for_its_first_byte() {
    let setup = Setup::config(|config| {
        config.first_byte_timeout = SHORT;
        config.header_timeout = TEST_DEADLINE * 2;
    });
    let api = setup.start().await;
    let mut stream = api.connect().await;
    let closed = async { stream.read(&mut [0]).await };
    let read = tokio::time::timeout(TEST_DEADLINE, closed).await.expect("closed");
    assert!(read.is_err() || read.is_ok_and(|bytes| bytes == 0));
}

#[tokio::test]
async fn slow_uploads_leave_turns_to_others() {
    let api = Setup::config(|config| config.body_grace = SHORT).start().await;
    let head = "POST /plugins HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/wasm\r\n\
                content-length: 1000000\r\n\r\n\0asm";
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = api.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(SHORT).await;
    // Answered as what it is once the slow ones have had their time, two at a time.
    let answer = tokio::time::timeout(TEST_DEADLINE, api.push(&[], b"\0asm")).await;
    answer.expect("it has its turn").problem(422, "component");
    let mut answer = Vec::new();
    slow.remove(0).read_to_end(&mut answer).await.unwrap();
    Answer::parse(&answer).unwrap().problem(408, "slow-body");
}

#[tokio::test]
async fn a_refused_body_is_read_away_so_that_the_answer_arrives() {
    let setup = Setup::config(|config| {
        config.key = Some(taskforge_api::ApiKey::new("0123456789abcdef").unwrap());
        config.body_limit = 100_000;
    });
    let api = setup.start().await;
    let large = vec![b' '; 40 << 20];
    for (path, headers, status, kind) in [
        ("/plugins", &[("content-type", "application/wasm")][..], 401, "unauthorized"),
        ("/nowhere", &[("x-api-key", "0123456789abcdef")], 404, "no-route"),
        ("/tasks", &[("x-api-key", "0123456789abcdef")], 415, "unsupported-media-type"),
        (
            "/tasks",
            &[("x-api-key", "0123456789abcdef"), ("content-type", "application/json")],
            413,
            "body-too-large",
        ),
    ] {
        let mut all = vec![("connection", "keep-alive")];
        all.extend(headers);
        let answer = api.send_kept("POST", path, &all, &large).await;
        answer.problem(status, kind);
        assert_eq!(answer.header("connection"), "close", "{path}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_only_if_its_body_is_wanted() {
    let setup = Setup::config(|config| {
        config.key = Some(taskforge_api::ApiKey::new("0123456789abcdef").unwrap());
    });
    let api = setup.start().await;
    let body = r#"{"task_type":"echo"}"#;
    let head = |key: &str| {
        format!(
            "POST /tasks HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nexpect: 100-continue\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
    };
    let refused = api.raw(head("wrong").as_bytes()).await.unwrap();
    Answer::parse(&refused).unwrap().problem(401, "unauthorized");
    let mut stream = api.connect().await;
    stream.write_all(head("0123456789abcdef").as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"));
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut created = [0; 12];
    stream.read_exact(&mut created).await.unwrap();
    assert_eq!(&created, b"HTTP/1.1 201");
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let setup = Setup::config(|config| {
        config.write_timeout = SHORT;
        config.body_limit = 40 << 20;
    });
    let api = setup.start().await;
    // More than the buffers of both sockets take.
    let id = api.create(json!({"task_type": "echo", "input": "x".repeat(32 << 20)})).await;
    let mut stream = api.connect().await;
    stream
        .write_all(format!("GET /tasks/{id} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // Long enough to have filled the buffers and to have been given up.
    tokio::time::sleep(SHORT * 3).await;
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("closed")
        .ok();
    assert!(answer.len() < 32 << 20, "it did not get everything");
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let api = Api::start().await;
    let two = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /plugins/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let raw = api.raw(two.as_bytes()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&raw).matches("HTTP/1.1 200 OK").count(), 2);
}

#[tokio::test]
async fn a_shutdown_closes_the_door_and_idle_connections() {
    let api = Api::start().await;
    let mut idle = api.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    api.shutdown.cancel();
    tokio::time::timeout(TEST_DEADLINE, api.serving).await.expect("it ends").unwrap().unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(api.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn who_is_still_busy_after_the_grace_period_is_cut_off() {
    let api = Setup::config(|config| config.shutdown_grace = SHORT).start().await;
    let mut busy = api.connect().await;
    let head = "POST /tasks HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
    busy.write_all(head.as_bytes()).await.unwrap();
    // Its handler runs: it asks for the body, which never comes.
    let mut go_on = [0; 25];
    busy.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"));
    api.shutdown.cancel();
    let ended = tokio::time::timeout(TEST_DEADLINE, api.serving).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ServeError::CutOff(1))), "{ended:?}");
}
