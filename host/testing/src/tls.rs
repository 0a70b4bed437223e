//! Servers with a certificate of a private authority (`fixtures/tls`).

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use crate::web::Server;

/// The certificate of the authority, as PEM.
#[must_use]
pub fn authority() -> PathBuf {
    fixture("authority.pem")
}

/// The certificate of a server at `localhost`, `secure.test`, 127.0.0.1 and ::1, as PEM.
#[must_use]
pub fn certificate() -> PathBuf {
    fixture("server.pem")
}

/// The server's key, as PEM.
#[must_use]
pub fn key() -> PathBuf {
    fixture("server.key")
}

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", "tls", name].iter().collect()
}

/// Makes connections of clients secure. `protocols`: what the server speaks, in the names of ALPN.
///
/// # Panics
/// When the fixtures cannot be read.
#[must_use]
pub fn acceptor(protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_file(certificate()).unwrap();
    let key = PrivateKeyDer::from_pem_file(key()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Speaks TLS before a server on loopback that does not. `greeting`: what a client sends first in
/// the clear, and what it is answered.
///
/// # Panics
/// When nothing can listen on loopback.
pub async fn before(port: u16, greeting: Option<(usize, &'static [u8])>) -> Server {
    let acceptor = acceptor(&[]);
    Server::on_connection(move |mut client| {
        let acceptor = acceptor.clone();
        async move {
            if let Some((length, answer)) = greeting {
                client.read_exact(&mut vec![0; length]).await.ok();
                client.write_all(answer).await.ok();
            }
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
                return;
            };
            // A client that does not trust the certificate goes away.
            if let Ok(mut client) = acceptor.accept(client).await {
                copy_bidirectional(&mut client, &mut server).await.ok();
            }
        }
    })
    .await
}

/// The length of PostgreSQL's question for TLS, and a yes.
pub const POSTGRES: (usize, &[u8]) = (8, b"S");
