//! Web servers on loopback: well-behaved ones, silent ones, slow ones.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    task::JoinHandle,
};

use crate::tls;

/// A server that ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers each request with what `answer` makes of it.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub async fn answering<F>(answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        Self::answering_on(loopback().await, answer)
    }

    fn answering_on<F>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::serve(listener, move |stream| {
            let answer = Arc::clone(&answer);
            async move {
                // A client that goes away is not the server's concern.
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(
                        TokioIo::new(stream),
                        service_fn(|request| reply(request, &*answer)),
                    )
                    .await
                    .ok();
            }
        })
    }

    /// [`Server::answering`] over TLS, with the certificate of [`tls`]. `protocols`: what it
    /// speaks, in the names of ALPN; a client that wants none of these is turned away.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub async fn secure<F>(protocols: &[&str], answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    {
        let (answer, acceptor) = (Arc::new(answer), tls::acceptor(protocols));
        Self::on_connection(move |stream| {
            let (answer, acceptor) = (Arc::clone(&answer), acceptor.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = TokioIo::new(stream);
                let service = service_fn(move |request| {
                    let answer = Arc::clone(&answer);
                    async move { reply(request, &*answer).await }
                });
                if is_h2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(stream, service).await.ok();
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(stream, service).await.ok();
                }
            }
        })
        .await
    }

    /// Answers every request with this text as HTML.
    pub async fn with_page(page: &'static str) -> Self {
        Self::answering(move |_| {
            Response::builder()
                .header("content-type", "text/html; charset=utf-8")
                .body(page.into())
                .unwrap()
        })
        .await
    }

    /// Answers every request with this text, on an address of its own: one of loopback's others
    /// with a port that is taken on 127.0.0.1, say.
    ///
    /// # Panics
    /// When nothing can listen there.
    pub async fn with_page_at(address: impl ToSocketAddrs, page: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::answering_on(listener, move |_| Response::new(page.into()))
    }

    /// Answers every request with a redirect.
    pub async fn redirecting_to(location: String) -> Self {
        Self::answering(move |_| {
            Response::builder()
                .status(302)
                .header("location", &location)
                .body(Bytes::new())
                .unwrap()
        })
        .await
    }

    /// Takes connections and requests, and never says a word.
    pub async fn silent() -> Self {
        Self::on_connection(|mut stream| async move { while heard(&mut stream).await {} }).await
    }

    /// Answers a request with the start of a response, and after it one byte of body each `pause`,
    /// for ever.
    pub async fn dripping(pause: Duration) -> Self {
        Self::on_connection(move |mut stream| async move {
            let start = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            if !heard(&mut stream).await || stream.write_all(start).await.is_err() {
                return;
            }
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        })
        .await
    }

    /// Waits for a client to speak, writes these bytes as they are and closes.
    pub async fn raw(response: impl Into<Bytes>) -> Self {
        let response = response.into();
        Self::on_connection(move |mut stream| {
            let response = response.clone();
            async move {
                if heard(&mut stream).await {
                    stream.write_all(&response).await.ok();
                    stream.shutdown().await.ok();
                    // Closing with unread bytes would reset the connection before the client has
                    // read the answer.
                    while heard(&mut stream).await {}
                }
            }
        })
        .await
    }

    /// Hands each connection to `serve`.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub async fn on_connection<F, S>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve(loopback().await, serve)
    }

    fn serve<F, S>(listener: TcpListener, serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // Connections end with their clients, or with the test's runtime.
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        Self { address, connections, task }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// A URL on this server; `path` begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections that were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a request to its end and answers it.
async fn reply<F>(
    request: Request<Incoming>,
    answer: &F,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Request<Bytes>) -> Response<Bytes>,
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let response = answer(Request::from_parts(parts, body.unwrap_or_default()));
    Ok(response.map(Full::new))
}

/// Waits for bytes; false when there will be none.
async fn heard(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0)
}

/// A loopback address on which nothing listens.
///
/// # Panics
/// When nothing can listen on loopback.
pub async fn closed_port() -> SocketAddr {
    loopback().await.local_addr().unwrap()
}

async fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
