//! User input is never executed: markup is entered in every field and searched for in every page.

use serde_json::json;

use super::{GOOD, House};
use crate::api::WORKFLOW;
use crate::support::Backend;

const MARKUP: &str = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>";

#[expect(clippy::too_many_lines, reason = "one story, or one table of cases")]
#[tokio::test(flavor = "multi_thread")]
async fn markup_in_any_field_is_only_shown() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let api = house.server.admin();
    let admin = house.admin().await;
    let visitor = house.visitor();
    // Accounts and roles.
    let form =
        [("username", MARKUP), ("name", MARKUP), ("email", "m@example.com"), ("how", "hand"), ("password", GOOD)];
    admin.post("/users/new", &form).await.leads("/users/2?told=created");
    let form = [("name", "plain"), ("description", MARKUP), ("permission", "sample_add")];
    admin.post("/roles/new", &form).await.leads("/roles");
    admin.post("/users/2/role", &[("role", "4"), ("on", "1")]).await.leads("/users/2?told=saved");
    admin
        .post("/account/tokens", &[("label", MARKUP), ("days", "1"), ("password", "admin")])
        .await
        .shows(200, "Your new token");
    let form = [("name", MARKUP), ("username", MARKUP), ("email", MARKUP), ("password", GOOD), ("again", GOOD)];
    let refused = [
        visitor.post("/register", &form).await,
        visitor.post("/login", &[("login", MARKUP), ("password", "x"), ("next", MARKUP)]).await,
        visitor.post("/reset", &[("email", MARKUP)]).await,
        admin.post("/account", &[("name", "")]).await,
        admin.post("/account/tokens", &[("label", ""), ("days", MARKUP)]).await,
        admin.post("/users/new", &[("username", MARKUP), ("email", MARKUP), ("how", "mail")]).await,
        admin.post("/users/2", &[("username", ""), ("name", MARKUP), ("email", MARKUP)]).await,
        admin.post("/roles/new", &[("name", MARKUP), ("description", MARKUP)]).await,
        admin.post("/change", &[("current", MARKUP), ("password", MARKUP), ("again", "")]).await,
    ];
    // User agents, bulk mail, files, configurations.
    let request = house.visitor().request(reqwest::Method::POST, "/login").header("user-agent", MARKUP);
    let request =
        request.header("content-type", "application/x-www-form-urlencoded").body("login=admin&password=admin");
    assert_eq!(request.send().await.unwrap().status(), 303);
    let mail = |what| [("whom", "all"), ("subject", MARKUP), ("body", MARKUP), ("what", what)];
    let preview = admin.post("/mail", &mail("preview")).await.shows(200, "Preview for");
    admin.post("/mail", &mail("send")).await.leads("/mail/1");
    let data = house.server.home.path().join("data");
    std::fs::create_dir_all(data.join("<img src=x onerror=alert(1)>")).unwrap();
    std::fs::write(data.join("<script>alert(2)<"), "x").unwrap();
    let configuration = format!("roles: [{{name: 'x', description: '{}'}}]", MARKUP.replace('\'', ""));
    let plan =
        admin.post("/configuration", &[("text", &configuration), ("what", "plan")]).await.shows(200, "create role");
    let wrong = admin.post("/configuration", &[("text", &format!("{MARKUP}: [")), ("what", "plan")]).await;
    // The study: texts, links, notes and reasons accept markup, labels do not.
    api.post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": WORKFLOW })).await.expect(201);
    api.post("/api/v2/cohorts", json!({ "label": "c", "description": MARKUP })).await.expect(201);
    api.post("/api/v2/subjects", json!({ "label": "s", "cohort_label": "c" })).await.expect(201);
    let body = json!({ "label": "e", "scandate": "2024-03-01T10:00:00", "subject_id": 1 });
    api.post("/api/v2/experiments", body).await.expect(201);
    api.put("/api/v2/experiments/1/variables", json!({ "text": MARKUP, MARKUP: "x" })).await;
    api.post("/api/v2/external_systems", json!({ "system_name": "XNAT", "url": format!("javascript:{MARKUP}") })).await;
    api.put("/api/v2/experiments/1/state", json!({ "state": "failed", "freetext": MARKUP })).await;
    let body = json!({ "result": "failed", "status": "finished", "run_log": MARKUP, "result_log": MARKUP, "result_values": { "v": MARKUP } });
    api.put("/api/v2/callback_executions/1", body).await;
    admin.post("/callback_executions/1/intervene", &[("what", "retry"), ("reason", MARKUP)]).await;
    api.delete(&format!("/api/v2/experiments/1?reason={}", urlencoded(MARKUP))).await;

    let mut seen = 0;
    let mut pages: Vec<(String, String)> = refused
        .into_iter()
        .chain([preview, plan, wrong])
        .map(|page| (format!("refused {}", page.status), page.text))
        .collect();
    for path in [
        "/",
        "/users",
        "/users/2",
        "/users?q=%3Cimg",
        "/roles",
        "/roles/4",
        "/users/1",
        "/mail",
        "/mail/1",
        "/upload_data",
        "/upload_data?told=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
        "/upload_data?folder=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
        "/upload_data?folder=%3Cimg%20src%3Dx%3E",
        "/account",
        "/audit",
        "/audit?who=%3Cimg%22",
        "/cohorts",
        "/cohorts/1",
        "/subjects",
        "/subjects/1",
        "/experiments",
        "/experiments?q=%22%3E%3Cimg",
        "/experiments/1",
        "/callback_executions",
        "/callback_executions/1",
        "/states/1",
        "/workflows/1",
        "/workers",
        "/dead_letters",
        "/login?next=%22%3E%3Cscript%3E",
        "/nowhere/%3Cimg%3E",
        "/users/%3Cimg%3E",
    ] {
        pages.push((path.to_owned(), admin.get(path).await.text));
    }
    for (path, text) in pages {
        assert!(!text.contains("<img src=x") && !text.contains("<script>alert"), "{path}: {text}");
        assert!(!text.contains("href=\"javascript:"), "{path}: {text}");
        seen += usize::from(text.contains("&lt;img src=x"));
    }
    assert!(seen >= 12, "it was shown on {seen} pages");
    let page = admin.request(reqwest::Method::GET, "/users/2").send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
}

fn urlencoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
