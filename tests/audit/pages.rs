//! Audit events of changes to accounts on pages.

use sea_orm::{EntityTrait, QueryOrder};
use studygovernor::entity::audit_event;

use crate::people::{GOOD, House, Visitor};
use crate::support::{Backend, Study, eventually};

/// Account changes on pages: each is recorded with its actor, and its kind can be selected in the search.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_accounts_on_pages_is_recorded() {
    let house = House::new(Backend::Postgres, &[]).await;
    let admin = house.admin().await;
    let study = Study::of(&house.server.database).await;
    let newest = async || {
        let all = audit_event::Entity::find().order_by_desc(audit_event::Column::Id);
        let event = all.one(study.database().reader()).await.unwrap().unwrap();
        format!(
            "{} {} {} {}: {}",
            event.who,
            event.verb,
            event.subject_type,
            event.subject_name,
            event.after.unwrap_or_default()
        )
    };
    assert_eq!(newest().await, "admin log_in user admin: {\"second_factor\":false,\"remembered\":false}");
    let invited =
        [("username", "ida"), ("name", "Ida"), ("email", "ida@example.com"), ("how", "mail"), ("role", "user")];
    admin.post("/users/new", &invited).await.leads("/users/2?told=invited");
    assert_eq!(newest().await, "admin invite user ida: {\"email\":\"ida@example.com\"}");
    admin.post("/users/2/invite", &[]).await.leads("/users/2?told=invited");
    assert_eq!(newest().await, "admin invite user ida: {\"email\":\"ida@example.com\"}");
    // Both invitations arrive; the second one is valid.
    let link = eventually("both invitations", async || {
        let mails = house.mails_to("ida@example.com");
        let links: Vec<String> = mails.iter().map(|mail| mail.link(house.url())).collect();
        let mut good = None;
        for link in &links {
            if house.visitor().get(link).await.status == 200 {
                good = Some(link.clone());
            }
        }
        good.filter(|_| links.len() == 2)
    })
    .await;
    house.visitor().post(&link, &[("password", GOOD), ("again", GOOD)]).await.leads("/login?told=password");
    assert_eq!(
        newest().await,
        "ida confirm user ida: {\"email\":\"ida@example.com\"}",
        "who has the link has the mailbox"
    );
    let ida = Visitor::logged_in(house.url(), "ida", GOOD).await;
    assert!(newest().await.starts_with("ida log_in user ida"));
    ida.post("/account/tokens", &[("label", "mine"), ("days", "1"), ("password", GOOD)])
        .await
        .shows(200, "Your new token");
    admin.post("/users/2/active", &[("active", "0")]).await.leads("/users/2?told=saved");
    // The sessions and tokens that were revoked are recorded before it.
    let ended = admin.get("/audit.csv?verb=end_access").await.shows(200, "ida");
    assert!(ended.text.contains("\"\"sessions\"\":1,\"\"tokens\"\":1"), "{}", ended.text);
    admin.post("/users/2/active", &[("active", "1")]).await.leads("/users/2?told=saved");
    admin.post("/mail", &[("whom", "all"), ("subject", "s"), ("body", "b"), ("what", "send")]).await.leads("/mail/1");
    assert_eq!(newest().await, "admin send mailing s: {\"recipients\":2}");
    admin.post("/logout", &[]).await.leads("/login");
    assert_eq!(newest().await, "admin log_out user admin: ");
    // All verbs and kinds can be searched for.
    let page = house.admin().await.get("/audit").await.shows(200, "Audit log");
    for word in ["log_in", "end_access", "invite", "decline", "upload", "send", "confirm", "report", "mailing", "file"]
    {
        assert!(page.text.contains(&format!("value=\"{word}\"")), "{word}");
    }
}
