//! The types of a declared setting: the name with type and default, which parsing needs, and the description for documents.
//!
//! Settings are declared once, in `table`. Each declaration creates a [`Name`], which reading from an
//! [`Environment`](super::Environment) requires, and a [`Setting`], from which all documents are generated. Reading an undeclared
//! setting does not compile; a declared setting that is never read is dead code, which the lints reject.

use std::fmt;
use std::ops::Deref;

/// The type of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A name of at most 64 characters without spaces.
    Word,
    /// A text that is never shown.
    Secret,
    /// `true` or `false`, in any of the usual spellings.
    Flag,
    /// A flag that is off when its value is empty.
    Switch,
    /// A whole number: unit, minimum, maximum.
    Number(&'static str, u64, u64),
    /// A port, with the minimum number.
    Port(u64),
    /// One of several words.
    Choice(&'static [&'static str]),
    /// A duration like `5 days` or `1 hour, 30 minutes`.
    Span,
    /// A duration like `90`, `90s`, `15m`, `1h` or `1d`.
    Time,
    /// A size like `500 MB`.
    Size,
    /// A path prefix of URLs, like `/studies/one`.
    Prefix,
    /// A path in the file system.
    Path,
    /// A host name or IP address.
    Host,
    /// `host:port`.
    Listen,
    /// The URL of a server, `http://…` or `https://…`.
    Url,
    /// The URL of a database; a secret, because it may contain a password.
    Database,
    /// The URL of a broker; a secret, because it may contain a password.
    Broker,
    /// An e-mail address.
    Mailbox,
    /// Several e-mail addresses.
    Mailboxes,
    /// Names or patterns, separated by commas.
    List,
    /// A user of the machine.
    User,
    /// The address of a git repository; a secret, because it may contain a password.
    Repository,
    /// The name of a branch.
    Branch,
    /// A folder inside another folder.
    Inside,
    /// When a repository is fetched.
    Sync,
    /// A log filter.
    Log,
}

impl Kind {
    /// Whether the value is never shown and can be set by `NAME_FILE`.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Database | Self::Broker | Self::Repository)
    }

    /// Whether invalid values are possible. Any text is valid, and a path may be created later.
    #[must_use]
    pub fn is_checked(self) -> bool {
        !matches!(self, Self::Text | Self::Secret | Self::Path)
    }

    /// The accepted values, for errors of the form "… is not …" and for documents.
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
    /// No default.
    Nothing,
    /// This text, parsed like a configured value.
    Is(&'static str),
    /// It depends on something else, which the text describes.
    Depends(&'static str),
}

/// The way in which the Helm chart sets a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chart {
    /// With a value of its own.
    Value(&'static str),
    /// With an entry in `settings`.
    Settings,
    /// With an entry in `extraEnv`, which accepts secrets too.
    ExtraEnv,
    /// Not at all, for this reason.
    Never(&'static str),
}

impl Chart {
    /// The text for documents.
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
    /// `studygovernor worker`; without a broker it also reads the server's settings of database and callbacks.
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

/// The name of a declared setting, with its type and default.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    pub(super) text: &'static str,
    pub(super) kind: Kind,
    pub(super) default: DefaultValue,
}

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.text
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn default(&self) -> DefaultValue {
        self.default
    }

    /// The default as text; empty if there is none or it depends on something else.
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
        self.text
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text)
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

/// Declares settings: a constant for each setting, and a table of all settings.
macro_rules! settings {
    ($($group:literal {
        $($(#[doc = $meaning:literal])+ $(#[expect $expect:tt])? $name:ident: $kind:expr, $default:expr, $chart:expr, $readers:expr;)+
    })+) => {
        $($(
            $(#[doc = $meaning])+
            $(#[expect $expect])?
            pub(crate) const $name: Name = Name { text: stringify!($name), kind: $kind, default: $default };
        )+)+

        /// All settings, in the order of the documents.
        pub static SETTINGS: &[Setting] = &[$($(
            Setting {
                // Does not use the constant, so that it is dead code if no code reads the setting.
                name: Name { text: stringify!($name), kind: $kind, default: $default },
                group: $group,
                meaning: concat!($($meaning),+),
                chart: $chart,
                readers: $readers,
            },
        )+)+];
    };
}
pub(super) use settings;
