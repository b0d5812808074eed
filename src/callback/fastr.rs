//! `fastr`: runs a network of fastr 3.4 on data of the experiment in XNAT.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::process::Program;
use super::web::{Web, segment, segments};
use super::workplace::direct_file;
use super::xnat::{Dated, newest_file};
use super::{Failure, Outcome, Run, process, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    network_id: String,
    #[serde(default)]
    source_mapping: Option<Map<String, Value>>,
    #[serde(default)]
    sink_mapping: Option<Map<String, Value>>,
    #[serde(default = "xnat")]
    xnat_external_system_name: String,
    #[serde(default)]
    fastr_home: Option<String>,
}

fn xnat() -> String {
    "XNAT".to_owned()
}

const KNOWN: [&str; 5] = ["network_id", "source_mapping", "sink_mapping", "xnat_external_system_name", "fastr_home"];

const SCRIPT: &str = include_str!("fastr_run.py");

/// Placeholder for the timestamp in the path of a file.
const NEWEST: &str = "{latest_timestamp}";

/// Query of the sinks' URIs, which tells XNAT how to store the results.
const SINK_QUERY: &str = "resource_type=xnat%3AresourceCatalog&assessors_type=xnat%3AqcAssessmentData";

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let network = network_file(&arguments.network_id, run)?;
    let source_data = source_data(&arguments, run).await?;
    let sink_data = sink_data(&arguments, run).await?;
    let files = Files::new(&arguments.network_id, &network, run)?;
    let asked = json!({
        "network": files.network,
        "source_data": source_data,
        "sink_data": sink_data,
        "tmpdir": files.scratch,
    });
    files.write(&network, &asked, run)?;
    let python = if is_on_path("fastr_python_launcher") { "fastr_python_launcher" } else { &run.workplace.python };
    let argv = [python.to_owned(), files.code.display().to_string(), files.asked.display().to_string()];
    run.log.line(&format!("Running network {}: {argv:?}", arguments.network_id));
    let variables = variables(&arguments, &files, run);
    let program = Program { argv: argv.to_vec(), variables, ..Program::default() };
    let ended = process::run(program, run).await?;
    files.keep("_stdout.txt", &ended.stdout);
    files.keep("_stderr.txt", &ended.stderr);
    let is_clean = ended.return_code == 0 && std::fs::remove_dir_all(&files.scratch).is_ok();
    run.log.line(&format!("Return code: {}", ended.return_code));
    let outcome = Outcome::success(json!({
        "network_id": arguments.network_id,
        "code_file": files.code,
        "scratch_dir": files.scratch,
        "stdout_log": files.beside("_stdout.txt"),
        "stderr_log": files.beside("_stderr.txt"),
        "fastr_home": arguments.fastr_home,
        "source_data": source_data,
        "sink_data": sink_data,
        "cleanup_done": is_clean,
        "return_value": ended.return_code,
    }));
    if ended.return_code == 0 {
        return Ok(outcome);
    }
    let last = ended.stderr.trim().lines().last().unwrap_or("see the log").to_owned();
    let kept = files.scratch.display();
    let reason = format!("fastr ended with return code {}: {last}; its files are kept in {kept}", ended.return_code);
    Ok(outcome.but_failed(reason, None))
}

/// The network file of the project: `network_id.json`, or else `network_id.py`.
fn network_file(id: &str, run: &Run<'_>) -> Result<PathBuf, Failure> {
    let find = |ending: &str| direct_file(&run.workplace.networks, &format!("{id}.{ending}"), "fastr", "networks");
    find("json").or_else(|_| find("py")).map_err(|error| Failure(format!("cannot find network '{id}': {error}")))
}

/// The URL of the experiment in XNAT, with fastr's scheme and with the plain one.
fn addresses(arguments: &Arguments, run: &Run<'_>) -> Result<(String, String), Failure> {
    let name = &arguments.xnat_external_system_name;
    let base = run.system(name)?;
    let (subject, experiment) = (run.external_id("subject", name)?, run.external_id("experiment", name)?);
    let (subject, experiment) = (segment(subject)?, segment(experiment)?);
    let project = segment(&run.workplace.xnat_project)?;
    let plain = format!("{base}/data/archive/projects/{project}/subjects/{subject}/experiments/{experiment}");
    if !(base.starts_with("http://") || base.starts_with("https://")) {
        return Err(Failure(format!("the external system '{name}' has the URL {base}, which is not http or https")));
    }
    Ok((format!("xnat+{plain}"), plain))
}

/// For each source, the label of the experiment and the URI of its data.
async fn source_data(arguments: &Arguments, run: &Run<'_>) -> Result<Map<String, Value>, Failure> {
    let mut data = Map::new();
    for (name, path) in arguments.source_mapping.iter().flatten() {
        let uri = uri(arguments, name, path, run).await?;
        let mut samples = Map::new();
        samples.insert(run.text("/experiment/label").to_owned(), uri.into());
        data.insert(name.clone(), samples.into());
    }
    Ok(data)
}

/// For each sink, the URI of its result.
async fn sink_data(arguments: &Arguments, run: &Run<'_>) -> Result<Map<String, Value>, Failure> {
    let mut data = Map::new();
    for (name, path) in arguments.sink_mapping.iter().flatten() {
        let uri = uri(arguments, name, path, run).await?;
        data.insert(name.clone(), format!("{uri}?{SINK_QUERY}").into());
    }
    Ok(data)
}

async fn uri(arguments: &Arguments, name: &str, path: &Value, run: &Run<'_>) -> Result<String, Failure> {
    let path =
        path.as_str().ok_or_else(|| Failure(format!("callback_arguments: the path of {name} is not a string")))?;
    let (for_fastr, plain) = addresses(arguments, run)?;
    if !path.contains(NEWEST) {
        return Ok(format!("{for_fastr}{path}"));
    }
    let wrong = || {
        Failure(format!(
            "callback_arguments: {name}: the part after /files/ must contain {NEWEST} exactly \
        once"
        ))
    };
    let (resource, file) = path.split_once("/files/").ok_or_else(wrong)?;
    let dated = Dated::new(file, NEWEST).ok_or_else(wrong)?;
    let web = Web::new(run, Duration::from_mins(1))?;
    let newest = newest_file(&web, &format!("{plain}{resource}"), dated).await?;
    Ok(format!("{for_fastr}{resource}/files/{}", segments(&newest)?))
}

/// The files of one run, in the worker's scratch space.
struct Files {
    /// Common beginning of their paths.
    base: PathBuf,
    scratch: PathBuf,
    code: PathBuf,
    asked: PathBuf,
    network: PathBuf,
    /// Folder of the configuration that tells fastr the scratch space.
    config: PathBuf,
}

impl Files {
    fn new(network_id: &str, network: &Path, run: &Run<'_>) -> Result<Self, Failure> {
        let space = &run.workplace.scratch;
        let failed =
            |error: std::io::Error| Failure(format!("cannot use the scratch space {}: {error}", space.display()));
        std::fs::create_dir_all(space).map_err(failed)?;
        let space = space.canonicalize().map_err(failed)?;
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' }).collect()
        };
        // Labels are unique only within a subject.
        let (label, id) = (plain(run.text("/experiment/label")), run.assignment.execution_id);
        let base = space.join(format!("fastr_{}_{label}_{id}", plain(network_id)));
        let with = |ending: &str| PathBuf::from(format!("{}{ending}", base.display()));
        let ending = network.extension().and_then(|ending| ending.to_str()).unwrap_or("py");
        Ok(Self {
            scratch: base.clone(),
            code: with(".py"),
            asked: with("_asked.json"),
            network: with(&format!("_network.{ending}")),
            config: with("_config"),
            base,
        })
    }

    fn beside(&self, ending: &str) -> PathBuf {
        PathBuf::from(format!("{}{ending}", self.base.display()))
    }

    fn write(&self, network: &Path, asked: &Value, run: &Run<'_>) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure(format!("cannot write to the scratch space: {error}"));
        if self.scratch.exists() {
            // From an earlier attempt: fastr would continue with its intermediate results.
            std::fs::remove_dir_all(&self.scratch).map_err(failed)?;
        }
        std::fs::create_dir_all(&self.config).map_err(failed)?;
        let space = self.scratch.parent().unwrap_or(&run.workplace.scratch);
        let mount = format!("mounts['studygovernor_scratch'] = {}\n", json!(space));
        std::fs::write(self.config.join("studygovernor.py"), mount).map_err(failed)?;
        std::fs::write(&self.code, SCRIPT).map_err(failed)?;
        std::fs::write(&self.asked, asked.to_string()).map_err(failed)?;
        std::fs::copy(network, &self.network).map_err(failed)?;
        run.workplace.hand_over(&self.scratch).map_err(failed)?;
        Ok(())
    }

    /// Stores an output of fastr beside the other files, for debugging; the log of the run contains it too.
    fn keep(&self, ending: &str, text: &str) {
        let _ = std::fs::write(self.beside(ending), text);
    }
}

fn variables(arguments: &Arguments, files: &Files, run: &Run<'_>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    if let Some(home) = &arguments.fastr_home {
        variables.push(("FASTRHOME".to_owned(), home.clone()));
    }
    let config = files.config.display().to_string();
    let config = match std::env::var("FASTR_CONFIG_DIRS") {
        Ok(others) if !others.is_empty() => format!("{config}:{others}"),
        _ => config,
    };
    variables.push(("FASTR_CONFIG_DIRS".to_owned(), config));
    // The tools call `python`, which must be the one beside the configured interpreter.
    if let Some(folder) = Path::new(&run.workplace.python).parent().filter(|folder| folder.is_absolute()) {
        let path = std::env::var("PATH").unwrap_or_default();
        variables.push(("PATH".to_owned(), format!("{}:{path}", folder.display())));
    }
    variables
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
