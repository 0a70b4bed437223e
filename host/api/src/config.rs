//! The limits of the API.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::ApiKey;

/// Where to listen, and what one client may take.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Address and port. Port 0 lets the system choose. Default `127.0.0.1:8000`.
    pub listen: SocketAddr,
    /// What clients must present. Without one everybody who reaches the address may do everything,
    /// so [`crate::bind`] then takes loopback addresses only. Default none.
    pub key: Option<ApiKey>,
    /// Bytes of a request body. Default 8 MiB: a batch of 10,000 tasks of 800 bytes each.
    pub body_limit: usize,
    /// Bytes of a component that is pushed. Default 64 MiB. What comes with it in a form has 1 MiB
    /// a part.
    pub component_limit: usize,
    /// Bytes of a request's start line and headers together. Default 32 KiB: filters name up to 100
    /// ids, groups and types each.
    pub header_limit: usize,
    /// Number of a request's headers. Default 100.
    pub max_headers: usize,
    /// From the moment a connection is open or its last answer sent, until the next request's
    /// headers have arrived. So it also ends idle connections. Default 15 s.
    pub header_timeout: Duration,
    /// From the moment a connection is open until its first byte. Default 5 s.
    pub first_byte_timeout: Duration,
    /// For a request's whole body, so that a byte a second does not hold a connection for hours.
    /// Default 30 s.
    pub body_timeout: Duration,
    /// Bytes a second that a body must bring on average, after [`ApiConfig::body_grace`]. Default
    /// 16 KiB: a body that comes more slowly holds memory and permits that others wait for.
    pub body_rate: u32,
    /// For a body to begin before its rate counts. Default 5 s.
    pub body_grace: Duration,
    /// For a whole component that is pushed. Default 2 min.
    pub component_timeout: Duration,
    /// For a whole answer to be taken by the client. Default 30 s.
    pub write_timeout: Duration,
    /// For a handler to answer, without the time that a client asked to wait. A store that hangs
    /// must not hang its clients. Default 60 s.
    pub handler_timeout: Duration,
    /// Connections open at once. When there are as many, one that waits for its client gives way to
    /// a new one; if none does, the new one may ask for `/healthz` and `/readyz`, on one of 32
    /// connections more, and for nothing else. Default 1024.
    pub max_connections: usize,
    /// How many of them one address may have; for IPv6 one network of 64 bits. Behind a proxy it is
    /// the proxy's address, which then needs as many as all its clients together. Default 512.
    pub max_connections_per_address: usize,
    /// After a shutdown was asked for: how long running requests may take to end. Default 10 s.
    pub shutdown_grace: Duration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            key: None,
            body_limit: 8 << 20,
            component_limit: 64 << 20,
            header_limit: 32 << 10,
            max_headers: 100,
            header_timeout: Duration::from_secs(15),
            first_byte_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            body_rate: 16 << 10,
            body_grace: Duration::from_secs(5),
            component_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            handler_timeout: Duration::from_secs(60),
            max_connections: 1024,
            max_connections_per_address: 512,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
