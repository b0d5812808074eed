//! `studygovernor settings`: the settings in effect, and the documents about all settings.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use crate::config::{
    Chart, DefaultValue, Environment, IGNORED, Kind, Name, Reader, SETTINGS, Setting, Settings, Source, holds_login,
};

use super::console::{err, out};
use super::{Failure, working_directory};

/// Show the settings in effect, their origins and whether they can be used
///
/// Each setting is shown with its value and its origin: the environment, the file .env, a file with a secret, or its default. Secrets
/// are masked. The exit code is 2 when a value cannot be used. Nothing is changed.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[derive(Args)]
#[command(group = clap::ArgGroup::new("document").multiple(false))]
pub(super) struct ShowSettings {
    /// Only settings that are set
    #[arg(long)]
    set: bool,
    /// Print the reference of all settings instead (docs/reference/settings.md)
    #[arg(long, group = "document")]
    markdown: bool,
    /// Print an example of a file .env with all settings instead (.env.example)
    #[arg(long, group = "document")]
    env: bool,
    /// Print all settings for programs instead, as JSON
    #[arg(long, group = "document")]
    json: bool,
}

impl ShowSettings {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.markdown {
            out(reference().trim_end());
        } else if self.env {
            out(example().trim_end());
        } else if self.json {
            out(&format!("{:#}", list()));
        } else {
            return self.show();
        }
        Ok(())
    }

    /// The settings in effect, before the first that cannot be used.
    fn show(&self) -> Result<(), Failure> {
        let directory = working_directory()?;
        let environment = Environment::load(&directory)?;
        let width = SETTINGS.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
        for (group, settings) in groups() {
            let shown = settings.iter().filter(|setting| !self.set || environment.is_set(setting.name));
            let lines: Vec<String> = shown.map(|setting| line(&environment, setting.name, width)).collect();
            if !lines.is_empty() {
                out(&format!("{group}\n{}\n", lines.join("\n")));
            }
        }
        let settings = Settings::inspect(&environment, &directory)?;
        out(&format!("Database: {}", settings.database.shown()));
        for warning in &settings.warnings {
            err(&format!("warning: {warning}"));
        }
        Ok(())
    }
}

/// "  STUDYGOV_PORT  8000  (default)"
fn line(environment: &Environment, name: Name, width: usize) -> String {
    let (value, origin) = match (environment.get(name), name.default()) {
        (Some(value), _) => {
            let shown = if name.kind().is_secret() || holds_login(value) { "***" } else { value };
            (shown, origin(environment, name))
        }
        (None, _) if name.kind() == Kind::Switch && environment.is_set(name) => {
            ("false", format!("empty, {}", origin(environment, name)))
        }
        (None, DefaultValue::Is(text) | DefaultValue::Depends(text)) => (text, "default".to_owned()),
        (None, DefaultValue::Nothing) => ("-", "not set".to_owned()),
    };
    format!("  {:<width$}  {}  ({origin})", name.as_str(), value.replace('`', ""))
}

fn origin(environment: &Environment, name: Name) -> String {
    match environment.source(&name) {
        Source::Environment => "environment".to_owned(),
        Source::Dotenv => ".env".to_owned(),
        Source::File(path) => format!("file {}", path.display()),
    }
}

/// The settings by group, in order.
fn groups() -> Vec<(&'static str, Vec<&'static Setting>)> {
    let mut groups: Vec<(&str, Vec<&Setting>)> = Vec::new();
    for setting in SETTINGS {
        match groups.last_mut() {
            Some((group, settings)) if *group == setting.group => settings.push(setting),
            _ => groups.push((setting.group, vec![setting])),
        }
    }
    groups
}

/// docs/reference/settings.md
fn reference() -> String {
    let mut text = include_str!("settings_intro.md").to_owned();
    for (group, settings) in groups() {
        let head = "| variable | values | default | meaning | chart | read by |\n|---|---|---|---|---|---|\n";
        text += &format!("\n## {group}\n\n{head}");
        for setting in settings {
            let Setting { name, meaning, chart, readers, .. } = setting;
            let secret = if name.kind().is_secret() { " (secret)" } else { "" };
            let chart = match chart {
                Chart::Never(reason) => format!("– ({reason})"),
                Chart::Value(text) if text.contains(' ') => (*text).to_owned(),
                other => format!("`{}`", other.shown()),
            };
            let readers: Vec<&str> = readers.iter().map(|reader| Reader::as_str(*reader)).collect();
            text += &format!(
                "| `{name}`{secret} | {} | {} | {} | {chart} | {} |\n",
                values(name.kind()),
                default_in_markdown(*name),
                meaning.trim(),
                readers.join(", ")
            );
        }
    }
    text += "\n## Names without a meaning\n\nVersion 8.1 read these. They are ignored, and the log says so.\n\n";
    text += "| variable | reason |\n|---|---|\n";
    for (name, reason) in IGNORED {
        text += &format!("| `{name}` | {reason} |\n");
    }
    text
}

fn default_in_markdown(name: Name) -> String {
    match name.default() {
        DefaultValue::Nothing => "–".to_owned(),
        DefaultValue::Is(text) => format!("`{text}`"),
        DefaultValue::Depends(text) => text.to_owned(),
    }
}

/// The values that a kind of setting takes, in a few words.
fn values(kind: Kind) -> String {
    match kind {
        Kind::Number(unit, least, most) => format!("{least} to {most} {unit}"),
        Kind::Port(least) => format!("{least} to 65535"),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Flag | Kind::Switch => "`true`, `false`".to_owned(),
        Kind::Text | Kind::Word | Kind::Secret => "text".to_owned(),
        Kind::Span => "`5 days`, `90 minutes`".to_owned(),
        Kind::Time => "`90`, `90s`, `15m`, `1h`, `1d`".to_owned(),
        Kind::Size => "`500 MB`, `4 GB`".to_owned(),
        Kind::Prefix | Kind::Path => "path".to_owned(),
        Kind::Host => "host".to_owned(),
        Kind::Listen => "`host:port`".to_owned(),
        Kind::Url | Kind::Database | Kind::Broker => "URL".to_owned(),
        Kind::Mailbox => "e-mail address".to_owned(),
        Kind::Mailboxes => "e-mail addresses".to_owned(),
        Kind::Repository => "address".to_owned(),
        Kind::Branch => "branch".to_owned(),
        Kind::Inside => "folder".to_owned(),
        Kind::Sync => "`start`, `interval:5m`, `off`".to_owned(),
        Kind::List => "list".to_owned(),
        Kind::User => "user".to_owned(),
        Kind::Log => "log filter".to_owned(),
    }
}

/// .env.example
fn example() -> String {
    let mut text = "# All settings of Study Governor, none of them set. Copy this file to .env in the working directory and remove the # in\n\
                    # front of the settings that you change. A setting marked \"secret\" can be given as NAME_FILE=/path/of/a/file too.\n\
                    # Written by `studygovernor settings --env` (make documents). More: docs/reference/settings.md\n"
        .to_owned();
    for (group, settings) in groups() {
        text += &format!("\n# ---- {group} ----\n");
        for setting in settings {
            let name = setting.name;
            text.push('\n');
            let secret = if name.kind().is_secret() { "Secret. " } else { "" };
            for line in wrapped(&format!("{secret}{}", plain(setting.meaning)), 118) {
                text += &format!("# {line}\n");
            }
            let default = match name.default() {
                DefaultValue::Is(default) if default.contains(' ') => format!("\"{default}\""),
                DefaultValue::Is(default) => default.to_owned(),
                DefaultValue::Depends(words) => {
                    text += &format!("# Default: {}\n", plain(words));
                    String::new()
                }
                DefaultValue::Nothing => String::new(),
            };
            let _ = writeln!(text, "#{name}={default}");
        }
    }
    text
}

/// A text of Markdown without its marks and links.
fn plain(markdown: &str) -> String {
    let mut text = markdown.trim().replace('`', "");
    while let Some((before, rest)) = text.split_once(" ([") {
        let after = rest.split_once("))").map_or("", |(_, after)| after);
        text = format!("{before}{after}");
    }
    text
}

/// The words of a text in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// All settings for programs.
fn list() -> Value {
    let settings = SETTINGS.iter().map(|setting| {
        let name = setting.name;
        let default = match name.default() {
            DefaultValue::Is(text) => json!(text),
            DefaultValue::Nothing | DefaultValue::Depends(_) => Value::Null,
        };
        let how = match setting.chart {
            Chart::Value(_) => "value",
            Chart::Settings => "settings",
            Chart::ExtraEnv => "extraEnv",
            Chart::Never(_) => "never",
        };
        let readers: Vec<&str> = setting.readers.iter().map(|reader| reader.as_str()).collect();
        json!({
            "name": name.as_str(),
            "group": setting.group,
            "secret": name.kind().is_secret(),
            "wanted": name.kind().wanted(),
            "checked": name.kind().is_checked(),
            "default": default,
            "meaning": plain(setting.meaning),
            "chart": { "how": how, "text": setting.chart.shown() },
            "readers": readers,
        })
    });
    let ignored = IGNORED.iter().map(|(name, reason)| json!({ "name": name, "reason": reason }));
    json!({ "settings": settings.collect::<Vec<_>>(), "ignored": ignored.collect::<Vec<_>>() })
}
