//! Bulk mail, files, configurations.

use std::fmt::Write;

use super::{GOOD, House, Visitor, mails_in};
use crate::support::{Backend, eventually, studygovernor};

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_goes_to_whom_it_is_for_after_a_look_at_it() {
    let house = House::new(Backend::Postgres, &[]).await;
    for (name, role) in [("anna", "user"), ("bert", "user"), ("cleo", "superuser")] {
        house.add(name, &[role]).await;
    }
    let admin = house.admin().await;
    admin.get("/mail").await.shows(200, "anna@example.com");
    let subject = ("subject", "For {user.name}");
    let body = ("body", "Dear {user.name} ({user.username}, {user.email}),\n\nwe meet. {this} <b>stays</b>");
    let form = [("whom", "users"), subject, body, ("what", "send")];
    admin.post("/mail", &form).await.shows(422, "Recipients must include");
    let wrong = [("whom", "all"), subject, ("body", "Dear {user.nick}"), ("what", "send")];
    admin.post("/mail", &wrong).await.shows(422, "not a known placeholder").shows(422, "Dear {user.nick}");
    let look = [("whom", "role"), ("role", "3"), subject, body, ("what", "preview")];
    let page = admin.post("/mail", &look).await.shows(200, "Preview for 2 recipients").shows(200, "For anna");
    assert!(page.text.contains("Dear bert (bert, bert@example.com)") && !page.text.contains("<b>stays"));
    let send = [("whom", "role"), ("role", "3"), subject, body, ("what", "send")];
    let sent = admin.post("/mail", &send).await.leads("/mail/1");
    // A double click sends once; the same text to other recipients is another mailing.
    admin.post("/mail", &send).await.leads(&sent.location);
    let other = [("whom", "role"), ("role", "2"), subject, body, ("what", "send")];
    admin.post("/mail", &other).await.leads("/mail/2");
    house.mail("cleo@example.com", "For cleo").await;
    // The mail is sent as shown: it cannot be changed in the form that sends it.
    let form = page.text.split("<form").find(|form| form.contains("value=\"send\"")).unwrap();
    assert!(form.contains("type=\"hidden\" name=\"subject\"") && !form.contains("id=\"subject\""), "{form}");
    let mail = house.mail("anna@example.com", "For anna").await;
    assert_eq!(mail.text, "Dear anna (anna, anna@example.com),\n\nwe meet. {this} <b>stays</b>\n");
    assert!(!mail.html.contains("<b>stays"));
    house.mail("bert@example.com", "For bert").await;
    eventually("the progress", async || admin.get("/mail/1").await.text.contains("2 of 2 sent").then_some(())).await;
    let folder = house.server.home.path().join("mails");
    assert_eq!(mails_in(folder.to_str().unwrap()).len(), 3);
    let twice = [("whom", "all"), ("subject", "at once"), ("body", "b"), ("what", "send")];
    let both = tokio::join!(admin.post("/mail", &twice), admin.post("/mail", &twice));
    assert_eq!(both.0.location, both.1.location, "two clicks at the same moment");
    let cleo = Visitor::logged_in(house.url(), "cleo", GOOD).await;
    cleo.get("/mail").await.shows(403, "user_read_all");
    cleo.post("/mail", &send).await.shows(403, "user_read_all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_does_not_go_out_is_listed_and_tried_again() {
    let environment = [("MAIL_SERVER", "127.0.0.1"), ("MAIL_PORT", "1")];
    let house = House::new(Backend::Sqlite, &environment).await;
    let admin = house.admin().await;
    admin.post("/mail", &[("whom", "all"), ("subject", "s"), ("body", "b"), ("what", "send")]).await.leads("/mail/1");
    eventually("the failure", async || {
        let page = admin.get("/mail/1").await.text;
        // Without scripts, the page refreshes automatically.
        assert!(page.contains("<noscript><meta http-equiv=\"refresh\""), "{page}");
        (page.contains("admin@example.com</strong>") && page.contains("next attempt in")).then_some(())
    })
    .await;
    admin.post("/mail/1/again", &[]).await.leads("/mail/1");
    admin.get("/mail/4711").await.shows(404, "mailing 4711");
}

/// A mail server that accepts the connection and does not answer has two minutes, which is longer than any request may
/// take.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_mail_server() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let environment = [("MAIL_SERVER", "127.0.0.1"), ("MAIL_PORT", port.as_str())];
    let house = House::new(Backend::Sqlite, &environment).await;
    let admin = house.admin().await;
    admin.post("/mail", &[("whom", "all"), ("subject", "s"), ("body", "b"), ("what", "send")]).await.leads("/mail/1");
    tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();
    house.visitor().post("/reset", &[("email", "admin@example.com")]).await.shows(200, "we have sent it an e-mail");
    admin.get("/mail/1").await.shows(200, "admin@example.com");
}

async fn send(visitor: &Visitor, name: &str, bytes: Vec<u8>, replaces: bool) -> super::Page {
    send_into(visitor, "", name, bytes, replaces).await
}

async fn send_into(visitor: &Visitor, folder: &str, name: &str, bytes: Vec<u8>, replaces: bool) -> super::Page {
    let mut body = Vec::new();
    body.extend(format!("--mark\r\ncontent-disposition: form-data; name=\"folder\"\r\n\r\n{folder}\r\n").into_bytes());
    if replaces {
        body.extend(b"--mark\r\ncontent-disposition: form-data; name=\"replace\"\r\n\r\n1\r\n");
    }
    let head = format!("--mark\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
    body.extend(head.as_bytes());
    body.extend(bytes);
    body.extend(b"\r\n--mark--\r\n");
    let request = visitor.request(reqwest::Method::POST, "/upload_data");
    let request = request.header("content-type", "multipart/form-data; boundary=mark").body(body);
    visitor.page(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_brought_listed_and_fetched() {
    let house = House::new(Backend::Sqlite, &[("STUDYGOV_UPLOAD_LIMIT", "17 MB")]).await;
    house.add("dora", &["superuser"]).await;
    house.add("emil", &["user"]).await;
    let dora = Visitor::logged_in(house.url(), "dora", GOOD).await;
    dora.get("/upload_data").await.shows(200, "No files yet").shows(200, "17.0 MB");
    let data = house.server.home.path().join("data");
    // Larger than the limit of any other request.
    let large: Vec<u8> = (0..17_000_000_u32).map(|byte| byte.to_le_bytes()[1]).collect();
    send(&dora, "../scan one.nii", large.clone(), false).await.leads("/upload_data?told=scan+one.nii");
    assert_eq!(std::fs::read(data.join("scan one.nii")).unwrap(), large);
    send(&dora, "scan one.nii", b"other".to_vec(), false).await.shows(409, "already exists");
    assert_eq!(std::fs::read(data.join("scan one.nii")).unwrap(), large);
    send(&dora, "too.large", vec![0; (17 << 20) + 1], false).await.shows(413, "larger than");
    send(&dora, "too.large", vec![0; 20 << 20], false).await.shows(413, "too large");
    let long = format!(
        "--mark\r\ncontent-disposition: form-data; name=\"replace\"\r\n\r\n{}\r\n--mark--\r\n",
        "1".repeat(1 << 20)
    );
    let request = dora.request(reqwest::Method::POST, "/upload_data").body(long);
    let request = request.header("content-type", "multipart/form-data; boundary=mark");
    dora.page(request.send().await.unwrap()).await.shows(400, "replace is");
    send(&dora, "..", b"x".to_vec(), false).await.shows(400, "not a valid file name");
    send(&dora, "", b"x".to_vec(), false).await.shows(400, "Choose a file");
    send(&dora, "scan one.nii", b"<script>alert(1)</script>".to_vec(), true)
        .await
        .leads("/upload_data?told=scan+one.nii");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing is left of what was refused");
    std::fs::create_dir(data.join("raw")).unwrap();
    std::fs::write(data.join("raw/a.csv"), "a,b").unwrap();
    dora.get("/upload_data").await.shows(200, "scan one.nii").shows(200, "raw/");
    dora.get("/upload_data?folder=raw").await.shows(200, "a.csv").shows(200, "Upload to raw");
    send_into(&dora, "raw", "b.csv", b"b".to_vec(), true).await.leads("/upload_data?told=b.csv&folder=raw");
    assert_eq!(std::fs::read(data.join("raw/b.csv")).unwrap(), b"b");
    // After a refusal, the form has the same folder, and the box is unchanged.
    let page = send_into(&dora, "raw", "b.csv", b"c".to_vec(), false).await.shows(409, "already exists");
    assert!(
        page.text.contains("name=\"folder\" value=\"raw\"") && !page.text.contains("\"1\" checked"),
        "{}",
        page.text
    );
    let page = send_into(&dora, "raw", "..", b"c".to_vec(), true).await.shows(400, "not a valid file name.");
    assert!(page.text.contains("\"1\" checked") && !page.text.contains("file.."), "{}", page.text);
    for folder in ["nowhere", "..", "/etc"] {
        send_into(&dora, folder, "x", b"x".to_vec(), false).await.shows(404, "There is no file");
    }
    let answer = dora.request(reqwest::Method::GET, "/upload_data/file?path=scan%20one.nii").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename*=UTF-8''scan%20one.nii");
    assert_eq!(answer.text().await.unwrap(), "<script>alert(1)</script>");
    for path in ["..%2Fstudy.db", "%2Fetc%2Fpasswd", "raw%2F..%2F..%2Fstudy.db", "raw", "nothing"] {
        dora.get(&format!("/upload_data/file?path={path}")).await.shows(404, "no file");
        let folder = dora.get(&format!("/upload_data?folder={path}")).await;
        assert!(folder.status == 404 || path == "raw", "{path}");
    }
    let emil = Visitor::logged_in(house.url(), "emil", GOOD).await;
    send(&emil, "x", b"x".to_vec(), false).await.shows(403, "upload_data");
    emil.get("/upload_data/file?path=raw%2Fa.csv").await.shows(403, "upload_data");
    let admin = house.admin().await;
    admin.get("/audit?kind=file").await.shows(200, "raw&#x2f;b.csv").shows(200, "dora");
    // The box was ticked although there was nothing to replace.
    let replaced = admin.get("/audit.csv?kind=file&verb=replace").await.shows(200, "scan one.nii");
    assert_eq!(replaced.text.lines().count(), 2, "{}", replaced.text);
}

const CONFIGURATION: &str = "roles:\n- {name: reader, permissions: [user_read]}\nusers:\n- {username: fred, password: secret-of-fred, email: fred@example.com, roles: [reader]}\nscantypes:\n- {modality: MR, protocol: T1w}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_planned_before_it_is_applied() {
    let house = House::new(Backend::Mariadb, &[]).await;
    let admin = house.admin().await;
    let form = |text, what| [("text", text), ("what", what)];
    admin
        .post("/configuration", &form("roles: [{name: x, permissions: [fly]}]", "plan"))
        .await
        .shows(422, "permission &#x27;fly&#x27;");
    admin.post("/configuration", &form("rolls: []", "apply")).await.shows(422, "line 1");
    let page = admin.post("/configuration", &form(CONFIGURATION, "plan")).await.shows(200, "create role reader");
    assert!(page.text.contains("create user fred") && page.text.contains("create scantype T1w"), "{}", page.text);
    assert!(!page.text.split("<input type=\"hidden\"").next().unwrap().contains("secret-of-fred"));
    let deed = page.text.split("<form").find(|form| form.contains("value=\"apply\"")).unwrap();
    assert!(deed.contains("type=\"hidden\" name=\"text\"") && !deed.contains("<textarea"), "{deed}");
    assert!(house.server.admin().get("/api/v2/scantypes").await.expect(200).to_string().contains("\"count\":0"));
    admin.get("/audit?kind=role&name=reader").await.shows(200, "No matching events");
    admin.post("/configuration", &form(CONFIGURATION, "apply")).await.shows(200, "3 changes applied");
    Visitor::logged_in(house.url(), "fred", "secret-of-fred").await;
    admin.post("/configuration", &form(CONFIGURATION, "plan")).await.shows(200, "Nothing to change");
    // A new name with the address of another account is not skipped silently.
    let other = "users: [{username: fritz, password: x, email: fred@example.com}]";
    admin
        .post("/configuration", &form(other, "plan"))
        .await
        .shows(422, "the address fred@example.com is already used by fred");
    // No lock-out: one administrator must remain.
    let locked = "users:\n- {username: admin, password: x, email: admin@example.com, active: false}\n";
    let page = admin.post("/configuration", &[("text", locked), ("overwrite", "1"), ("what", "plan")]).await;
    page.shows(422, "last active administrator account");
}

#[test]
fn the_command_line_plans_and_applies_too() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.yaml");
    let mut text = String::new();
    write!(text, "{CONFIGURATION}").unwrap();
    std::fs::write(&file, &text).unwrap();
    let run = |more: &[&str]| {
        let arguments: Vec<&str> = ["import", "config", "c.yaml"].iter().chain(more).copied().collect();
        let output = studygovernor(home.path(), &arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = run(&[]);
    assert!(code == Some(0) && out.contains("create role reader") && err.contains("use --apply"), "{out}{err}");
    assert!(!out.contains("secret-of-fred"));
    let (code, out, _) = run(&["--apply"]);
    assert!(code == Some(0) && out.lines().count() == 3, "{out}");
    assert!(run(&["--apply"]).2.contains("nothing to change"));
    // Without changes no sessions end, so that the command can run every night.
    assert!(run(&["--overwrite", "--apply"]).2.contains("nothing to change"));
    std::fs::write(&file, CONFIGURATION.replace("secret-of-fred", "another-secret")).unwrap();
    let (_, out, _) = run(&["--overwrite"]);
    assert!(out.contains("update user fred") && out.contains("\"password\":\"changed\""), "{out}");
    assert!(!out.contains("roles"), "they stay: {out}");
    std::fs::write(&file, CONFIGURATION.replace("[reader]", "[user]")).unwrap();
    let (_, out, _) = run(&["--overwrite"]);
    assert!(out.contains("{\"roles\":[\"reader\"]} → {\"roles\":[\"user\"]}"), "{out}");
    // A mistyped key of an account is an error; numbers are accepted as texts, and keys that begin with `x-` are
    // ignored.
    std::fs::write(&file, "users: [{username: u, password: p, email: u@example.com, actve: false}]").unwrap();
    assert!(run(&[]).2.contains("unknown field `actve`"));
    let numbers =
        "x-all: &all [user]\nusers: [{username: 2026, password: 12345, email: u@example.com, active: 0, roles: *all}]";
    std::fs::write(&file, numbers).unwrap();
    let (code, out, err) = run(&[]);
    assert!(code == Some(0) && out.contains("create user 2026") && out.contains("\"active\":false"), "{out}{err}");
    std::fs::write(&file, "users: [{username: x}]").unwrap();
    let (code, _, err) = run(&[]);
    assert!(code == Some(1) && err.contains("c.yaml: line 1"), "{err}");
}
