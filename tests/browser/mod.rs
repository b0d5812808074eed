//! Pages in a real browser: Debian's chromium, driven through its chromedriver.
//!
//! Screenshots of the pages at desktop and phone width are stored in `target/screenshots`.

mod people;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use thirtyfour::prelude::*;

use crate::support::eventually;
use crate::web::Demo;

/// A chromedriver on its own port, ended when dropped.
struct Driver {
    process: Child,
    url: String,
}

impl Driver {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("chromedriver")
            .args([&format!("--port={port}"), "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is not there: run the tests with `make test`");
        let driver = Self { process, url: format!("http://127.0.0.1:{port}") };
        eventually("chromedriver", async || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        driver
    }

    async fn open(&self, width: u32, dark: bool, scripts: bool) -> WebDriver {
        let mut capabilities = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ] {
            capabilities.add_arg(argument).unwrap();
        }
        capabilities.add_arg(&format!("--window-size={width},900")).unwrap();
        if dark {
            capabilities.add_arg("--force-dark-mode").unwrap();
        }
        if !scripts {
            let off = serde_json::json!({"profile.managed_default_content_settings.javascript": 2});
            capabilities.add_experimental_option("prefs", off).unwrap();
        }
        if width < 500 {
            // A window cannot be narrower than about 500 pixels; a phone is.
            let metrics = serde_json::json!({"width": width, "height": 844, "pixelRatio": 1.0, "mobile": true});
            let phone = serde_json::json!({"deviceMetrics": metrics});
            capabilities.add_experimental_option("mobileEmulation", phone).unwrap();
        }
        WebDriver::new(&self.url, capabilities).await.unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn log_in(browser: &WebDriver, base: &str) {
    browser.goto(format!("{base}/")).await.unwrap();
    browser.find(By::Id("login")).await.unwrap().send_keys("admin").await.unwrap();
    browser.find(By::Id("password")).await.unwrap().send_keys("admin").await.unwrap();
    browser.find(By::Css("button[type=submit]")).await.unwrap().click().await.unwrap();
    eventually("the login", async || browser.find(By::Css("nav.navbar")).await.ok()).await;
}

async fn state_of(browser: &WebDriver) -> Option<String> {
    browser.find(By::Id("current-state")).await.ok()?.text().await.ok()
}

/// Logs in, finds an experiment by typing, moves it with a button, and sees the new state without any further action.
#[tokio::test(flavor = "multi_thread")]
async fn a_rater_finds_an_experiment_and_moves_it_on() {
    let demo = Demo::start(&[]);
    demo.settled(&demo.admin().await).await;
    let driver = Driver::start().await;
    let browser = driver.open(1280, false, true).await;
    let base = &demo.server.url;
    log_in(&browser, base).await;

    browser.find(By::LinkText("Experiments")).await.unwrap().click().await.unwrap();
    browser.find(By::Id("q")).await.unwrap().send_keys("sub-01_ses-mri").await.unwrap();
    eventually("the list to follow the typing", async || {
        let rows = browser.find_all(By::Css("#results tbody tr")).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await;
    assert!(browser.current_url().await.unwrap().as_str().contains("q=sub-01_ses-mri"), "the address says it too");
    browser.find(By::LinkText("sub-01_ses-mri")).await.unwrap().click().await.unwrap();
    eventually("the page", async || (state_of(&browser).await? == "reading").then_some(())).await;

    browser.find(By::Css("textarea[name=note]")).await.unwrap().send_keys("The images are sharp").await.unwrap();
    let buttons = browser.find_all(By::Css("button[name=state]")).await.unwrap();
    let mut clicked = false;
    for button in buttons {
        if button.text().await.unwrap() == "Move to preprocessing" {
            button.click().await.unwrap();
            clicked = true;
            break;
        }
    }
    assert!(clicked);
    eventually("the new state", async || (state_of(&browser).await? == "preprocessing").then_some(())).await;
    // An opened log remains open while the page refreshes.
    browser.find(By::Css("details.execution summary")).await.unwrap().click().await.unwrap();
    eventually("the pipeline to end by itself", async || (state_of(&browser).await? == "done").then_some(())).await;
    assert!(browser.find(By::Css("details.execution[open]")).await.is_ok());
    let history = browser.find(By::Css(".timeline")).await.unwrap().text().await.unwrap();
    let history: Vec<&str> = history.split_whitespace().collect();
    let history = history.join(" ");
    assert!(history.contains("The images are sharp") && history.contains("preprocessing → done"), "{history}");
    browser.quit().await.unwrap();
}

/// A double click counts once, even though the button of the next state is under the pointer by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_moves_an_experiment_once() {
    let demo = Demo::start(&[]);
    demo.settled(&demo.admin().await).await;
    let driver = Driver::start().await;
    let browser = driver.open(1280, false, true).await;
    let base = &demo.server.url;
    log_in(&browser, base).await;
    browser.goto(format!("{base}/experiments?q=sub-16_ses-mri")).await.unwrap();
    browser.find(By::LinkText("sub-16_ses-mri")).await.unwrap().click().await.unwrap();
    eventually("the page", async || (state_of(&browser).await? == "incomplete").then_some(())).await;
    let twice = "const button = [...document.querySelectorAll('button[name=state]')].find(one => one.textContent.includes('preprocessing')); \
                 const at = button.getBoundingClientRect(); window.met = []; button.click(); \
                 const again = () => { const there = document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2); \
                                       window.met.push(there?.textContent.trim()); there?.click(); }; \
                 for (const after of [0, 100, 200, 300, 500, 700]) setTimeout(again, after);";
    browser.execute(twice, vec![]).await.unwrap();
    eventually("the pipeline to end by itself", async || (state_of(&browser).await? == "done").then_some(())).await;
    let met: Vec<Option<String>> = browser.execute("return window.met", vec![]).await.unwrap().convert().unwrap();
    assert!(
        met.iter().flatten().any(|text| text.contains("Move to") && !text.contains("preprocessing")),
        "no other button was met: {met:?}"
    );
    browser.quit().await.unwrap();
}

/// The same with JavaScript disabled.
#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_javascript() {
    let demo = Demo::start(&[]);
    demo.settled(&demo.admin().await).await;
    let driver = Driver::start().await;
    let browser = driver.open(1280, false, false).await;
    log_in(&browser, &demo.server.url).await;
    browser.goto(format!("{}/experiments", demo.server.url)).await.unwrap();
    let search = browser.find(By::Id("q")).await.unwrap();
    search.send_keys("sub-02_ses-mri").await.unwrap();
    browser.find(By::Css("form[role=search] button")).await.unwrap().click().await.unwrap();
    eventually("the result", async || {
        let rows = browser.find_all(By::Css("#results tbody tr")).await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await;
    browser.find(By::LinkText("sub-02_ses-mri")).await.unwrap().click().await.unwrap();
    for button in browser.find_all(By::Css("button[name=state]")).await.unwrap() {
        if button.text().await.unwrap() == "Move to excluded" {
            button.click().await.unwrap();
            break;
        }
    }
    eventually("the new state", async || (state_of(&browser).await? == "excluded").then_some(())).await;
    browser.quit().await.unwrap();
}

/// No page is wider than the screen; also takes the screenshots.
#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_desktop_and_phone() {
    let demo = Demo::start(&[]);
    let admin = demo.admin().await;
    demo.settled(&admin).await;
    let request =
        admin.request(reqwest::Method::DELETE, "/api/v2/experiments/32?reason=scanned%20twice%20by%20mistake");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let (_, page) = admin.get("/experiments/32").await;
    assert!(page.contains("Archived by admin") && page.contains("scanned twice by mistake"));
    assert!(!page.contains("Note for the history"), "what is archived does not move");
    let driver = Driver::start().await;
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, width, dark) in [("desktop", 1280, false), ("phone", 390, false), ("dark", 1280, true)] {
        let browser = driver.open(width, dark, true).await;
        let base = &demo.server.url;
        browser.goto(format!("{base}/login")).await.unwrap();
        browser.screenshot(&folder.join(format!("login-{name}.png"))).await.unwrap();
        log_in(&browser, base).await;
        for (page, path) in [
            ("home", "/"),
            ("experiments", "/experiments"),
            ("experiment", "/experiments/2"),
            ("done", "/experiments/1"),
            ("subjects", "/subjects"),
            ("subject", "/subjects/1"),
            ("cohorts", "/cohorts"),
            ("cohort", "/cohorts/1"),
            ("workflows", "/workflows"),
            ("workflow", "/workflows/1"),
            ("state", "/states/5"),
            ("execution", "/callback_executions/1"),
            ("archived", "/experiments/32"),
            ("api", "/api/v2/"),
            ("missing", "/experiments/4711"),
        ] {
            browser.goto(format!("{base}{path}")).await.unwrap();
            browser.screenshot(&folder.join(format!("{page}-{name}.png"))).await.unwrap();
            let width =
                browser.execute("return [document.documentElement.scrollWidth, window.innerWidth]", vec![]).await;
            let [content, window]: [i64; 2] = width.unwrap().convert().unwrap();
            assert!(content <= window, "{page} at {name}: {content} pixels wide on a screen of {window}");
        }
        browser.quit().await.unwrap();
    }
}
