//! Registration and login with a real browser, with the mails read from the mail server.

use std::path::Path;

use thirtyfour::prelude::*;

use super::Driver;
use crate::people::{GOOD, House, address};
use crate::support::{Backend, eventually};

async fn fill(browser: &WebDriver, fields: &[(&str, &str)]) {
    for (id, value) in fields {
        let field = eventually(id, async || browser.find(By::Id(*id)).await.ok()).await;
        field.clear().await.unwrap();
        field.send_keys(*value).await.unwrap();
    }
}

async fn submit(browser: &WebDriver) {
    browser.find(By::Css("main button[type=submit]")).await.unwrap().send_keys(Key::Enter).await.unwrap();
}

async fn text(browser: &WebDriver) -> Option<String> {
    browser.find(By::Id("content")).await.ok()?.text().await.ok()
}

async fn shows(browser: &WebDriver, words: &str) {
    eventually(words, async || text(browser).await?.contains(words).then_some(())).await;
}

async fn log_in(browser: &WebDriver, url: &str, login: &str, password: &str) {
    browser.goto(format!("{url}/login")).await.unwrap();
    fill(browser, &[("login", login), ("password", password)]).await;
    submit(browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_registers_and_logs_in_and_gets_a_new_password() {
    let house = House::with_mail_server(Backend::Postgres).await;
    let driver = Driver::start().await;
    let (browser, boss) = (driver.open(1280, false, true).await, driver.open(1280, false, false).await);
    let (url, email) = (house.url(), address());
    browser.goto(format!("{url}/login")).await.unwrap();
    browser.find(By::LinkText("Create an account")).await.unwrap().click().await.unwrap();
    fill(&browser, &[("username", "yara"), ("name", "Yara"), ("email", &email), ("password", "aaaaaaaaaaaaaa")]).await;
    // The strength is shown while the password is typed.
    eventually("the strength", async || {
        let told = browser.find(By::Id("password-strength")).await.ok()?.text().await.ok()?;
        told.contains("too easy to guess").then_some(())
    })
    .await;
    // Refused: the cursor is in the field to correct, and the input is kept.
    fill(&browser, &[("again", "aaaaaaaaaaaaaa")]).await;
    submit(&browser).await;
    shows(&browser, "Please correct the highlighted fields").await;
    let focused = browser.active_element().await.unwrap().attr("id").await.unwrap();
    assert_eq!(focused.as_deref(), Some("password"));
    fill(&browser, &[("password", GOOD), ("again", GOOD)]).await;
    submit(&browser).await;
    shows(&browser, "We sent an e-mail").await;
    let link = house.mail(&email, "confirm").await.link(url);
    browser.goto(format!("{url}{link}")).await.unwrap();
    fill(&browser, &[("password", GOOD)]).await;
    submit(&browser).await;
    shows(&browser, "Your address is confirmed").await;
    // The administrator, without scripts, follows the link of the mail too.
    let told = house.mail(&house.admin_email, "yara is waiting").await.link(url);
    log_in(&boss, url, "admin", "admin").await;
    shows(&boss, "1 account is").await;
    boss.goto(format!("{url}{told}")).await.unwrap();
    shows(&boss, "pending approval").await;
    boss.find(By::Css("button.btn-success")).await.unwrap().send_keys(Key::Enter).await.unwrap();
    shows(&boss, "Saved").await;
    house.mail(&email, "is active").await;
    log_in(&browser, url, "yara", GOOD).await;
    eventually("the start page", async || browser.find(By::Css("nav.navbar")).await.ok()).await;
    browser.find(By::Css("form[action$='/logout'] button")).await.unwrap().click().await.unwrap();

    // Password reset, with the keyboard alone.
    eventually("the login", async || browser.find(By::LinkText("Forgot your password?")).await.ok())
        .await
        .send_keys(Key::Enter)
        .await
        .unwrap();
    fill(&browser, &[("email", &email)]).await;
    browser.find(By::Id("email")).await.unwrap().send_keys(Key::Enter).await.unwrap();
    shows(&browser, "Check your e-mail").await;
    eventually("the login link", async || {
        let ways = browser.find_all(By::Css("nav a")).await.ok()?;
        (ways.len() == 1).then_some(())
    })
    .await;
    let link = house.mail(&email, "new password").await.link(url);
    browser.goto(format!("{url}{link}")).await.unwrap();
    let other = "seven lamps behind a kite";
    fill(&browser, &[("password", other), ("again", "something else")]).await;
    submit(&browser).await;
    shows(&browser, "does not match the password above").await;
    fill(&browser, &[("password", other), ("again", other)]).await;
    submit(&browser).await;
    shows(&browser, "Your password has been set").await;
    log_in(&browser, url, &email.to_uppercase(), other).await;
    eventually("the start page", async || browser.find(By::Css("nav.navbar")).await.ok()).await;
    browser.quit().await.unwrap();
    boss.quit().await.unwrap();
}

/// A server with some accounts, one of which is pending approval.
async fn with_people() -> House {
    let house = House::new(Backend::Sqlite, &[("STUDYGOV_UPLOAD_LIMIT", "2 MB")]).await;
    for (name, role) in [("anna", "user"), ("bert", "superuser"), ("cleo-with-a-rather-long-name", "user")] {
        house.add(name, &[role]).await;
    }
    let visitor = house.visitor();
    let form =
        [("username", "waits"), ("name", "Who Waits"), ("email", "w@example.org"), ("password", GOOD), ("again", GOOD)];
    visitor.post("/register", &form).await.shows(200, "We sent an e-mail");
    let link = house.mail("w@example.org", "confirm").await.link(house.url());
    visitor.post(&link, &[("password", GOOD)]).await.shows(200, "Your address is confirmed");
    house
}

/// A role is changed in place, a file is uploaded with progress, a preview disappears, and the back button is tested
/// after a logout.
#[tokio::test(flavor = "multi_thread")]
async fn people_are_looked_after_without_leaving_the_page() {
    let house = with_people().await;
    let url = house.url();
    let driver = Driver::start().await;
    let browser = driver.open(1280, false, true).await;
    log_in(&browser, url, "admin", "admin").await;
    shows(&browser, "1 account is").await;
    browser.goto(format!("{url}/users")).await.unwrap();
    let switch = browser.find(By::Css("#switches-2 button[title*='superuser']")).await.unwrap();
    switch.click().await.unwrap();
    eventually("the role", async || {
        browser.find(By::Css("#switches-2 button[title*='superuser'][aria-pressed=true]")).await.ok()
    })
    .await;
    assert!(browser.current_url().await.unwrap().path() == "/users", "in place");
    // A switch that cannot be changed explains why, and remains visible.
    browser.find(By::Id("switch-1-1")).await.unwrap().click().await.unwrap();
    shows(&browser, "last active administrator account").await;
    assert_eq!(browser.find_all(By::Css("#switches-1 button")).await.unwrap().len(), 3);
    let file = house.server.home.path().join("T1w.nii.gz");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    for (words, found) in [("T1w.nii.gz uploaded", true), ("file 'T1w.nii.gz' already exists", false)] {
        browser.goto(format!("{url}/upload_data")).await.unwrap();
        browser.find(By::Id("file")).await.unwrap().send_keys(file.to_str().unwrap()).await.unwrap();
        submit(&browser).await;
        shows(&browser, words).await;
        assert_eq!(browser.current_url().await.unwrap().as_str().contains("told="), found);
    }
    // The progress is shown; a file that is too large is not sent, and that is reported.
    let watch = "window.seen = []; document.addEventListener('htmx:xhr:progress', () => { \
                 const bar = document.querySelector('[data-upload] progress'); if (!bar.hidden) window.seen.push(bar.value); }); \
                 document.addEventListener('htmx:beforeRequest', () => window.seen.push('asked'));";
    for (bytes, words) in [(1_900_000, "already exists"), (2_100_000, "larger than 2.0 MB")] {
        std::fs::write(&file, vec![7; bytes]).unwrap();
        browser.goto(format!("{url}/upload_data")).await.unwrap();
        browser.execute(watch, vec![]).await.unwrap();
        browser.find(By::Id("file")).await.unwrap().send_keys(file.to_str().unwrap()).await.unwrap();
        submit(&browser).await;
        shows(&browser, words).await;
        let seen: Vec<serde_json::Value> =
            browser.execute("return window.seen", vec![]).await.unwrap().convert().unwrap();
        match bytes {
            1_900_000 => assert_eq!(seen.last(), Some(&serde_json::json!(100)), "{seen:?}"),
            _ => assert!(seen.is_empty(), "it was sent: {seen:?}"),
        }
    }
    // A preview disappears when the input is changed.
    browser.goto(format!("{url}/mail")).await.unwrap();
    browser.find(By::Id("whom-all")).await.unwrap().click().await.unwrap();
    fill(&browser, &[("subject", "s"), ("body", "b")]).await;
    browser.find(By::Css("button[value=preview]")).await.unwrap().send_keys(Key::Enter).await.unwrap();
    shows(&browser, "Preview for").await;
    browser.find(By::Id("body")).await.unwrap().send_keys("!").await.unwrap();
    eventually("the preview to go", async || browser.find(By::Css("button[value=send]")).await.is_err().then_some(()))
        .await;
    // The back button after a logout shows no accounts.
    browser.goto(format!("{url}/users")).await.unwrap();
    shows(&browser, "bert").await;
    browser.find(By::Css("form[action$='/logout'] button")).await.unwrap().click().await.unwrap();
    eventually("the login", async || browser.find(By::Id("login")).await.ok()).await;
    browser.back().await.unwrap();
    eventually("the login again", async || browser.find(By::Id("login")).await.ok()).await;
    assert!(!browser.source().await.unwrap().contains("bert@example.com"));
    browser.quit().await.unwrap();
}

/// Screenshots of all account pages, none wider than the screen.
#[tokio::test(flavor = "multi_thread")]
async fn pages_about_people_fit_desktop_and_phone() {
    let house = with_people().await;
    let url = house.url();
    let driver = Driver::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, width, dark) in [("desktop", 1280, false), ("phone", 390, false), ("dark", 1280, true)] {
        let browser = driver.open(width, dark, true).await;
        let doors = [("register", "/register"), ("reset", "/reset"), ("gone", "/reset/none")];
        let inside = [
            ("home-admin", "/"),
            ("users", "/users"),
            ("user", "/users/2"),
            ("user-new", "/users/new"),
            ("roles", "/roles"),
            ("role", "/roles/2"),
            ("account", "/account"),
            ("change", "/change"),
            ("factor", "/account/second_factor"),
            ("mail", "/mail"),
            ("files", "/upload_data"),
            ("configuration", "/configuration"),
            ("audit", "/audit"),
        ];
        let picture = async |page: &str, path: &str| {
            browser.goto(format!("{url}{path}")).await.unwrap();
            browser.screenshot(&folder.join(format!("{page}-{name}.png"))).await.unwrap();
            let width =
                browser.execute("return [document.documentElement.scrollWidth, window.innerWidth]", vec![]).await;
            let [content, window]: [i64; 2] = width.unwrap().convert().unwrap();
            assert!(content <= window, "{page} at {name}: {content} pixels wide on a screen of {window}");
            // Every field has a name for screen readers.
            let nameless = browser
                .execute(
                    "return [...document.querySelectorAll('main input:not([type=hidden]), main select, main textarea')]\
                     .filter(field => !field.labels.length && !field.getAttribute('aria-label')).map(field => field.outerHTML)",
                    vec![],
                )
                .await;
            let nameless: Vec<String> = nameless.unwrap().convert().unwrap();
            assert!(nameless.is_empty(), "{page}: {nameless:?}");
        };
        for (page, path) in doors {
            picture(page, path).await;
        }
        log_in(&browser, url, "admin", "admin").await;
        eventually("the login", async || browser.find(By::Css("nav.navbar")).await.ok()).await;
        for (page, path) in inside {
            picture(page, path).await;
        }
        browser.quit().await.unwrap();
    }
}
