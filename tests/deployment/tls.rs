//! TLS to the database, with a MariaDB server with a certificate and one without.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Said, eventually, studygovernor};

/// A MariaDB server with a certificate for 127.0.0.1, which refuses connections without TLS; stopped when dropped.
struct Mariadb {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn shell(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", output.err());
}

/// The shell prefix that runs a command as the account of the database, because it refuses to run as root.
const AS_MYSQL: &str =
    "as=''; [ \"$(id -u)\" != 0 ] || { chown -R mysql .; as='setpriv --reuid mysql --regid mysql --init-groups'; }; ";

impl Mariadb {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        shell(
            folder.path(),
            &format!(
                "for name in authority other; do openssl req -x509 {key} -days 2 -subj /CN=$name -keyout $name.key -out $name.pem; done
                openssl req {key} -subj /CN=127.0.0.1 -keyout server.key -out server.csr
                printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >server.ext
                openssl x509 -req -in server.csr -days 2 -CA authority.pem -CAkey authority.key -CAcreateserial -extfile server.ext -out server.pem
                {AS_MYSQL} $as mariadb-install-db --no-defaults --datadir=\"$PWD/data\" --auth-root-authentication-method=normal --skip-test-db",
            ),
        );
        let serve = format!(
            "{AS_MYSQL} exec $as mariadbd --no-defaults --datadir=\"$PWD/data\" --port={port} --bind-address=127.0.0.1 --socket=\"$PWD/socket\" \
             --ssl-cert=\"$PWD/server.pem\" --ssl-key=\"$PWD/server.key\" --require-secure-transport=ON"
        );
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &serve]).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let path = format!("/usr/sbin:{}", std::env::var("PATH").unwrap());
        let process = command.env("PATH", path).spawn().unwrap();
        let started = Self { process, folder, port };
        eventually("MariaDB to listen", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        started
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Runs `db status` with this URL: the database was reached if the command lists migrations, none of which is applied.
fn reached(url: &str, settings: &[(&str, &str)]) -> Result<(), String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = studygovernor(home.path(), &["db", "status"]);
    command.env("DATABASE_URL", url).env("SECRET_KEY", "key").env("SECURITY_PASSWORD_SALT", "salt");
    let output = command.envs(settings.iter().copied()).output().unwrap();
    if output.out().contains("pending") { Ok(()) } else { Err(output.err()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_is_asked_for_its_certificate() {
    let server = Mariadb::start().await;
    let (authority, other) = (server.file("authority.pem"), server.file("other.pem"));
    let address =
        |host: &str, query: &str| format!("mysql+pymysql://root@{host}:{}/mysql?charset=utf8mb4{query}", server.port);
    let by_address = [
        ("127.0.0.1", "&ssl_mode=REQUIRED".to_owned(), true),
        ("127.0.0.1", format!("&ssl_ca={authority}&ssl_verify_identity=true"), true),
        ("127.0.0.1", format!("&ssl_ca={other}"), false),
        // The certificate is only valid for the IP address.
        ("localhost", format!("&ssl_ca={authority}"), true),
        ("localhost", format!("&ssl_ca={authority}&ssl_verify_identity=true"), false),
        ("127.0.0.1", "&ssl_disabled=true".to_owned(), false),
    ];
    for (host, query, works) in by_address {
        let found = reached(&address(host, &query), &[]);
        assert_eq!(found.is_ok(), works, "{host} {query}: {found:?}");
    }
    let by_settings = [
        (vec![("DB_SSL_MODE", "verify-full"), ("DB_SSL_CA", &*authority)], true),
        (vec![("DB_SSL_MODE", "verify-full"), ("DB_SSL_CA", &*other)], false),
        (vec![("DB_SSL_CA", &*other)], false),
        (vec![("DB_SSL_MODE", "disable")], false),
    ];
    for (settings, works) in by_settings {
        let found = reached(&address("127.0.0.1", ""), &settings);
        assert_eq!(found.is_ok(), works, "{settings:?}: {found:?}");
    }
}

/// The servers of the tests have no certificate: TLS is enforced if it is required, and is not required by default.
#[test]
fn a_database_without_tls_is_refused_where_tls_is_demanded() {
    for name in ["TEST_MARIADB_URL", "TEST_POSTGRES_URL"] {
        let url = std::env::var(name).expect("run the tests with `make test`");
        let refused = reached(&url, &[("DB_SSL_MODE", "require")]).unwrap_err();
        assert!(refused.contains("TLS"), "{name}: {refused}");
        reached(&url, &[("DB_SSL_MODE", "prefer")]).unwrap();
    }
}
