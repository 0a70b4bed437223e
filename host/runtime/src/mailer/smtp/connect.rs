//! From a mailer's URL to a connection that is ready for messages.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use lettre::transport::smtp::{
    Error, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, CertificateStore, TlsParameters},
    extension::ClientId,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use url::Url;

use super::{Failed, TIMEOUT, step};
use crate::{authorities::Authorities, mailer::MailError};

/// Replies of a server that does not know EHLO (RFC 5321, 3.2).
const UNKNOWN_COMMAND: std::ops::RangeInclusive<u16> = 500..=504;

/// When a connection begins to be encrypted.
enum Tls {
    Never,
    IfOffered(TlsParameters),
    Required(TlsParameters),
    AtOnce(TlsParameters),
}

/// Where messages go, and how.
pub(super) struct Server {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    name: ClientId,
}

impl Server {
    /// See [`SmtpMailer::new`](super::SmtpMailer::new). No error repeats the URL, which may contain
    /// a password.
    pub(super) fn from_url(url: &str, authorities: &Authorities) -> Result<Self, MailError> {
        let invalid = |why: &str| MailError::invalid(format!("the SMTP URL cannot be used: {why}"));
        let url = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| invalid("it has no host"))?;
        // Addresses of version 6 stand in brackets there, and without them everywhere else.
        let host = host.trim_matches(['[', ']']).to_owned();
        let asked = url.query_pairs().find(|(name, _)| name == "tls");
        let parameters = || {
            parameters(&host, authorities)
                .map_err(|error| invalid(&format!("TLS cannot be set up: {error}")))
        };
        let (tls, port) = match (url.scheme(), asked.as_ref().map(|(_, value)| &**value)) {
            ("smtp", None) => (Tls::Never, SMTP_PORT),
            ("smtp", Some("required")) => (Tls::Required(parameters()?), SUBMISSION_PORT),
            ("smtp", Some("opportunistic")) => (Tls::IfOffered(parameters()?), SUBMISSION_PORT),
            ("smtps", _) => (Tls::AtOnce(parameters()?), SUBMISSIONS_PORT),
            ("smtp", Some(_)) => return Err(invalid("tls is `required` or `opportunistic`")),
            _ => return Err(invalid("the scheme is smtp or smtps")),
        };
        // A path is the name that we greet with.
        let name = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        let decoded = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| invalid("user or password is not UTF-8"))
        };
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(decoded(url.username())?, decoded(password)?)),
            None => None,
        };
        Ok(Self { port: url.port().unwrap_or(port), host, tls, credentials, name })
    }

    /// A connection, encrypted and authenticated as configured.
    pub(super) async fn connect(&self) -> Result<AsyncSmtpConnection, Failed> {
        let mut connection = match step(self.greeted()).await {
            Err(failed)
                if failed.code().is_some_and(|code| UNKNOWN_COMMAND.contains(&code))
                    && !matches!(self.tls, Tls::AtOnce(_)) =>
            {
                step(self.greeted_with_helo()).await?
            }
            other => other?,
        };
        match &self.tls {
            Tls::Required(parameters) => {
                step(connection.starttls(parameters.clone(), &self.name)).await?;
            }
            Tls::IfOffered(parameters) if connection.can_starttls() => {
                step(connection.starttls(parameters.clone(), &self.name)).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            step(connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }

    async fn greeted(&self) -> Result<AsyncSmtpConnection, Error> {
        let tls = match &self.tls {
            Tls::AtOnce(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let server = (self.host.as_str(), self.port);
        AsyncSmtpConnection::connect_tokio1(server, Some(TIMEOUT), &self.name, tls, None).await
    }

    /// Falls back to HELO, as clients do (RFC 5321, 2.2.1 and 3.2). The library knows only EHLO,
    /// and accepts an answer to it without extensions. Not over `smtps`, which is younger than
    /// EHLO.
    async fn greeted_with_helo(&self) -> Result<AsyncSmtpConnection, Error> {
        let stream = match TcpStream::connect((self.host.as_str(), self.port)).await {
            Ok(stream) => stream,
            // Its own errors cannot be made; it fails in the same way itself.
            Err(_) => return self.greeted().await,
        };
        let stream = Box::new(Helo { stream, written: 0 });
        AsyncSmtpConnection::connect_with_transport(stream, &self.name).await
    }
}

/// How the server's certificate is checked.
fn parameters(host: &str, authorities: &Authorities) -> Result<TlsParameters, Error> {
    let mut parameters =
        TlsParameters::builder(host.to_owned()).certificate_store(match authorities.is_public() {
            true => CertificateStore::WebpkiRoots,
            false => CertificateStore::None,
        });
    for certificate in authorities.own() {
        parameters = parameters.add_root_certificate(Certificate::from_der(certificate.to_vec())?);
    }
    parameters.build()
}

/// A stream whose first command, EHLO, goes out as HELO.
#[derive(Debug)]
struct Helo {
    stream: TcpStream,
    written: usize,
}

impl AsyncTokioStream for Helo {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for Helo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Helo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let command = b"HELO".get(self.written..).unwrap_or_default();
        let replaced = command.len().min(buffer.len());
        let bytes = match replaced {
            0 => buffer,
            _ => &[&command[..replaced], &buffer[replaced..]].concat(),
        };
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.written += written.as_ref().copied().unwrap_or_default();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
