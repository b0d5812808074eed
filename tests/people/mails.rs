//! What the mails say, and that none is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::TimeDelta;
use sea_orm::EntityTrait;
use serde_json::json;
use studygovernor::clock::Clock;
use studygovernor::config::{Environment, MailSecurity, MailServer, MailSettings, SecuritySettings, WebSettings};
use studygovernor::entity::outbox;
use studygovernor::mail::{Courier, Mailer, Note, post};
use studygovernor::view::Templates;

use super::mails_in;
use crate::support::{Study, on_every_database};

on_every_database! {
    a_mail_server_that_is_down_loses_nothing;
    of_several_servers_one_sends_a_mail;
}

fn web() -> WebSettings {
    let environment: Environment = [
        ("STUDYGOV_EXTERNAL_HOSTNAME", "study.example.org"),
        ("STUDYGOV_EXTERNAL_PROTO", "https"),
        ("STUDYGOV_INSTANCE_NAME", "Ageing & Brain"),
        ("STUDYGOV_PROJECT_NAME", "ageing"),
    ]
    .into_iter()
    .collect();
    WebSettings::read(&environment).unwrap()
}

fn courier(study: &Study, clock: &Clock, server: Option<MailServer>, folder: &Path) -> Courier {
    let templates = Templates::new(&web(), &SecuritySettings::default()).unwrap();
    let settings = MailSettings {
        from: "study@example.org".to_owned(),
        to: Vec::new(),
        prefix: "[study]".to_owned(),
        server,
        folder: folder.to_owned(),
    };
    Courier {
        database: study.engine.database().clone(),
        clock: clock.clone(),
        mailer: Mailer::new(settings),
        render: Arc::new(move |name, context| templates.mail(name, context).map_err(|error| error.to_string())),
        base_url: web().base_url(),
        confirm_within: TimeDelta::days(5),
        reset_within: TimeDelta::days(1),
    }
}

async fn one_mail(study: &Study, clock: &Clock) {
    let note = Note {
        template: "name_taken",
        recipient: "erin@example.org".to_owned(),
        user_id: None,
        mailing_id: None,
        context: json!({ "name": "Erin", "username": "erin" }),
    };
    let transaction = study.engine.database().begin().await.unwrap();
    post(&*transaction, &[note], clock.now()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn kept(study: &Study) -> outbox::Model {
    outbox::Entity::find().one(study.engine.database().reader()).await.unwrap().unwrap()
}

async fn a_mail_server_that_is_down_loses_nothing(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    let nobody = MailServer { host: "127.0.0.1".to_owned(), port: 1, security: MailSecurity::Plain, login: None };
    let down = courier(&study, &clock, Some(nobody), home.path());
    one_mail(&study, &clock).await;
    // 1, 2, 4, … minutes later, an hour at most.
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert!(down.send_next().await.unwrap());
        assert!(!down.send_next().await.unwrap(), "not at once");
        clock.advance(TimeDelta::minutes(wait) - TimeDelta::seconds(1));
        assert!(!down.send_next().await.unwrap(), "not before {wait} minutes");
        clock.advance(TimeDelta::seconds(1));
    }
    let waiting = kept(&study).await;
    assert!(waiting.sent_at.is_none() && waiting.failed_at.is_none() && waiting.attempts == 8);
    assert!(waiting.last_error.unwrap().contains("127.0.0.1:1"));
    let up = courier(&study, &clock, None, home.path());
    assert!(up.send_next().await.unwrap());
    assert!(!up.send_next().await.unwrap());
    assert!(kept(&study).await.sent_at.is_some());
    assert_eq!(mails_in(home.path().to_str().unwrap()).len(), 1);
    // After about three days it is given up, and that is seen.
    outbox::Entity::delete_many().exec(study.engine.database().reader()).await.unwrap();
    let down = courier(&study, &clock, down.mailer.settings().server.clone(), home.path());
    one_mail(&study, &clock).await;
    let mut tries = 0;
    while down.send_next().await.unwrap() {
        tries += 1;
        clock.advance(TimeDelta::hours(1));
    }
    let given_up = kept(&study).await;
    assert!(given_up.failed_at.is_some() && given_up.available_at.is_none() && tries == 78, "{given_up:?}");
}

async fn of_several_servers_one_sends_a_mail(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        one_mail(&study, &clock).await;
    }
    let servers = (0..4).map(|_| {
        let courier = courier(&study, &clock, None, home.path());
        tokio::spawn(async move { while courier.send_next().await.unwrap() {} })
    });
    for server in servers.collect::<Vec<_>>() {
        server.await.unwrap();
    }
    assert_eq!(mails_in(home.path().to_str().unwrap()).len(), 20);
}

/// Each mail as it is in `mails/`; `UPDATE_REFERENCE=1` writes them.
#[test]
fn the_mails_say_what_they_did() {
    let templates = Templates::new(&web(), &SecuritySettings::default()).unwrap();
    let person = json!({
        "name": "Erin <b>Example</b>", "username": "erin", "email": "erin@example.org", "id": 7, "by": "Ada Admin",
        "base_url": "https://study.example.org", "link": "https://study.example.org/reset/SECRET", "lasts": "1 day",
        "at": "2026-11-24T08:00:00", "is_on": true,
        "subject": "The meeting on Friday", "body": "Dear Erin,\n\nwe meet at ten.",
    });
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/people/mails");
    let known = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/mail")).unwrap();
    let names: Vec<String> =
        known.flatten().filter_map(|file| file.file_name().to_str()?.strip_suffix(".txt").map(str::to_owned)).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let mail = templates.mail(&name, &person).unwrap();
        let html = mail.html.unwrap();
        assert!(html.contains("Ageing &amp; Brain") && !html.contains("<b>Example"), "{html}");
        let shown = format!("{}\n\n{}\n----\n{html}", mail.subject, mail.body);
        let file = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &shown).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), shown, "{name}");
    }
}
