//! Mail, through the capability and into both mailers.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use mail_parser::MessageParser;
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{MailErrorKind, MailMessage, Mailer, RuntimeConfig, SmtpMailer};
use taskforge_testing::{smtp::Postbox, web::Server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::bed::{Bed, config, log};

fn mail(to: &str, subject: &str) -> Value {
    json!({"attack": "mail", "to": [to], "subject": subject, "text": "Grüße,\nTask"})
}

#[tokio::test]
async fn mail_needs_its_grant() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let invoked =
        bed.fails_as(FailureKind::CapabilityDenied, &plugin, mail("a@example.com", "Hi")).await;
    assert!(log(&invoked).contains("grant it with `mail = true`"), "{}", log(&invoked));
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
        ("\"ann@example.com\"@evil.test", "evil.test"),
    ] {
        let invoked =
            bed.fails_as(FailureKind::CapabilityDenied, &plugin, mail(refused, "Hi")).await;
        let expected = format!("grant it with `mail.recipients = [\"{domain}\"]`");
        assert!(log(&invoked).contains(&expected), "{refused}: {}", log(&invoked));
    }
    for copies in ["cc", "bcc"] {
        let mut input = mail("ann@example.com", "Hi");
        input[copies] = json!(["ann@example.com", "eve@evil.test"]);
        bed.fails_as(FailureKind::CapabilityDenied, &plugin, input).await;
    }
    let two = mail("ann@example.com, eve@evil.test", "Hi");
    bed.fails_as(FailureKind::Permanent, &plugin, two).await;
    assert_eq!(fs::read_dir(bed.outbox.path()).unwrap().count(), letters);
}

#[tokio::test]
async fn senders_may_be_limited_to_domains() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"grants": {"mail": {"senders": ["shop.test"]}}})).await;
    let from = |sender: Option<&str>| {
        let mut input = mail("ann@anywhere.test", "Hi");
        input["from"] = json!(sender);
        input
    };
    // The host's own sender is always allowed.
    bed.completes(&plugin, from(None)).await;
    bed.completes(&plugin, from(Some("Shop <orders@shop.test>"))).await;
    let invoked =
        bed.fails_as(FailureKind::CapabilityDenied, &plugin, from(Some("boss@bank.test"))).await;
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
    let (receipt, invoked) =
        bed.completes(&plugin, mail("Ann <ann@example.com>", "Größe: 5")).await;
    assert_eq!(receipt["accepted"], json!(["ann@example.com"]));
    let id = receipt["message_id"].as_str().unwrap().trim_matches(['<', '>']);
    let eml = fs::read(bed.outbox.path().join(format!("{id}.eml"))).unwrap();

    let parsed = MessageParser::default().parse(&eml).unwrap();
    assert_eq!(parsed.subject(), Some("Größe: 5"));
    assert_eq!(parsed.message_id(), Some(id));
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("noreply@example.com"));
    assert_eq!(parsed.to().unwrap().first().unwrap().name(), Some("Ann"));
    assert_eq!(parsed.body_text(0).unwrap().replace("\r\n", "\n").trim_end(), "Grüße,\nTask");
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
    assert!(log(&invoked).contains("an attempt may send 2 messages"), "{}", log(&invoked));

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
        let invoked = bed.run(&plugin, mail("ann@example.com", &format!("No. {number}"))).await;
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
    assert!(refused.iter().all(|log| log.contains("together may send 5 messages")), "{refused:?}");
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
    let bed =
        Bed::with(RuntimeConfig { mailer: Arc::new(mailer), ..config(&outbox) }, outbox).await;
    let plugin = bed.hostile(json!({"grants": {"mail": true}})).await;

    let (receipt, _) = bed.completes(&plugin, mail("ann@example.com", "Hello")).await;
    {
        let letters = postbox.letters();
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!(letter.from, "noreply@example.com");
        assert_eq!(letter.to, ["ann@example.com"]);
        let parsed = MessageParser::default().parse(&letter.data).unwrap();
        assert_eq!(
            format!("<{}>", parsed.message_id().unwrap()),
            receipt["message_id"].as_str().unwrap()
        );
        assert_eq!(parsed.subject(), Some("Hello"));
    }
    bed.fails_as(FailureKind::Permanent, &plugin, mail("nobody@example.com", "Hello")).await;
    bed.fails_as(FailureKind::Retryable, &plugin, mail("busy@example.com", "Hello")).await;
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
    assert_eq!(mailer.send(message).await.unwrap_err().kind, MailErrorKind::Unavailable);
}

#[tokio::test]
async fn a_mailer_is_checked_when_it_is_made() {
    assert!(SmtpMailer::new("http://example.com", "noreply@example.com").is_err());
    let error = SmtpMailer::new("smtp://user:hunter2@", "noreply").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

fn to(recipients: &[&str]) -> MailMessage {
    MailMessage {
        to: recipients.iter().map(|&recipient| recipient.to_owned()).collect(),
        subject: "Hi".to_owned(),
        text: Some("text".to_owned()),
        ..MailMessage::default()
    }
}

#[tokio::test]
async fn a_refused_recipient_takes_nothing_from_the_others() {
    let postbox = Postbox::start().await;
    let mailer = SmtpMailer::new(&postbox.url(), "noreply@example.com").unwrap();
    let message =
        to(&["good1@example.com", "nobody@example.com", "good2@example.com", "busy@example.com"]);
    let receipt = mailer.send(message).await.unwrap();
    assert_eq!(receipt.accepted, ["good1@example.com", "good2@example.com"]);
    let refused: Vec<_> =
        receipt.refused.iter().map(|refusal| (refusal.address.as_str(), refusal.code)).collect();
    assert_eq!(refused, [("nobody@example.com", 550), ("busy@example.com", 450)]);
    assert!(receipt.refused[1].message.contains("mailbox busy"), "{receipt:?}");
    assert_eq!(postbox.letters()[0].to, receipt.accepted);

    // All refused: for good only if for all. The connection serves on.
    for (all, kind) in [
        (&["nobody@example.com", "nobody2@example.com"], MailErrorKind::Rejected),
        (&["nobody@example.com", "busy@example.com"], MailErrorKind::Unavailable),
    ] {
        let error = mailer.send(to(all)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains("nobody@example.com (550"), "{error}");
    }
    mailer.send(to(&["ann@example.com"])).await.unwrap();
    assert_eq!(postbox.letters().len(), 2);
}

#[tokio::test]
async fn recipients_who_are_too_many_for_one_message_get_another() {
    let postbox = Postbox::start().await;
    let mailer = SmtpMailer::new(&postbox.url(), "noreply@example.com").unwrap();
    let all = [
        "many1@example.com",
        "horde1@example.com",
        "many2@example.com",
        "full@example.com",
        "nobody@example.com",
        "horde2@example.com",
        "many3@example.com",
    ];
    let receipt = mailer.send(to(&all)).await.unwrap();
    let letters = postbox.letters();
    let envelopes: Vec<_> = letters.iter().map(|letter| letter.to.join(" ")).collect();
    assert_eq!(
        envelopes,
        [
            "many1@example.com horde1@example.com",
            "many2@example.com horde2@example.com",
            "many3@example.com",
        ]
    );
    assert!(letters.iter().all(|letter| letter.data == letters[0].data));
    assert_eq!(receipt.accepted, [all[0], all[1], all[2], all[5], all[6]], "{receipt:?}");
    let refused: Vec<_> =
        receipt.refused.iter().map(|refusal| (refusal.address.as_str(), refusal.code)).collect();
    assert_eq!(refused, [("nobody@example.com", 550), ("full@example.com", 452)]);
    // Nobody is left over for whom it could be sent again.
    let error = mailer.send(to(&["full@example.com"])).await.unwrap_err();
    assert_eq!(error.kind, MailErrorKind::Unavailable, "{error}");
    mailer.send(to(&["ann@example.com"])).await.unwrap();
    assert_eq!(postbox.letters().len(), 4);
}

#[tokio::test]
async fn a_recipient_who_is_named_twice_gets_one_letter() {
    let postbox = Postbox::start().await;
    let mailer = SmtpMailer::new(&postbox.url(), "noreply@example.com").unwrap();
    let mut message = to(&["ann@example.com", "Ann <ann@EXAMPLE.com>", "user@bücher.example"]);
    message.bcc = vec!["ann@example.com".to_owned()];
    let receipt = mailer.send(message).await.unwrap();
    assert_eq!(receipt.accepted, ["ann@example.com", "user@xn--bcher-kva.example"]);
    assert_eq!(postbox.letters()[0].to, receipt.accepted);
    assert!(postbox.letters()[0].data.is_ascii());
}

/// A mail server that answers each command as it is told, and keeps what it heard.
async fn scripted(
    answer: impl Fn(&str) -> &'static str + Copy + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let server = Server::on_connection(move |stream| {
        let sink = Arc::clone(&sink);
        async move {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 mail.example.com\r\n").await.ok();
            let (mut line, mut in_data) = (String::new(), false);
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let command = line.trim_end().to_owned();
                line.clear();
                sink.lock().unwrap().push(command.clone());
                let reply = match (in_data, command.as_str()) {
                    (true, ".") => "250 taken\r\n",
                    (true, _) => continue,
                    (false, "DATA") => "354 go on\r\n",
                    (false, _) => answer(&command),
                };
                in_data = reply.starts_with("354");
                stream.write_all(reply.as_bytes()).await.ok();
            }
        }
    })
    .await;
    (server, heard)
}

#[tokio::test]
async fn a_server_that_knows_no_ehlo_is_greeted_with_helo() {
    let (server, heard) = scripted(|command| match command.split(' ').next() {
        Some("EHLO") => "502 what?\r\n",
        Some("HELO") => "250 mail.example.com\r\n",
        _ => "250 ok\r\n",
    })
    .await;
    let url = format!("smtp://{}", server.address());
    let mailer = SmtpMailer::new(&url, "noreply@example.com").unwrap();
    mailer.send(to(&["ann@example.com"])).await.unwrap();
    let heard = heard.lock().unwrap();
    for command in ["HELO ", "MAIL FROM:<noreply@example.com>", "RCPT TO:<ann@example.com>"] {
        assert!(heard.iter().any(|line| line.starts_with(command)), "{command}: {heard:?}");
    }
}

/// It was not offered the message, so that it cannot have refused it.
#[tokio::test]
async fn a_server_that_takes_no_mail_now_may_be_tried_again() {
    let unwilling = Server::on_connection(|mut stream| async move {
        stream.write_all(b"554 no mail from there\r\n").await.ok();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let (unwilling, no_ehlo, no_login, bad_login) = (
        unwilling.await,
        scripted(|_| "550 who are you?\r\n").await.0,
        scripted(|command| match command.split(' ').next() {
            Some("EHLO") => "250-mail.example.com\r\n250 AUTH PLAIN\r\n",
            _ => "504 not in this way\r\n",
        })
        .await
        .0,
        scripted(|command| match command.split(' ').next() {
            Some("EHLO") => "250-mail.example.com\r\n250 AUTH PLAIN\r\n",
            _ => "535 who are you?\r\n",
        })
        .await
        .0,
    );
    for (server, user, said) in [
        (unwilling, "", "no mail from there"),
        (no_ehlo, "", "who are you?"),
        (no_login, "ann:secret@", "not in this way"),
        // What is wrong with the credentials is for the operator, and in the host's log.
        (bad_login, "ann:secret@", "cannot be reached"),
    ] {
        let url = format!("smtp://{user}{}", server.address());
        let mailer = SmtpMailer::new(&url, "noreply@example.com").unwrap();
        let error = mailer.send(to(&["ann@example.com"])).await.unwrap_err();
        assert_eq!(error.kind, MailErrorKind::Unavailable, "{error}");
        assert!(
            error.message.contains(said) && !error.message.contains("refused the message"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn letters_beyond_ascii_before_the_at_need_a_server_that_knows_them() {
    for (greeting, taken) in [
        ("250 mail.example.com\r\n", false),
        ("250-mail.example.com\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n", true),
    ] {
        let answer = move |command: &str| match command.starts_with("EHLO") {
            true => greeting,
            false => "250 ok\r\n",
        };
        let (server, heard) = scripted(answer).await;
        let url = format!("smtp://{}", server.address());
        let mailer = SmtpMailer::new(&url, "noreply@example.com").unwrap();
        let sent = mailer.send(to(&["jörg@example.com"])).await;
        let heard = heard.lock().unwrap().join("\n");
        if taken {
            assert_eq!(sent.unwrap().accepted, ["jörg@example.com"]);
            assert!(heard.contains("SMTPUTF8"), "{greeting}: {heard}");
        } else {
            let error = sent.unwrap_err();
            assert_eq!(error.kind, MailErrorKind::Rejected);
            assert!(error.message.contains("SMTPUTF8"), "{error}");
            assert!(!heard.contains("MAIL"), "{heard}");
        }
    }
}
