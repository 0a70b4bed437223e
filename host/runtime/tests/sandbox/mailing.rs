//! Mail, through the capability and into both mailers.

use std::{fs, sync::Arc};

use mail_parser::MessageParser;
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{MailErrorKind, MailMessage, Mailer, RuntimeConfig, SmtpMailer};
use taskforge_testing::smtp::Postbox;

use crate::bed::{Bed, config, log};

fn mail(to: &str, subject: &str) -> Value {
    json!({"attack": "mail", "to": [to], "subject": subject, "text": "Grüße,\nTask"})
}

#[tokio::test]
async fn mail_needs_its_grant() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let invoked = bed
        .fails_as(
            FailureKind::CapabilityDenied,
            &plugin,
            mail("a@example.com", "Hi"),
        )
        .await;
    assert!(
        log(&invoked).contains("grant it with `mail = true`"),
        "{}",
        log(&invoked)
    );
    assert_eq!(fs::read_dir(bed.outbox.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn recipients_may_be_limited_to_domains() {
    let bed = Bed::new().await;
    let grant = json!({"grants": {"mail": {"recipients": ["example.com", "*.example.org"]}}});
    let plugin = bed.hostile(grant).await;
    for allowed in ["ann@example.com", "Ann <ann@EXAMPLE.com>", "bob@mail.example.org"] {
        bed.completes(&plugin, mail(allowed, "Hi")).await;
    }
    let letters = fs::read_dir(bed.outbox.path()).unwrap().count();
    for (refused, domain) in [
        ("ann@evil.test", "evil.test"),
        ("\"ann@example.com\" <ann@evil.test>", "evil.test"),
        ("ann@example.com.evil.test", "example.com.evil.test"),
        ("bob@example.org", "example.org"),
    ] {
        let invoked = bed
            .fails_as(FailureKind::CapabilityDenied, &plugin, mail(refused, "Hi"))
            .await;
        let wanted = format!("grant it with `mail.recipients = [\"{domain}\"]`");
        assert!(log(&invoked).contains(&wanted), "{refused}: {}", log(&invoked));
    }
    for copies in ["cc", "bcc"] {
        let mut input = mail("ann@example.com", "Hi");
        input[copies] = json!(["ann@example.com", "eve@evil.test"]);
        bed.fails_as(FailureKind::CapabilityDenied, &plugin, input).await;
    }
    for unreadable in ["ann@example.com, eve@evil.test", "\"ann@example.com\"@evil.test"] {
        bed.fails_as(FailureKind::Permanent, &plugin, mail(unreadable, "Hi"))
            .await;
    }
    assert_eq!(fs::read_dir(bed.outbox.path()).unwrap().count(), letters);
}

#[tokio::test]
async fn senders_may_be_limited_to_domains() {
    let bed = Bed::new().await;
    let plugin = bed
        .hostile(json!({"grants": {"mail": {"senders": ["shop.test"]}}}))
        .await;
    let from = |sender: Option<&str>| {
        let mut input = mail("ann@anywhere.test", "Hi");
        input["from"] = json!(sender);
        input
    };
    // The host's own sender is always allowed.
    bed.completes(&plugin, from(None)).await;
    bed.completes(&plugin, from(Some("Shop <orders@shop.test>")))
        .await;
    let invoked = bed
        .fails_as(
            FailureKind::CapabilityDenied,
            &plugin,
            from(Some("boss@bank.test")),
        )
        .await;
    assert!(
        log(&invoked).contains("grant it with `mail.senders = [\"bank.test\"]`"),
        "{}",
        log(&invoked)
    );
}

#[tokio::test]
async fn the_outbox_gets_a_valid_message_and_the_log_shows_it() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"grants": {"mail": true}})).await;
    let (receipt, invoked) = bed
        .completes(&plugin, mail("Ann <ann@example.com>", "Größe: 5"))
        .await;
    assert_eq!(receipt["accepted"], json!(["ann@example.com"]));
    let id = receipt["message_id"].as_str().unwrap().trim_matches(['<', '>']);
    let eml = fs::read(bed.outbox.path().join(format!("{id}.eml"))).unwrap();

    let parsed = MessageParser::default().parse(&eml).unwrap();
    assert_eq!(parsed.subject(), Some("Größe: 5"));
    assert_eq!(parsed.message_id(), Some(id));
    assert_eq!(
        parsed.from().unwrap().first().unwrap().address(),
        Some("noreply@example.com")
    );
    assert_eq!(parsed.to().unwrap().first().unwrap().name(), Some("Ann"));
    assert_eq!(
        parsed.body_text(0).unwrap().replace("\r\n", "\n").trim_end(),
        "Grüße,\nTask"
    );
    assert!(parsed.date().is_some());
    let log = log(&invoked);
    assert!(
        log.contains("ann@example.com") && log.contains("Größe: 5") && log.contains("| Grüße,"),
        "{log}"
    );
}

fn letters(bed: &Bed) -> usize {
    fs::read_dir(bed.outbox.path()).map_or(0, Iterator::count)
}

#[tokio::test]
async fn an_attempt_has_a_limit_of_messages_and_bytes() {
    let bed = Bed::new().await;
    let with = |limits: Value| json!({"grants": {"mail": true}, "limits": limits});
    // Each recipient counts as a message.
    let plugin = bed.hostile(with(json!({"mails": 2}))).await;
    let mut input = mail("ann@example.com", "Hi");
    input["cc"] = json!(["bob@example.com"]);
    bed.completes(&plugin, input.clone()).await;
    assert_eq!(letters(&bed), 1);
    input["bcc"] = json!(["eve@example.com"]);
    let invoked = bed.fails_as(FailureKind::HostCallLimit, &plugin, input).await;
    assert!(
        log(&invoked).contains("an attempt may send 2 messages"),
        "{}",
        log(&invoked)
    );

    let plugin = bed.hostile(with(json!({"mail_bytes": 1000}))).await;
    let long = mail("ann@example.com", &"x".repeat(1000));
    let invoked = bed.fails_as(FailureKind::HostCallLimit, &plugin, long).await;
    assert!(log(&invoked).contains("and 1000 bytes"), "{}", log(&invoked));
    assert_eq!(letters(&bed), 1);
}

#[tokio::test]
async fn all_attempts_of_a_version_have_a_limit_for_each_hour() {
    let bed = Bed::new().await;
    let with = json!({"grants": {"mail": true}, "limits": {"mails_per_hour": 5}});
    let plugin = bed.hostile(with).await;
    let (mut sent, mut refused) = (0, Vec::new());
    for number in 0..12 {
        let invoked = bed
            .run(&plugin, mail("ann@example.com", &format!("No. {number}")))
            .await;
        match &invoked.outcome {
            Outcome::Completed(_) => sent += 1,
            Outcome::Failed(failure) => {
                // Worth another attempt, later.
                assert_eq!(failure.kind, FailureKind::Retryable, "{failure}");
                refused.push(log(&invoked));
            }
        }
    }
    // Twice as many, if the clock's hour went by meanwhile.
    assert!(sent == 5 || sent == 10, "{sent} were sent");
    assert_eq!((letters(&bed), refused.len()), (sent, 12 - sent));
    assert!(
        refused
            .iter()
            .all(|log| log.contains("together may send 5 messages")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_header_cannot_be_injected() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"grants": {"mail": true}})).await;
    for input in [
        mail("a@example.com", "Hi\r\nBcc: evil@example.com"),
        mail("a@example.com\r\nBcc: evil@example.com", "Hi"),
        mail("not an address", "Hi"),
    ] {
        bed.fails_as(FailureKind::Permanent, &plugin, input).await;
    }
    assert_eq!(fs::read_dir(bed.outbox.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_smtp_server_gets_the_message_and_its_refusals_come_back() {
    let postbox = Postbox::start().await;
    let outbox = tempfile::tempdir().unwrap();
    let mailer = SmtpMailer::new(&postbox.url(), "TaskForge <noreply@example.com>").unwrap();
    let bed = Bed::with(
        RuntimeConfig {
            mailer: Arc::new(mailer),
            ..config(&outbox)
        },
        outbox,
    )
    .await;
    let plugin = bed.hostile(json!({"grants": {"mail": true}})).await;

    let (receipt, _) = bed.completes(&plugin, mail("ann@example.com", "Hello")).await;
    {
        let letters = postbox.letters();
        let [letter] = letters.as_slice() else {
            panic!("{letters:?}")
        };
        assert_eq!(letter.from, "noreply@example.com");
        assert_eq!(letter.to, ["ann@example.com"]);
        let parsed = MessageParser::default().parse(&letter.data).unwrap();
        assert_eq!(
            format!("<{}>", parsed.message_id().unwrap()),
            receipt["message_id"].as_str().unwrap()
        );
        assert_eq!(parsed.subject(), Some("Hello"));
    }
    bed.fails_as(
        FailureKind::Permanent,
        &plugin,
        mail("nobody@example.com", "Hello"),
    )
    .await;
    bed.fails_as(FailureKind::Retryable, &plugin, mail("busy@example.com", "Hello"))
        .await;
    assert_eq!(postbox.letters().len(), 1);
}

#[tokio::test]
async fn blind_copies_reach_the_envelope_and_not_the_message() {
    let postbox = Postbox::start().await;
    let mailer = SmtpMailer::new(&postbox.url(), "noreply@example.com").unwrap();
    let message = MailMessage {
        to: vec!["ann@example.com".to_owned()],
        bcc: vec!["bob@example.com".to_owned()],
        subject: "Hi".to_owned(),
        text: Some("text".to_owned()),
        html: Some("<p>text</p>".to_owned()),
        ..MailMessage::default()
    };
    let receipt = mailer.send(message).await.unwrap();
    assert_eq!(receipt.accepted, ["ann@example.com", "bob@example.com"]);
    let letters = postbox.letters();
    assert_eq!(letters[0].to, ["ann@example.com", "bob@example.com"]);
    assert!(!String::from_utf8_lossy(&letters[0].data).contains("bob"));
    let parsed = MessageParser::default().parse(&letters[0].data).unwrap();
    assert!(parsed.body_html(0).unwrap().contains("<p>text</p>"));
    assert_eq!((parsed.text_body_count(), parsed.html_body_count()), (1, 1));
}

#[tokio::test]
async fn a_mail_server_that_is_not_there_may_be_tried_again() {
    let closed = taskforge_testing::web::closed_port().await;
    let mailer = SmtpMailer::new(&format!("smtp://{closed}"), "noreply@example.com").unwrap();
    let message = MailMessage {
        to: vec!["ann@example.com".to_owned()],
        text: Some("text".to_owned()),
        ..MailMessage::default()
    };
    assert_eq!(
        mailer.send(message).await.unwrap_err().kind,
        MailErrorKind::Unavailable
    );
}

#[tokio::test]
async fn a_mailer_is_checked_when_it_is_made() {
    assert!(SmtpMailer::new("http://example.com", "noreply@example.com").is_err());
    let error = SmtpMailer::new("smtp://user:hunter2@", "noreply").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
