//! The parts of a setting: its name with its type and default, which are all that parsing needs, and the words for its readers.
//!
//! Settings are declared once, in `table`. Each declaration makes a [`Name`], without which nothing can be read from an
//! [`Environment`](super::Environment), and a [`Setting`], from which all documents are written. A setting that is not declared does not
//! compile; one that is declared and never read is dead code, which the lints refuse.

use std::fmt;
use std::ops::Deref;

/// The values that a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A name of at most 64 characters without spaces.
    Word,
    /// A text that is never shown.
    Secret,
    /// `true` or `false`, in any of the usual words.
    Flag,
    /// A flag that is off when it is set to nothing.
    Switch,
    /// A whole number of something, from the least to the most.
    Number(&'static str, u64, u64),
    /// A port, from the least number.
    Port(u64),
    /// One of several words.
    Choice(&'static [&'static str]),
    /// A time like `5 days` or `1 hour, 30 minutes`.
    Span,
    /// A time like `90`, `90s`, `15m`, `1h` or `1d`.
    Time,
    /// A size like `500 MB`.
    Size,
    /// A path of an address, like `/studies/one`.
    Prefix,
    /// A path of the file system.
    Path,
    /// The name or address of a machine.
    Host,
    /// `host:port`.
    Listen,
    /// The address of a server, `http://…` or `https://…`.
    Url,
    /// The address of a database; a secret, as it may hold a password.
    Database,
    /// The address of a broker; a secret, as it may hold a password.
    Broker,
    /// The address of a mailbox.
    Mailbox,
    /// Several addresses of mailboxes.
    Mailboxes,
    /// Several names or patterns with commas between them.
    List,
    /// A user of the machine.
    User,
    /// The address of a git repository; a secret, as it may hold a password.
    Repository,
    /// The name of a branch.
    Branch,
    /// A folder inside of another one.
    Inside,
    /// When a repository is fetched.
    Sync,
    /// Directives for the log.
    Log,
}

impl Kind {
    /// Whether the value is never shown, and may be given as `NAME_FILE`.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Database | Self::Broker | Self::Repository)
    }

    /// Whether there are values that are refused. A text can be anything, and a path may appear later.
    #[must_use]
    pub fn is_checked(self) -> bool {
        !matches!(self, Self::Text | Self::Secret | Self::Path)
    }

    /// The wanted values, for an error that says "… is not …" and for documents.
    #[must_use]
    pub fn wanted(self) -> String {
        let text = match self {
            Self::Number(unit, least, most) => return format!("a number of {unit} ({least} to {most})"),
            Self::Port(least) => return format!("a port number ({least} to 65535)"),
            Self::Choice(words) => return format!("one of {}", words.join(", ")),
            Self::Text => "a text",
            Self::Word => "a name of at most 64 characters without spaces",
            Self::Secret => "a secret text",
            Self::Flag | Self::Switch => "true or false",
            Self::Span => "a time like '5 days' or '90 minutes'",
            Self::Time => "a duration like 90, 90s, 15m, 1h or 1d",
            Self::Size => "a size like '500 MB' or '4 GB'",
            Self::Prefix => "a path like /studies/one",
            Self::Path => "a path",
            Self::Host => "a host name or an address",
            Self::Listen => "an address with a port, like 127.0.0.1:9090 or :9090",
            Self::Url => "a URL like https://host/prefix",
            Self::Database => {
                "a database URL (sqlite:///file.db, postgresql://user:password@host/name or \
                 mysql://user:password@host/name)"
            }
            Self::Broker => "a RabbitMQ URL like amqp://user:password@host:5672/vhost",
            Self::Mailbox => "an e-mail address like study@example.org or Study <study@example.org>",
            Self::Mailboxes => "a list of e-mail addresses like a@example.org, Ann <ann@example.org>",
            Self::List => "a list of names with commas between them",
            Self::User => "a name in /etc/passwd, uid, or uid:gid",
            Self::Repository => {
                "an address of a git repository: https://host/path, http://…, ssh://user@host/path, user@host:path, \
                 file:///path or /path"
            }
            Self::Branch => "the name of a branch",
            Self::Inside => "a folder inside the repository, as study or studies/one",
            Self::Sync => "one of start, interval:5m (a number with s, m, h or d), off",
            Self::Log => {
                "a level (error, warn, info, debug, trace) or a list of directives like info,studygovernor=debug"
            }
        };
        text.to_owned()
    }
}

/// The value of a setting that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// There is none.
    Nothing,
    /// This text, read as a value that is set is read.
    Is(&'static str),
    /// It depends; in words.
    Depends(&'static str),
}

/// How the chart for Kubernetes sets a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chart {
    /// By a value of its own.
    Value(&'static str),
    /// By its name in `settings`.
    Settings,
    /// By its name in `extraEnv`, which takes secrets too.
    ExtraEnv,
    /// It is not set, for this reason.
    Never(&'static str),
}

impl Chart {
    /// In words, for documents.
    #[must_use]
    pub fn shown(self) -> &'static str {
        match self {
            Self::Value(text) | Self::Never(text) => text,
            Self::Settings => "settings",
            Self::ExtraEnv => "extraEnv",
        }
    }
}

/// A program that uses a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// `studygovernor serve`
    Server,
    /// `studygovernor worker`; without a broker it also reads the settings of a server that are about database and callbacks.
    Worker,
    /// Any other command.
    Cli,
}

impl Reader {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
            Self::Cli => "cli",
        }
    }
}

/// The name of a declared setting, with what reading it needs.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: DefaultValue,
}

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.name
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn default(&self) -> DefaultValue {
        self.default
    }

    /// The default as a text; empty where there is none or where it depends.
    pub(super) fn default_text(&self) -> &'static str {
        match self.default {
            DefaultValue::Is(text) => text,
            DefaultValue::Nothing | DefaultValue::Depends(_) => "",
        }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.name
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.name
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// A setting with its description.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: Name,
    pub group: &'static str,
    /// One or two sentences, in Markdown.
    pub meaning: &'static str,
    pub chart: Chart,
    pub readers: &'static [Reader],
}

/// Declares settings: a constant for each, and the table of all.
macro_rules! settings {
    ($($group:literal {
        $($(#[doc = $meaning:literal])+ $(#[expect $expect:tt])? $name:ident: $kind:expr, $default:expr, $chart:expr, $readers:expr;)+
    })+) => {
        $($(
            $(#[doc = $meaning])+
            $(#[expect $expect])?
            pub(crate) const $name: Name = Name { name: stringify!($name), kind: $kind, default: $default };
        )+)+

        /// All settings, in the order of the documents.
        pub static SETTINGS: &[Setting] = &[$($(
            Setting {
                // Not the constant: it is to be dead code when nothing reads it.
                name: Name { name: stringify!($name), kind: $kind, default: $default },
                group: $group,
                meaning: concat!($($meaning),+),
                chart: $chart,
                readers: $readers,
            },
        )+)+];
    };
}
pub(super) use settings;
