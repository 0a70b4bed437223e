//! A careless WASI web server: what it forgets is said by the input, `{"forget": "answer"}` and the
//! like.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, reason = "the expansion of `export!` crosses the canonical ABI")]

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{
        ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
    },
};

struct Careless;

wasip2::http::proxy::export!(Careless with_types_in wasip2);

impl Guest for Careless {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match read(&request).as_str() {
            // To answer at all.
            r#"{"forget":"answer"}"# => {}
            // That it was to answer with a response.
            r#"{"forget":"response"}"# => {
                ResponseOutparam::set(
                    out,
                    Err(ErrorCode::InternalError(Some("no idea".to_owned()))),
                );
            }
            // To end the body.
            r#"{"forget":"end"}"# => std::mem::forget(begin(out, b"1")),
            // When to stop: the body never ends.
            r#"{"forget":"limit"}"# => {
                let body = respond(out);
                if let Ok(stream) = body.write() {
                    while stream.blocking_write_and_flush(&[b' '; 4096]).is_ok() {}
                }
            }
            // To return.
            r#"{"forget":"return"}"# => {
                end(begin(out, b"1"));
                loop {
                    std::hint::spin_loop();
                }
            }
            // Nothing, and has something left to do after the answer.
            _ => {
                end(begin(out, b"1"));
                eprintln!("after the answer");
            }
        }
    }
}

fn read(request: &IncomingRequest) -> String {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume()
        && let Ok(stream) = body.stream()
    {
        while let Ok(mut chunk) = stream.blocking_read(4096) {
            bytes.append(&mut chunk);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers 200 with the beginning of a body.
fn begin(out: ResponseOutparam, text: &[u8]) -> OutgoingBody {
    let body = respond(out);
    if let Ok(stream) = body.write() {
        stream.blocking_write_and_flush(text).ok();
    }
    body
}

fn respond(out: ResponseOutparam) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body();
    ResponseOutparam::set(out, Ok(response));
    body.unwrap_or_else(|()| std::process::abort())
}

fn end(body: OutgoingBody) {
    OutgoingBody::finish(body, None).ok();
}
