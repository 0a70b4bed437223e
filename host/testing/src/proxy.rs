//! A TCP proxy that can break connections.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// Passes connections on to a server, until it is cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<watch::Sender<Wire>>,
    stranded: Arc<watch::Sender<()>>,
    accepting: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    /// Nothing is passed on, and nobody is told: what a broken network looks like.
    Cut,
}

impl Proxy {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// When that is not possible.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(watch::Sender::new(Wire::Whole));
        let stranded = Arc::new(watch::Sender::new(()));
        let (state, strand) = (wire.clone(), stranded.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, state.subscribe(), strand.subscribe()));
            }
        });
        Self { address, wire, stranded, accepting: accepting.abort_handle() }
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets no byte through from now on. Connections stay open and silent; new ones are accepted
    /// and silent too.
    pub fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Lets new connections through again. Those from before the cut break.
    pub fn mend(&self) {
        self.wire.send_replace(Wire::Whole);
    }

    /// Lets no byte of the connections that are open now through any more. They stay open and
    /// silent; new ones work.
    pub fn strand(&self) {
        self.stranded.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    target: u16,
    mut wire: watch::Receiver<Wire>,
    mut stranded: watch::Receiver<()>,
) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let mut is_stranded = false;
    let is_cut = tokio::select! {
        biased;
        _ = wire.wait_for(|wire| *wire == Wire::Cut) => true,
        Ok(()) = stranded.changed() => {
            is_stranded = true;
            false
        }
        _ended = copy_bidirectional(&mut client, &mut server) => false,
    };
    if is_stranded {
        std::future::pending::<()>().await;
    }
    if is_cut {
        // Both sockets are held, silent, until the wire is whole; the proxy's end counts as that.
        let _whole = wire.wait_for(|wire| *wire == Wire::Whole).await;
    }
}
