//! The texts of mails, and their reliable delivery.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelBehavior, ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::{Value, json};
use studygovernor::clock::Clock;
use studygovernor::config::{Environment, MailSecurity, MailServer, MailSettings, SecuritySettings, WebSettings};
use studygovernor::entity::{mail_link, mailing, outbox, user};
use studygovernor::mail::{Courier, Mailer, Note, forget_old, link, post};
use studygovernor::view::Templates;

use super::{House, mails_in, needed};
use crate::support::{Backend, Study, eventually, on_every_database};

on_every_database! {
    a_mail_server_that_is_down_loses_nothing;
    of_several_servers_one_sends_a_mail;
    who_waits_for_a_link_does_not_wait_for_thousands;
    a_link_that_is_not_wanted_any_more_is_not_sent;
    what_was_sent_is_forgotten_after_a_while;
    a_silent_mail_server_is_given_up;
}

fn security() -> SecuritySettings {
    SecuritySettings::read(&Environment::default()).unwrap()
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
    let templates = Templates::new(&web(), &security()).unwrap();
    let settings = MailSettings {
        from: "study@example.org".to_owned(),
        to: Vec::new(),
        prefix: "[study]".to_owned(),
        server,
        patience: Duration::from_millis(500),
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
    // 1, 2, 4, … minutes later, at most an hour.
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
    // After about three days delivery is abandoned, and that is shown.
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

fn note(template: &'static str, to: &user::Model, mailing_id: Option<i32>) -> Note {
    let context = json!({ "name": to.name, "username": to.username, "subject": "s", "body": "b" });
    Note { mailing_id, ..Note::to_user(template, to, context) }
}

/// An account and an existing mailing.
async fn somebody(study: &Study, clock: &Clock) -> (user::Model, i32) {
    let transaction = study.engine.database().begin().await.unwrap();
    let row = user::ActiveModel {
        username: Set("erin".to_owned()),
        name: Set("Erin".to_owned()),
        email: Set("erin@example.org".to_owned()),
        password: Set("!".to_owned()),
        active: Set(true),
        fs_uniquifier: Set("u".to_owned()),
        create_time: Set(clock.now()),
        login_count: Set(0),
        weak_password: Set(false),
        last_code_step: Set(0),
        ..user::ActiveModel::new()
    };
    let row = row.insert(&*transaction).await.unwrap();
    let many = mailing::ActiveModel {
        user_id: Set(Some(row.id)),
        mail_subject: Set("s".to_owned()),
        body: Set("b".to_owned()),
        created: Set(clock.now()),
        ..mailing::ActiveModel::new()
    };
    let many = many.insert(&*transaction).await.unwrap();
    transaction.commit().await.unwrap();
    (row, many.id)
}

async fn put(study: &Study, clock: &Clock, notes: &[Note]) {
    let transaction = study.engine.database().begin().await.unwrap();
    post(&*transaction, notes, clock.now()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn outbox_of(study: &Study) -> Vec<outbox::Model> {
    outbox::Entity::find().order_by_asc(outbox::Column::Id).all(study.engine.database().reader()).await.unwrap()
}

async fn who_waits_for_a_link_does_not_wait_for_thousands(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    let (erin, many) = somebody(&study, &clock).await;
    put(&study, &clock, &vec![note("mailing", &erin, Some(many)); 250]).await;
    clock.advance(TimeDelta::minutes(1));
    put(&study, &clock, &[note("reset", &erin, None)]).await;
    let courier = courier(&study, &clock, None, home.path());
    assert!(courier.send_next().await.unwrap());
    let sent: Vec<String> =
        outbox_of(&study).await.into_iter().filter(|mail| mail.sent_at.is_some()).map(|mail| mail.template).collect();
    assert_eq!(sent, ["reset"]);
    assert!(courier.send_next().await.unwrap(), "then the others");
}

async fn a_link_that_is_not_wanted_any_more_is_not_sent(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    let (erin, _) = somebody(&study, &clock).await;
    let nobody = MailServer { host: "127.0.0.1".to_owned(), port: 1, security: MailSecurity::Plain, login: None };
    let down = courier(&study, &clock, Some(nobody), home.path());
    put(&study, &clock, &[note("reset", &erin, None), note("invite", &erin, None), note("activated", &erin, None)])
        .await;
    while down.send_next().await.unwrap() {}
    assert_eq!(outbox_of(&study).await.len(), 3);
    // The password is changed in another way while the mail server is down.
    let transaction = study.engine.database().begin().await.unwrap();
    link::end_all(&*transaction, erin.id, clock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    clock.advance(TimeDelta::hours(2));
    let up = courier(&study, &clock, None, home.path());
    while up.send_next().await.unwrap() {}
    let mails = mails_in(home.path().to_str().unwrap());
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert!(mails[0].subject.contains("is active"));
    let links = mail_link::Entity::find().all(study.engine.database().reader()).await.unwrap();
    assert!(links.len() == 2 && links.iter().all(|link| link.used_at.is_some()), "{links:?}");
    // Also while the mail is being sent; repeated to hit that moment.
    for _ in 0..20 {
        put(&study, &clock, &[note("reset", &erin, None)]).await;
        let end = async {
            let transaction = study.engine.database().begin().await.unwrap();
            // Like any change of an account.
            user::Entity::find_by_id(erin.id).lock_exclusive().one(&*transaction).await.unwrap();
            link::end_all(&*transaction, erin.id, clock.now()).await.unwrap();
            transaction.commit().await.unwrap();
        };
        let (sent, ()) = tokio::join!(up.send_next(), end);
        sent.unwrap();
        let open = mail_link::Entity::find().filter(mail_link::Column::UsedAt.is_null());
        assert!(open.one(study.engine.database().reader()).await.unwrap().is_none(), "a link that is good was left");
        while up.send_next().await.unwrap() {}
        let transaction = study.engine.database().begin().await.unwrap();
        link::end_all(&*transaction, erin.id, clock.now()).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

async fn what_was_sent_is_forgotten_after_a_while(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    let (erin, many) = somebody(&study, &clock).await;
    let notes = [note("reset", &erin, None), note("mailing", &erin, Some(many)), note("activated", &erin, None)];
    put(&study, &clock, &notes).await;
    let courier = courier(&study, &clock, None, home.path());
    while courier.send_next().await.unwrap() {}
    let of_file = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in std::fs::read_dir(home.path()).unwrap().flatten() {
        assert_eq!(of_file(&file.path()), 0o600, "there are links in it");
    }
    // The text is only in the mail.
    assert!(outbox_of(&study).await.iter().all(|mail| mail.context == "{}"));
    put(&study, &clock, &[note("activated", &erin, None)]).await;
    let database = study.engine.database();
    forget_old(database, clock.now() + TimeDelta::days(29)).await.unwrap();
    assert_eq!(outbox_of(&study).await.len(), 4);
    forget_old(database, clock.now() + TimeDelta::days(32)).await.unwrap();
    let left: Vec<String> = outbox_of(&study).await.into_iter().map(|mail| mail.template).collect();
    assert_eq!(left, ["mailing", "activated"], "mailings count by theirs, and what was not sent stays");
    assert!(mail_link::Entity::find().one(database.reader()).await.unwrap().is_none());
}

/// A mail server that accepts the connection and then does not answer delays only its own mail.
async fn a_silent_mail_server_is_given_up(study: Study) {
    let clock = Clock::manual(crate::support::moment("2026-01-01T00:00:00"));
    let home = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let server = MailServer { host: "127.0.0.1".to_owned(), port, security: MailSecurity::Plain, login: None };
    one_mail(&study, &clock).await;
    let courier = courier(&study, &clock, Some(server), home.path());
    let sent = tokio::time::timeout(Duration::from_secs(20), courier.send_next()).await;
    assert!(sent.expect("it waits for ever").unwrap());
    let waiting = kept(&study).await;
    assert!(
        waiting.available_at.is_some() && waiting.last_error.as_ref().unwrap().contains("no answer"),
        "{waiting:?}"
    );
}

/// Mails are sent over a connection with TLS from the start or with STARTTLS, after a login, and only if a known
/// authority has signed the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn mails_go_encrypted_and_with_a_login() {
    let authority = needed("TEST_SMTP_AUTHORITY");
    let (login, password) = (needed("TEST_SMTP_LOGIN"), needed("TEST_SMTP_PASSWORD"));
    for (port, switch, way) in
        [("TEST_SMTP_STARTTLS_PORT", "MAIL_USE_TLS", "starttls"), ("TEST_SMTP_TLS_PORT", "MAIL_USE_SSL", "tls")]
    {
        let settings = [
            (switch, "true"),
            ("MAIL_USERNAME", login.as_str()),
            ("MAIL_PASSWORD", password.as_str()),
            ("SSL_CERT_FILE", authority.as_str()),
        ];
        let house = House::with_mail_port(Backend::Sqlite, port, &settings).await;
        let forgotten = [("email", house.admin_email.as_str())];
        house.visitor().post("/reset", &forgotten).await.shows(200, "we have sent it an e-mail");
        let mail = house.mail(&house.admin_email, "new password").await;
        assert_eq!(mail.came, format!("{way}, encrypted, {login}"));
        // An untrusted certificate, and a wrong password: the mail is kept, and administrators are notified.
        for wrong in [("SSL_CERT_FILE", "/dev/null"), ("MAIL_PASSWORD", "wrong")] {
            let mut settings = settings.to_vec();
            settings.retain(|(name, _)| *name != wrong.0);
            settings.push(wrong);
            let house = House::with_mail_port(Backend::Sqlite, port, &settings).await;
            let forgotten = [("email", house.admin_email.as_str())];
            house.visitor().post("/reset", &forgotten).await.shows(200, "we have sent it an e-mail");
            let admin = house.admin().await;
            eventually("the trouble to be seen", async || {
                admin.get("/").await.text.contains("E-mail delivery is failing").then_some(())
            })
            .await;
            let page = admin.get("/mail").await.shows(200, "password reset link");
            assert!(page.text.contains(&house.admin_email) && page.text.contains("next attempt in"), "{}", page.text);
            assert!(house.mails_to(&house.admin_email).is_empty(), "{wrong:?}");
            let metrics = admin.get("/-/metrics").await.shows(200, "studygovernor_mails{state=\"waiting\"} 1");
            assert!(metrics.text.contains("studygovernor_mails{state=\"given_up\"} 0"));
        }
    }
    // Without the required encryption, nothing is sent.
    let settings = [("MAIL_USE_TLS", "true"), ("SSL_CERT_FILE", authority.as_str())];
    let house = House::with_mail_port(Backend::Sqlite, "TEST_SMTP_PORT", &settings).await;
    house
        .visitor()
        .post("/reset", &[("email", house.admin_email.as_str())])
        .await
        .shows(200, "we have sent it an e-mail");
    let admin = house.admin().await;
    eventually("the trouble to be seen", async || {
        admin.get("/").await.text.contains("E-mail delivery is failing").then_some(())
    })
    .await;
    assert!(house.mails_to(&house.admin_email).is_empty());
    admin.post("/mail/again", &[]).await.leads("/mail");
    admin.get("/audit?kind=mailing").await.shows(200, "again: 1");
}

/// Each mail as stored in `mails/`; `UPDATE_REFERENCE=1` writes the files.
#[test]
fn the_mails_say_what_they_did() {
    let templates = Templates::new(&web(), &security()).unwrap();
    let shut = SecuritySettings { recoverable: false, changeable: false, ..security() };
    let shut = Templates::new(&web(), &shut).unwrap();
    let person = json!({
        "name": "Erin <b>Example</b>", "username": "erin", "email": "erin@example.org", "id": 7, "by": "Ada Admin",
        "base_url": "https://study.example.org", "link": "https://study.example.org/reset/SECRET", "lasts": "1 day",
        "at": "2026-11-24T08:00:00", "is_on": true, "reason": "We know nobody of this name.", "address": "192.0.2.1",
        "subject": "The meeting on Friday", "body": "Dear Erin,\n\nwe meet at ten.",
    });
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/people/mails");
    let known = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/mail")).unwrap();
    let names: Vec<String> =
        known.flatten().filter_map(|file| file.file_name().to_str()?.strip_suffix(".txt").map(str::to_owned)).collect();
    assert!(names.len() >= 10, "{names:?}");
    let mut without = person.clone();
    for (name, value) in [("is_on", json!(false)), ("reason", json!("")), ("address", Value::Null)] {
        without[name] = value;
    }
    // With missing values or disabled features.
    let others = ["known", "password_changed", "second_factor", "declined", "wrong_codes"];
    let others = others.map(|name| (name.to_owned(), format!("{name}_without"), &shut, &without));
    let usual = names.into_iter().map(|name| (name.clone(), name, &templates, &person));
    for (template, name, templates, person) in usual.chain(others) {
        let mail = templates.mail(&template, person).unwrap();
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
