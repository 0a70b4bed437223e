//! A mail server that keeps what it is sent.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use mailin::{Action, Handler, Response, Session, SessionBuilder, response};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::{tls, web::Server};

/// What arrived: the envelope and the message.
#[derive(Debug, Clone, Default)]
pub struct Letter {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// The message as it came over the wire.
    pub data: Vec<u8>,
}

/// An SMTP server on loopback. It knows no recipient with `nobody` in the address (550), is not
/// ready for those with `busy` (450), has no room for those with `full` (452), and takes one a
/// message of those with `many` (452) or `horde` (552, as RFC 821 had it).
#[derive(Debug)]
pub struct Postbox {
    server: Server,
    letters: Arc<Mutex<Vec<Letter>>>,
    is_secure: bool,
}

impl Postbox {
    /// Starts one.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    /// Starts one that speaks TLS from the first byte.
    ///
    /// # Panics
    /// As [`Postbox::start`].
    pub async fn start_secure() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(is_secure: bool) -> Self {
        let letters = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&letters);
        let server = Server::on_connection(move |stream| {
            let desk = Desk { current: Letter::default(), letters: Arc::clone(&kept) };
            // Built before the first await: a session is not `Sync`, but it may move between
            // threads.
            let session =
                SessionBuilder::new("mail.example.com").build(IpAddr::from([127, 0, 0, 1]), desk);
            async move {
                // A client that goes away is not the server's concern.
                if !is_secure {
                    converse(stream, session).await.ok();
                } else if let Ok(stream) = tls::acceptor(&[]).accept(stream).await {
                    converse(stream, session).await.ok();
                }
            }
        })
        .await;
        Self { server, letters, is_secure }
    }

    /// The server as a mailer's URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "smtps" } else { "smtp" };
        format!("{scheme}://{}", self.server.address())
    }

    /// What arrived so far.
    ///
    /// # Panics
    /// When a session panicked.
    #[must_use]
    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut session: Session<Desk>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(&session.greeting().buffer()?).await?;
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? > 0 {
        let response = session.process(&line);
        line.clear();
        if response.action != Action::NoReply {
            stream.write_all(&response.buffer()?).await?;
        }
        if response.action == Action::Close {
            break;
        }
    }
    Ok(())
}

/// One session's half-written letter.
struct Desk {
    current: Letter,
    letters: Arc<Mutex<Vec<Letter>>>,
}

impl Handler for Desk {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        self.current = Letter { from: from.to_owned(), ..Letter::default() };
        response::OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if to.contains("nobody") {
            return response::NO_MAILBOX;
        }
        if to.contains("busy") {
            return Response::custom(450, "mailbox busy".to_owned());
        }
        if to.contains("full") {
            return Response::custom(452, "mailbox full".to_owned());
        }
        for (name, code) in [("many", 452), ("horde", 552)] {
            if to.contains(name) && self.current.to.iter().any(|other| other.contains(name)) {
                return Response::custom(code, "too many recipients".to_owned());
            }
        }
        self.current.to.push(to.to_owned());
        response::OK
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.current.data.extend_from_slice(bytes);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.letters.lock().unwrap().push(std::mem::take(&mut self.current));
        response::OK
    }
}
