//! All settings. `studygovernor settings` generates the reference, `.env.example` and the JSON list from them.

use super::setting::Chart::{ExtraEnv, Never, Settings, Value};
use super::setting::DefaultValue::{Depends, Is, Nothing};
use super::setting::Kind::{
    Branch, Broker, Choice, Database, Flag, Host, Inside, List, Listen, Log, Mailbox, Mailboxes, Number, Path, Port,
    Prefix, Repository, Secret, Size, Span, Switch, Sync, Text, Time, Url, User, Word,
};
use super::setting::Reader::{Cli, Server, Worker};
use super::setting::{Name, Reader, Setting, settings};

const ALL: &[Reader] = &[Server, Worker, Cli];
const SERVER: &[Reader] = &[Server];
const WORKER: &[Reader] = &[Worker];
const RUNNERS: &[Reader] = &[Server, Worker];
const ADMINISTRATION: &[Reader] = &[Server, Cli];

const DAY: u64 = 86_400;
/// About the longest timeout that PostgreSQL accepts, in seconds: it stores milliseconds in 32 bits.
const LONGEST_WAIT: u64 = 2_000_000;
/// The longest TCP keepalive time that Linux accepts, in seconds.
const LONGEST_KEEPALIVE: u64 = 32_767;

settings! {
    "Database" {
        /// URL of the database: `sqlite:///file.db` (relative), `sqlite:////path/file.db`, `postgresql://user:password@host/name` or
        /// `mysql://…`. Forms with a Python driver (`postgresql+psycopg2`, `mysql+pymysql`, `mariadb+…`) are accepted too.
        SQLALCHEMY_DATABASE_URI: Database, Depends("SQLite file `studygovernor.db` in the project home"), Value("externalDatabase.uri"), ALL;
        /// Another name of `SQLALCHEMY_DATABASE_URI`, which takes precedence.
        DATABASE_URL: Database, Nothing, Value("externalDatabase.uri"), ALL;
        /// The kind of database, as at the start of an address (`postgresql`, `mysql`, `sqlite`), when the address is given in parts.
        DB_SCHEMA: Choice(&["postgresql", "mysql", "sqlite"]), Is("postgresql"), Value("studygovernor.db.schema"), ALL;
        /// Host of the database. Setting it or `DB_SCHEMA` selects the address in parts when neither address above is set.
        DB_HOST: Host, Is("localhost"), Value("studygovernor.db.host"), ALL;
        /// Port of the database.
        DB_PORT: Port(1), Depends("the usual port of the database"), Value("studygovernor.db.port"), ALL;
        /// Name of the database, or the path of the SQLite file; required when the address is given in parts.
        DB_NAME: Text, Nothing, Value("studygovernor.db.name"), ALL;
        /// User of the database.
        DB_USER: Text, Nothing, Value("studygovernor.db.user"), ALL;
        /// Password of the database user.
        DB_PASSWORD: Secret, Nothing, Value("postgresql.password or externalDatabase.password"), ALL;
        /// Password for PostgreSQL when its address has none.
        PGPASSWORD: Secret, Nothing, ExtraEnv, ALL;
        /// Required TLS to PostgreSQL or MariaDB; `verify-full` checks the certificate and its host name. Parameters for TLS in the URL
        /// (`sslmode`, `ssl_ca`, `ssl_verify_identity` …) take precedence over this setting and the next one.
        DB_SSL_MODE: Choice(&["disable", "prefer", "require", "verify-ca", "verify-full"]), Depends("`verify-ca` with `DB_SSL_CA`, otherwise TLS if the database server supports it"), Value("externalDatabase.tls.mode"), ALL;
        /// File with the certificate authority of the database server.
        DB_SSL_CA: Path, Nothing, Value("externalDatabase.tls.caSecret"), ALL;
        /// When the tables are migrated. `start`: by each server, worker and command when it starts (of several at once, by one).
        /// `wait`: by another program; servers and workers wait, `/-/ready` reports the present and the wanted version, commands
        /// refuse to run. `off`: nothing starts on tables that are not up to date.
        STUDYGOV_MIGRATE: Choice(&["start", "wait", "off"]), Is("start"), Value("migrations.mode"), ALL;
        /// How long a request waits for a row, or an SQLite file, that another transaction has locked, in seconds; then it is answered
        /// with 503 and `Retry-After`. 0 is no limit.
        STUDYGOV_DATABASE_LOCK_SECONDS: Number("seconds", 0, LONGEST_WAIT), Depends("5 (SQLite: 10)"), Settings, ALL;
        /// PostgreSQL or MariaDB ends a transaction that sends nothing for this many seconds, because its server was stopped or its
        /// network was cut, and releases its locks. 0 is no limit.
        STUDYGOV_DATABASE_IDLE_SECONDS: Number("seconds", 0, LONGEST_WAIT), Is("15"), Settings, ALL;
        /// How many seconds one statement may take on PostgreSQL or MariaDB. 0 is no limit; migrations never have one.
        STUDYGOV_DATABASE_STATEMENT_SECONDS: Number("seconds", 0, LONGEST_WAIT), Is("60"), Settings, ALL;
        /// After this many seconds without a sign of life the database server closes a connection (TCP keepalive of PostgreSQL, network
        /// timeouts of MariaDB). 0 is no limit.
        STUDYGOV_DATABASE_NETWORK_SECONDS: Number("seconds", 0, LONGEST_KEEPALIVE), Is("30"), Settings, ALL;
        /// The most connections that one process opens: one for the health check, half of the others for writing, half for reading.
        /// The database server must permit them for each server and worker.
        STUDYGOV_DATABASE_CONNECTIONS: Number("connections", 4, 1000), Is("24"), Settings, ALL;
    }
    "Secrets" {
        /// Signs the secrets of callback executions and audit events and is part of second factors; the same for all servers. Required with any database
        /// but the default one.
        SECRET_KEY: Secret, Depends("created once in `.secret_key` of the project home, for the default database"), Value("secrets.secretKey"), ALL;
        /// Salt of the password hashes that version 8.1 made. Required with any database but the default one.
        SECURITY_PASSWORD_SALT: Secret, Depends("created once in `.password_salt` of the project home, for the default database"), Value("secrets.passwordSalt"), ALL;
        /// A folder with a file for each secret, named like its setting, for secrets that are set in no other way.
        /// `studygovernor secrets make` fills it.
        STUDYGOV_SECRETS_DIR: Path, Nothing, Never("the chart passes each secret as a variable"), ALL;
    }
    "Web server" {
        /// Address on which the server listens.
        STUDYGOV_HOST: Host, Is("127.0.0.1"), Value("studygovernor.host"), SERVER;
        /// Port on which the server listens; 0 is any free one.
        STUDYGOV_PORT: Port(0), Is("8000"), Value("studygovernor.port"), SERVER;
        /// Host name under which users reach the server; absolute addresses begin with it. When it is set, a proxy is expected in front
        /// (see `STUDYGOV_TRUSTED_PROXIES`).
        STUDYGOV_EXTERNAL_HOSTNAME: Host, Depends("the listen address"), Value("studygovernor.externalHostname"), ADMINISTRATION;
        /// Protocol with which users reach the server. With `https`, cookies are sent over https only.
        STUDYGOV_EXTERNAL_PROTO: Choice(&["http", "https"]), Is("http"), Value("studygovernor.externalProtocol"), ADMINISTRATION;
        /// Port with which users reach the server.
        STUDYGOV_EXTERNAL_PORT: Port(1), Depends("the usual port of the protocol"), Value("studygovernor.externalPort"), ADMINISTRATION;
        /// Path prefix of all pages, like `/studies/one`.
        SCRIPT_NAME: Prefix, Nothing, Value("ingress.pathPrefix"), ADMINISTRATION;
        /// Another name of `SCRIPT_NAME`, which takes precedence.
        APPLICATION_ROOT: Prefix, Nothing, Value("ingress.pathPrefix"), ADMINISTRATION;
        /// Proxies that report the origin of requests: addresses and networks with commas (`10.0.0.7,192.168.0.0/16`), `*` for every
        /// peer, or `none`. Without the setting the last entry of `X-Forwarded-For` counts (with or without a port; `Forwarded` when
        /// there is no other). With it, named proxies in a row are skipped, and `X-Forwarded-Proto` and `X-Forwarded-Host` count too.
        STUDYGOV_TRUSTED_PROXIES: List, Depends("with an external host name: loopback and private networks; otherwise none"), Value("studygovernor.trustedProxies"), SERVER;
        /// Whether a trusted proxy that forwards bytes and not requests (HAProxy in mode `tcp`, a network load balancer) may begin a
        /// connection with a header of the PROXY protocol, version 1 or 2.
        STUDYGOV_PROXY_PROTOCOL: Flag, Is("false"), Settings, SERVER;
        /// Listen address of the server's `/-/metrics` and `/-/queues`, as `127.0.0.1:9090`, or `:9090` for all addresses, without the
        /// path prefix; the port of the pages answers 404 then. Without it they are on the port of the pages, and a proxy must not pass
        /// them on.
        STUDYGOV_METRICS_LISTEN: Listen, Nothing, Value("no value, it is always :9090"), SERVER;
        /// Time limit of a request in seconds.
        GUNICORN_TIMEOUT: Number("seconds", 0, DAY), Is("30"), Value("studygovernor.gunicorn.timeout"), SERVER;
        /// Requests that are answered at the same time, and, with 64 more, connections. Beyond that, silent and idle connections are
        /// closed.
        GUNICORN_WORKER_CONNECTIONS: Number("connections", 1, 1_000_000), Is("1000"), Value("studygovernor.gunicorn.workerConnections"), SERVER;
        /// How many seconds running requests get to finish when the server stops.
        STUDYGOV_DRAIN_SECONDS: Number("seconds", 0, DAY), Is("25"), Settings, SERVER;
        /// Size limit of an uploaded file.
        STUDYGOV_UPLOAD_LIMIT: Size, Is("4 GB"), Settings, SERVER;
        /// Name of this installation; appears on every page and in the name of the cookie.
        STUDYGOV_INSTANCE_NAME: Text, Is("Study Governor"), Value("studygovernor.instanceName"), SERVER;
        /// Name of the study; appears on every page and in the name of the cookie.
        STUDYGOV_PROJECT_NAME: Text, Is("default_project"), Value("studygovernor.projectName"), SERVER;
        /// A server whose clock differs from the database's by more seconds is not ready (`/-/ready` answers 503). Leases and due times
        /// follow the database anyway ([guide](../guide/workers.md#clocks)).
        STUDYGOV_CLOCK_LIMIT_SECONDS: Number("seconds", 5, DAY), Is("60"), Settings, SERVER;
        /// Log filter, in the words of `RUST_LOG`: `debug`, or `info,studygovernor=debug`.
        STUDYGOV_LOG: Log, Is("info,sqlx=warn,sea_orm_migration=warn,tower_sessions_core=error"), Settings, ALL;
    }
    "First account" {
        /// User name of an account with role `admin` that is created at the start when it does not exist; needs a password too.
        STUDYGOV_ADMIN_USERNAME: Text, Nothing, Value("studygovernor.admin.username"), ADMINISTRATION;
        /// E-mail address of this account.
        STUDYGOV_ADMIN_EMAIL: Text, Depends("the user name at `localhost`"), Value("studygovernor.admin.email"), ADMINISTRATION;
        /// Password of this account; stored as a hash only.
        STUDYGOV_ADMIN_PASSWORD: Secret, Nothing, Value("studygovernor.admin.password"), ADMINISTRATION;
        /// Whether each start sets the address and the password of this account again. Another password ends all its sessions, tokens
        /// and links.
        STUDYGOV_ADMIN_FORCE_UPDATE: Flag, Is("false"), Value("studygovernor.admin.force_update"), ADMINISTRATION;
    }
    "Accounts" {
        /// Whether users may register. All of these switches: a feature that is off has no page ([guide](../guide/people.md)).
        SECURITY_REGISTERABLE: Switch, Is("true"), Value("studygovernor.security.registerable"), SERVER;
        /// Whether users must confirm their e-mail address.
        SECURITY_CONFIRMABLE: Switch, Is("true"), Value("studygovernor.security.confirmable"), SERVER;
        /// Whether users may replace a forgotten password.
        SECURITY_RECOVERABLE: Switch, Is("true"), Value("studygovernor.security.recoverable"), SERVER;
        /// Whether users may change their password.
        SECURITY_CHANGEABLE: Switch, Is("true"), Value("studygovernor.security.changeable"), SERVER;
        /// Minimum number of characters of a password that is chosen in a form.
        SECURITY_PASSWORD_LENGTH_MIN: Number("characters", 1, 128), Is("12"), Settings, SERVER;
        /// How long the link of a confirmation or an invitation is valid.
        SECURITY_CONFIRM_EMAIL_WITHIN: Span, Is("5 days"), Settings, SERVER;
        /// How long the link for a forgotten password is valid.
        SECURITY_RESET_PASSWORD_WITHIN: Span, Is("1 days"), Settings, SERVER;
        /// A session that is not used for this long ends.
        SECURITY_SESSION_IDLE: Span, Is("12 hours"), Settings, SERVER;
        /// A session ends after this time, used or not.
        SECURITY_SESSION_LONGEST: Span, Is("7 days"), Settings, SERVER;
        /// A session of a user who chose to stay logged in ends after this time.
        SECURITY_REMEMBER: Span, Is("30 days"), Settings, SERVER;
    }
    "Mail" {
        /// Sender of e-mails; an address, or a name with an address (`"Study, the first" <study@example.org>`).
        STUDYGOV_EMAIL_FROM: Mailbox, Is("studygovernor@localhost"), Value("studygovernor.emailFrom"), RUNNERS;
        /// Another name of `STUDYGOV_EMAIL_FROM`, which takes precedence.
        MAIL_DEFAULT_SENDER: Mailbox, Nothing, Value("studygovernor.emailFrom"), RUNNERS;
        /// A third name of `STUDYGOV_EMAIL_FROM`; both others take precedence.
        SECURITY_EMAIL_SENDER: Mailbox, Nothing, Value("studygovernor.emailFrom"), RUNNERS;
        /// Recipients of the callback `send_mail` when it names none; addresses with commas between them.
        STUDYGOV_EMAIL_TO: Mailboxes, Nothing, Value("studygovernor.emailTo"), RUNNERS;
        /// Beginning of each subject.
        STUDYGOV_EMAIL_PREFIX: Text, Is("[study governor]"), Value("studygovernor.emailPrefix"), RUNNERS;
        /// The mail server. Without one, e-mails are written to the folder `mails` of the project home. `SSL_CERT_FILE` names certificates
        /// of an authority that the machine does not know.
        MAIL_SERVER: Host, Nothing, Value("mail.server"), RUNNERS;
        /// Port of the mail server.
        MAIL_PORT: Port(1), Depends("25, or 465 with `MAIL_USE_SSL`"), Value("mail.port"), RUNNERS;
        /// Whether the connection to the mail server is encrypted with STARTTLS.
        MAIL_USE_TLS: Flag, Is("false"), Value("mail.useTLS"), RUNNERS;
        /// Whether the connection to the mail server is encrypted from the beginning.
        MAIL_USE_SSL: Flag, Is("false"), Value("mail.useSSL"), RUNNERS;
        /// User at the mail server.
        MAIL_USERNAME: Text, Nothing, Value("mail.username"), RUNNERS;
        /// Password at the mail server.
        MAIL_PASSWORD: Secret, Nothing, Value("mail.password"), RUNNERS;
        /// Whether e-mails are written to the folder `mails` instead of being sent; for testing with a copy of a study.
        MAIL_SUPPRESS_SEND: Flag, Is("false"), Value("mail.suppressSend"), RUNNERS;
    }
    "Callbacks and workers" {
        /// Where callbacks run. `local`: in the server. `rabbitmq` (or `celery`): in workers elsewhere, which receive them from the
        /// broker ([guide](../guide/workers.md)).
        STUDYGOV_CALLBACK_METHOD: Choice(&["local", "rabbitmq"]), Is("local"), Value("studygovernor.callbacks.method"), SERVER;
        /// Callbacks that run at the same time in one server or worker.
        STUDYGOV_WORKER_CONCURRENCY: Number("callbacks", 1, 1000), Depends("number of cores, at least 4"), Value("workers.<group>.concurrency"), RUNNERS;
        /// Names of environment variables that programs of callbacks receive besides the usual ones, with commas between them; a star at
        /// the end of a name stands for any ending ([guide](../guide/workers.md#environment-and-secrets-of-programs)).
        STUDYGOV_CALLBACK_ENVIRONMENT: List, Nothing, Settings, RUNNERS;
        /// The user that programs of callbacks run as: a name in `/etc/passwd`, `uid`, or `uid:gid`. Needs root, or `CAP_SETUID`,
        /// `CAP_SETGID` and `CAP_KILL`.
        STUDYGOV_CALLBACK_USER: User, Depends("the user of the server or worker"), Settings, RUNNERS;
        /// A worker that sends no heartbeat for this many seconds loses its callbacks to another one.
        STUDYGOV_LEASE_SECONDS: Number("seconds", 1, DAY), Is("15"), Settings, SERVER;
        /// An experiment that makes more automatic transitions within a minute is put on hold until a user releases it; 0 is no limit.
        STUDYGOV_TRANSITIONS_PER_MINUTE: Number("transitions", 0, 1_000_000), Is("100"), Settings, ADMINISTRATION;
        /// Address of the server as a worker with a broker reaches it.
        STUDYGOV_SERVER: Url, Depends("the address in the message"), Value("service.port and ingress.pathPrefix"), WORKER;
        /// Queues that a worker with a broker takes callbacks from, with commas between them.
        STUDYGOV_QUEUES: List, Is("default"), Value("workers.<group>.queues"), WORKER;
        /// How long running callbacks get to finish when a worker stops. Those that do not finish are released for another attempt.
        STUDYGOV_WORKER_GRACE: Time, Is("5s"), Value("workers.<group>.grace"), WORKER;
        /// Where a worker answers `/-/healthy` (its main loop has turned within the last minute) and `/-/metrics`; `:9090` is all
        /// addresses.
        STUDYGOV_WORKER_LISTEN: Listen, Nothing, Value("no value, it is always :9090"), WORKER;
        /// Python of the callbacks `python_function` and `fastr`.
        STUDYGOV_PYTHON: Text, Is("python3"), Settings, RUNNERS;
        /// File with the logins of callbacks at other systems.
        NETRC: Path, Depends("`~/.netrc`"), Settings, RUNNERS;
        /// Home directory of the user, where `.netrc` is found.
        HOME: Path, Depends("set by the system"), Value("studygovernor.fastr.projectHome"), RUNNERS;
    }
    "Broker" {
        /// Address of RabbitMQ, `amqp://user:password@host:5672/vhost` (`amqps` and `pyamqp` too), or several with semicolons between
        /// them, of which the first that answers is used. Required with the callback method `rabbitmq`.
        STUDYGOV_BROKER: Broker, Nothing, Value("externalBroker.url"), RUNNERS;
        /// Another name of `STUDYGOV_BROKER`, which takes precedence.
        STUDYGOV_CELERY_BROKER: Broker, Nothing, Value("externalBroker.url"), RUNNERS;
        /// Host of RabbitMQ; selects the address in parts when neither address above is set. User, password and virtual host may hold any
        /// character then.
        STUDYGOV_BROKER_HOST: Host, Nothing, Value("externalBroker.host"), RUNNERS;
        /// Port of RabbitMQ.
        STUDYGOV_BROKER_PORT: Port(1), Depends("5672 (5671 with TLS)"), Value("externalBroker.port"), RUNNERS;
        /// Virtual host of RabbitMQ.
        STUDYGOV_BROKER_VHOST: Text, Is("/"), Value("externalBroker.vhost"), RUNNERS;
        /// User at RabbitMQ.
        STUDYGOV_BROKER_USER: Text, Is("guest"), Value("externalBroker.user"), RUNNERS;
        /// Password at RabbitMQ.
        STUDYGOV_BROKER_PASSWORD: Secret, Is("guest"), Value("rabbitmq.password or externalBroker.password"), RUNNERS;
        /// Whether the connection to RabbitMQ is encrypted.
        STUDYGOV_BROKER_TLS: Flag, Is("false"), Value("externalBroker.tls"), RUNNERS;
        /// Beginning of the names of the queues: a different one for each study on a broker, the same for all servers and workers of
        /// a study.
        STUDYGOV_BROKER_PREFIX: Word, Is("studygovernor"), Settings, RUNNERS;
        /// A message that no worker takes for this many seconds is sent again, then in growing intervals; a queue that the broker
        /// cannot use for this time is redeclared.
        STUDYGOV_REPUBLISH_SECONDS: Number("seconds", 1, DAY), Is("60"), Settings, SERVER;
    }
    "Project" {
        /// Folder of the study; the folders below are relative to it.
        STUDYGOV_PROJECT_HOME: Path, Depends("the working directory"), Value("studygovernor.fastr.projectHome"), ALL;
        /// Folder of programs that callbacks run.
        STUDYGOV_PROJECT_BIN: Path, Is("bin"), Settings, RUNNERS;
        /// Folder of fastr networks.
        STUDYGOV_PROJECT_NETWORKS: Path, Is("networks"), Settings, RUNNERS;
        /// Folder of tasks.
        STUDYGOV_PROJECT_TASKS: Path, Is("tasks"), Settings, RUNNERS;
        /// Folder of task templates.
        STUDYGOV_PROJECT_TEMPLATES: Path, Is("task_templates"), Settings, RUNNERS;
        /// Folder of workflow files.
        STUDYGOV_PROJECT_WORKFLOWS: Path, Is("workflows"), Settings, ALL;
        /// Folder of data.
        STUDYGOV_DATA_DIR: Path, Is("data"), Value("studygovernor.fastr.projectHome"), RUNNERS;
        /// Folder of temporary files of pipelines.
        STUDYGOV_PROJECT_SCRATCH: Path, Is("scratch"), Value("studygovernor.fastr.projectScratch"), RUNNERS;
        /// Name of the project in XNAT. A warning reminds of it when it is not set.
        STUDYGOV_XNAT_PROJECT: Text, Is("studygovernor"), Value("studygovernor.fastr.xnatProject"), RUNNERS;
    }
    "Repository of the study" {
        /// A git repository that the study's files come from ([guide](../guide/project.md)): `https://…`, `http://…`, `ssh://…`,
        /// `user@host:path`, `file://…` or `/path`.
        PROJECT_REPO: Repository, Nothing, Value("studygovernor.project.git.url"), ALL;
        /// A branch or tag of the repository.
        PROJECT_BRANCH: Branch, Depends("the default branch of the repository"), Value("studygovernor.project.git.branch"), ALL;
        /// Folder of the study in the repository.
        PROJECT_RELATIVE_PATH: Inside, Depends("the whole repository"), Value("studygovernor.project.git.relativePath"), ALL;
        /// Password or token for an https address of `PROJECT_REPO`.
        PROJECT_PASSWORD: Secret, Nothing, Value("studygovernor.project.git.password"), ALL;
        /// When the repository is fetched. `start`: when a server or worker starts. `interval:5m`: also at this interval (`s`, `m`,
        /// `h`, `d`). `off`: when `studygovernor project sync` is run.
        STUDYGOV_PROJECT_SYNC: Sync, Is("start"), Value("studygovernor.project.git.sync"), ALL;
        /// `new`: servers load workflow files of the repository whose labels are new. `off`: they only check them.
        STUDYGOV_PROJECT_LOAD: Choice(&["new", "off"]), Is("off"), Settings, ALL;
        /// Command that git calls for ssh addresses.
        GIT_SSH_COMMAND: Text, Depends("`ssh` with the key `/etc/studygovernor/git/key`, where that file exists"), Value("studygovernor.project.git.ssh"), ALL;
    }
}
