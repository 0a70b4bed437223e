//! Task type `hostile`: every way of misbehaving that the sandbox must survive, and a few of
//! behaving. For tests only; it is never put into the plugins folder.
//!
//! `{"attack": "endless_loop"}` and the like; see [`Attack`]. What a Rust component cannot do
//! (several memories, growing tables, answers that break the canonical ABI) is written by hand in
//! `wat/`.
//!
//! | file | the concept |
//! |---|---|
//! | [`attack`] | the input: which attack, with which numbers |
//! | [`spend`] | using more than there is: fuel, stack, memory, output, log, host calls |
//! | [`reach`] | asking for what is not there: files, sockets, the environment |
//! | [`keep`] | configuration, and values that outlive an attempt |
//! | [`memory`] | memory that another instance may have used |
//! | [`hold`] | making the host hold memory |
//! | [`raw_http`] | requests in spellings that a polite client would not send |

pub mod attack;
pub mod hold;
pub mod keep;
pub mod memory;
pub mod raw_http;
pub mod reach;
pub mod spend;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use serde_json::json;
use taskforge_sdk::{Failure, Task, http, log, mail, progress, sleep};

use crate::{attack::Attack, spend::Output};

taskforge_sdk::handler!(hostile, capabilities = &["http", "mail", "progress", "keyvalue"]);

/// The handler.
///
/// # Errors
/// What the attack asks for, and what the host answers to it.
pub async fn hostile(attack: Attack, task: Task) -> Result<Output, Failure> {
    Ok(Output::Json(match attack {
        Attack::Ok { value } => json!({ "ok": true, "value": value }),
        Attack::EndlessLoop => spend::endless_loop(),
        Attack::EndlessRecursion => json!({ "depth": spend::endless_recursion() }),
        Attack::GrowMemory => spend::grow_memory(),
        Attack::Allocate { bytes } => json!({ "allocated": spend::allocate(bytes)? }),
        Attack::Busy { rounds } => json!({ "checksum": spend::busy(rounds) }),
        Attack::HugeOutput { bytes } => return Ok(Output::Repeated(bytes)),
        Attack::InvalidJson { text } => return Ok(Output::Verbatim(text)),
        Attack::LogFlood { lines, bytes, to } => spend::log_flood(lines, bytes, to),
        Attack::HostCallFlood { calls } => spend::host_call_flood(calls),
        Attack::Sleep { ms, saying } => {
            if let Some(words) = saying {
                log::info(&words);
            }
            sleep(Duration::from_millis(ms)).await;
            json!({ "slept_ms": ms })
        }
        Attack::Panic { message } => panic_with(&message),
        Attack::Exit { code } => std::process::exit(code),
        Attack::ReadNowhere => reach::nowhere::read(),
        Attack::CallNothing => reach::nowhere::call(),
        Attack::MutateGlobal => json!({ "value": GLOBAL.fetch_add(1, Ordering::Relaxed) + 1 }),
        Attack::Fail { permanent, retry_after_ms, times, message } => {
            fail(&task, permanent, retry_after_ms, times, message)?
        }
        Attack::Cope { mut steps } => {
            let Some(last) = steps.pop() else {
                return Err(Failure::permanent("there are no steps"));
            };
            for step in steps {
                if let Err(failure) = Box::pin(hostile(step, task.clone())).await {
                    log::info(format!("coped with: {failure:?}"));
                }
            }
            return Box::pin(hostile(last, task)).await;
        }
        Attack::EmptyPoll => hold::empty_poll(),
        Attack::LongHeader { bytes } => hold::long_header(bytes),
        Attack::HttpGet(get) => raw_http::get(&get)?,
        Attack::CountRuns { url, ms, fail_times, permanent } => {
            let counted = count_run(&url, &task).await?;
            sleep(Duration::from_millis(ms)).await;
            if permanent || task.attempt <= fail_times {
                fail(&task, permanent, None, None, format!("as attempt {} should", task.attempt))?;
            }
            counted
        }
        Attack::Mail { from, to, cc, bcc, subject, text } => send_mail(&mail::Message {
            from,
            to,
            cc,
            bcc,
            subject,
            text: Some(text),
            ..mail::Message::default()
        })?,
        Attack::TaskInfo => task_info(&task),
        Attack::Chatty => chatty(),
        Attack::Environment => reach::environment(),
        Attack::ReadFile { path } => reach::read_file(&path)?,
        Attack::Connect { address } => reach::connect(&address)?,
        Attack::SlowRequests { url, count } => raw_http::slow(&url, count)?,
        Attack::Config { key } => keep::config(key.as_deref()),
        Attack::KeyValue { bucket, steps } => keep::key_value(&bucket, steps)?,
        Attack::Hold { what, count, bytes, ms } => {
            hold::hold(what, count, bytes, Duration::from_millis(ms))
        }
        Attack::FillMemory { marker, bytes } => memory::fill(marker, bytes),
        Attack::ScanMemory { marker, bytes, after_filling } => {
            memory::scan(marker, bytes, after_filling)
        }
    }))
}

static GLOBAL: AtomicU64 = AtomicU64::new(0);

#[allow(clippy::panic, reason = "that is the attack")]
fn panic_with(message: &str) -> ! {
    panic!("{message}")
}

fn fail(
    task: &Task,
    permanent: bool,
    retry_after_ms: Option<u64>,
    times: Option<u32>,
    message: String,
) -> Result<serde_json::Value, Failure> {
    if times.is_some_and(|times| task.attempt > times) {
        return Ok(json!({ "ok": true, "attempt": task.attempt }));
    }
    Err(match retry_after_ms {
        _ if permanent => Failure::permanent(message),
        Some(ms) => Failure::retry_after(Duration::from_millis(ms), message),
        None => Failure::retryable(message),
    })
}

/// Tells a counter outside that this attempt ran: chaos tests compare that count with the store.
async fn count_run(url: &str, task: &Task) -> Result<serde_json::Value, Failure> {
    let answer = http::get(url)
        .header("x-task-id", &task.id)
        .header("x-attempt", task.attempt.to_string())
        .send()
        .await?
        .error_for_status()?;
    Ok(json!({ "status": answer.status() }))
}

fn send_mail(message: &mail::Message) -> Result<serde_json::Value, Failure> {
    let receipt = mail::send(message)?;
    Ok(json!({ "message_id": receipt.message_id, "accepted": receipt.accepted }))
}

fn task_info(task: &Task) -> serde_json::Value {
    let deadline = task.deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "id": task.id,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "deadline_ms": u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        "time_left_ms": u64::try_from(task.time_left().as_millis()).unwrap_or(u64::MAX),
    })
}

#[allow(clippy::print_stdout, reason = "standard output is a log, and this tests it")]
fn chatty() -> serde_json::Value {
    progress(0.25, "a quarter");
    log::trace("trace");
    log::debug("debug");
    log::info("info");
    log::warn("warn");
    log::error("error");
    log::critical("critical");
    println!("stdout");
    eprintln!("stderr");
    print!("stdout without a line break");
    progress(1.0, "");
    json!({ "ok": true })
}
