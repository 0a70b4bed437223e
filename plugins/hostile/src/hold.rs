//! Making the host hold memory that is none of the guest's own.

use std::time::Duration;

use serde_json::{Value, json};

use crate::attack::Hold;

/// Makes `count` of a kind, waits, and says how many the host took.
#[cfg(target_family = "wasm")]
#[must_use]
pub fn hold(what: Hold, count: usize, bytes: usize, time: Duration) -> Value {
    let taken = kind::take(what, count, &"x".repeat(bytes));
    std::thread::sleep(time);
    let held = taken.iter().filter(|taken| taken.is_some()).count();
    json!({ "held": held, "refused": count - held })
}

/// There is no host.
#[cfg(not(target_family = "wasm"))]
#[must_use]
pub fn hold(_: Hold, count: usize, _: usize, _: Duration) -> Value {
    json!({ "held": 0, "refused": count })
}

/// Polls an empty list.
#[must_use]
pub fn empty_poll() -> Value {
    #[cfg(target_family = "wasm")]
    wasip2::io::poll::poll(&[]);
    json!({})
}

/// Puts a long value into a header map.
#[must_use]
pub fn long_header(bytes: usize) -> Value {
    #[cfg(target_family = "wasm")]
    let appended = wasip2::http::types::Fields::new().append("x", &vec![b'x'; bytes]).is_ok();
    #[cfg(not(target_family = "wasm"))]
    let appended = bytes == 0;
    json!({ "appended": appended })
}

#[cfg(target_family = "wasm")]
mod kind {
    use std::any::Any;

    use wasip2::{
        cli::stdout,
        clocks::monotonic_clock,
        http::types::{Fields, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme},
    };

    use super::Hold;

    /// What stays alive for as long as it is kept. `None`: the host refused it.
    type Taken = Option<Box<dyn Any>>;

    pub(super) fn take(what: Hold, count: usize, text: &str) -> Vec<Taken> {
        (0..count).map(|_| one(what, text)).collect()
    }

    fn one(what: Hold, text: &str) -> Taken {
        let request = || OutgoingRequest::new(Fields::new());
        match what {
            Hold::Authorities => set(|request| request.set_authority(Some(text))),
            Hold::Methods => set(|request| request.set_method(&Method::Other(text.to_owned()))),
            Hold::Paths => set(|request| request.set_path_with_query(Some(&format!("/{text}")))),
            Hold::Schemes => {
                set(|request| request.set_scheme(Some(&Scheme::Other(text.to_owned()))))
            }
            Hold::Bodies => body(text),
            Hold::AbortedBodies => {
                let request = request();
                drop(request.body().ok()?);
                Some(Box::new(request))
            }
            Hold::Trailers => {
                let request = request();
                let trailers = Fields::new();
                trailers.append("x", text.as_bytes()).ok()?;
                OutgoingBody::finish(request.body().ok()?, Some(trailers)).ok()?;
                Some(Box::new(request))
            }
            Hold::Fields => {
                let fields = Fields::new();
                fields.append("x", text.as_bytes()).ok()?;
                Some(Box::new(fields))
            }
            Hold::SmallFields => {
                let values = vec![Vec::new(); 1500];
                let fields = Fields::new();
                fields.set("x", &values).ok()?;
                Some(Box::new(fields))
            }
            Hold::Headers => {
                let fields = Fields::new();
                fields.append("x", text.as_bytes()).ok()?;
                let request = OutgoingRequest::new(fields);
                let headers = request.headers();
                Some(Box::new((headers, request)))
            }
            Hold::Timers => Some(Box::new(monotonic_clock::subscribe_duration(u64::MAX >> 2))),
            Hold::Streams => Some(Box::new(stdout::get_stdout())),
            Hold::Options => Some(Box::new(RequestOptions::new())),
        }
    }

    fn set(set: impl FnOnce(&OutgoingRequest) -> Result<(), ()>) -> Taken {
        let request = OutgoingRequest::new(Fields::new());
        set(&request).ok()?;
        Some(Box::new(request))
    }

    /// Writes what the stream takes, in chunks of the text, and leaves it there.
    fn body(text: &str) -> Taken {
        let request = OutgoingRequest::new(Fields::new());
        let body = request.body().ok()?;
        let stream = body.write().ok()?;
        loop {
            let room = usize::try_from(stream.check_write().ok()?).unwrap_or(usize::MAX);
            if room == 0 {
                break;
            }
            stream.write(&text.as_bytes()[..room.min(text.len())]).ok()?;
        }
        Some(Box::new((stream, body, request)))
    }
}
