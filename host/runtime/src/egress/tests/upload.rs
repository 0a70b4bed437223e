//! Bodies on their way to servers that do not take them.

use super::*;

/// Sends `start` to whoever has said something, and reads no more.
async fn silent(start: &'static [u8]) -> Server {
    Server::on_connection(move |mut stream| async move {
        stream.read_exact(&mut [0; 16]).await.ok();
        stream.write_all(start).await.ok();
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_server_that_stops_reading_is_noticed_by_either_limit() {
    let (limit, far) = (Some(Duration::from_millis(200)), Some(Duration::from_secs(3600)));
    let server = silent(b"").await;
    let egress = Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let asker = Asker::new(egress, "127.0.0.0/8");
    for (first, between) in [(limit, None), (None, limit), (limit, far), (far, limit)] {
        let options = RequestOptions {
            first_byte_timeout: first,
            between_bytes_timeout: between,
            ..RequestOptions::default()
        };
        let (guest, body) = Guest::new();
        let url = server.url("/");
        let exchange = async { tokio::join!(asker.upload(&url, options, body), guest.flood()) };
        let exchange = tokio::time::timeout(Duration::from_secs(60), exchange);
        let (answer, ()) = exchange.await.expect("both ends notice");
        assert!(matches!(answer, Err(Error::ConnectionWriteTimeout)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_answers_and_stops_reading_is_noticed_too() {
    let server = silent(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
    let egress = Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let asker = Asker::new(egress, "127.0.0.0/8");
    let options = RequestOptions {
        between_bytes_timeout: Some(Duration::from_secs(2)),
        ..RequestOptions::default()
    };
    let (guest, body) = Guest::new();
    let url = server.url("/");
    let exchange = async { tokio::join!(asker.upload(&url, options, body), guest.flood()) };
    let exchange = tokio::time::timeout(Duration::from_secs(60), exchange);
    let (answer, ()) = exchange.await.expect("the guest's stream is closed");
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn an_http_2_server_that_takes_no_more_of_one_body_is_noticed() {
    let acceptor = tls::acceptor(&["h2"]);
    let server = Server::on_connection(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let service =
                hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    // Kept, and not read.
                    let _request = request;
                    std::future::pending::<
                            Result<Response<Empty<Bytes>>, std::convert::Infallible>,
                        >()
                        .await
                });
            let executor = hyper_util::rt::TokioExecutor::new();
            let server = hyper::server::conn::http2::Builder::new(executor);
            server.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await.ok();
        }
    })
    .await;
    let asker = Asker::new(trusting_the_private_one(), "127.0.0.0/8");
    let options = RequestOptions {
        between_bytes_timeout: Some(Duration::from_millis(200)),
        ..RequestOptions::default()
    };
    let (guest, body) = Guest::new();
    let url = format!("https://127.0.0.1:{}/", server.port());
    let exchange = async { tokio::join!(asker.upload(&url, options, body), guest.flood()) };
    let exchange = tokio::time::timeout(Duration::from_secs(60), exchange);
    let (answer, ()) = exchange.await.expect("both ends notice");
    assert!(matches!(answer, Err(Error::ConnectionWriteTimeout)), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_is_cut_off_ends_its_connection() {
    // Reads what comes and never answers, and says when the client is gone.
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let server = Server::on_connection(move |mut stream| {
        let gone = gone.clone();
        async move {
            let mut buffer = vec![0; CHUNK];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            gone.send(()).ok();
        }
    })
    .await;
    let egress = Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let asker = Asker::new(egress, "127.0.0.0/8");
    let options = RequestOptions {
        first_byte_timeout: Some(Duration::from_secs(2)),
        ..RequestOptions::default()
    };
    let (mut guest, body) = Guest::new();
    let url = server.url("/");
    let write = async {
        guest.write().await.unwrap();
        drop(guest);
    };
    let (answer, ()) = tokio::join!(asker.upload(&url, options, body), write);
    // The latter where the machine was too busy to send the body meanwhile.
    let late = matches!(answer, Err(Error::HttpResponseTimeout | Error::ConnectionWriteTimeout));
    assert!(late, "{answer:?}");
    let gone = tokio::time::timeout(Duration::from_secs(60), is_gone.recv()).await;
    assert_eq!(gone.unwrap(), Some(()));
}
