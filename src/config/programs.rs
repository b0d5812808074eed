//! Environment and user of the programs that callbacks run.

use std::collections::BTreeMap;

use super::environment::{Environment, SettingError};
use super::secret_names::{is_own_secret, is_secret_name};
use super::table::STUDYGOV_CALLBACK_ENVIRONMENT;

/// Variables that programs receive when they are set; a star stands for any ending. A pattern with a star never passes on a secret
/// (`AWS_…`, `…_PASSWORD`, …).
const USUAL: &[&str] = &[
    // the machine and its user
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    "HOSTNAME",
    "TERM",
    "XDG_*",
    "COLUMNS",
    "LINES",
    // the network
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "NETRC",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    // programs and their libraries
    "LD_LIBRARY_PATH",
    "PYTHON*",
    "VIRTUAL_ENV",
    "CONDA_*",
    "MAMBA_*",
    "PYENV_*",
    "R_*",
    "JAVA_HOME",
    "PERL5LIB",
    "MANPATH",
    "MODULEPATH",
    "MODULESHOME",
    "LOADEDMODULES",
    "LMOD_*",
    "_LMFILES_",
    "EASYBUILD_*",
    "EB*",
    "NIX_*",
    "MATLAB*",
    "MCR*",
    // imaging
    "FASTR*",
    "XNAT_HOST",
    "FSL*",
    "FREESURFER*",
    "FREESURFER_HOME",
    "SUBJECTS_DIR",
    "FS_*",
    "ANTSPATH",
    "MRTRIX*",
    "AFNI*",
    "ITK_*",
    "NIFTI*",
    "BIDS*",
    "ELASTIX*",
    // processors
    "OMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "NUMEXPR_*",
    "CUDA_*",
    "NVIDIA_*",
    "ROCR_*",
    "HIP_*",
    "GPU_*",
    "TF_*",
    "TORCH_*",
    "NCCL_*",
    "SLURM_*",
    "PBS_*",
    "SGE_*",
    // containers
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "SINGULARITY_*",
    "APPTAINER_*",
];

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct ProgramSettings {
    /// The variables that programs receive besides those that describe the run.
    pub variables: BTreeMap<String, String>,
    /// The user that programs run as; `None` for the user of this process.
    pub user: Option<ProgramUser>,
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramUser {
    pub uid: u32,
    pub gid: u32,
}

impl ProgramSettings {
    /// Reads `STUDYGOV_CALLBACK_ENVIRONMENT` and `STUDYGOV_CALLBACK_USER`.
    ///
    /// # Errors
    /// When a name is invalid, the user does not exist, or this process may not start programs as another user.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let added = environment.text(STUDYGOV_CALLBACK_ENVIRONMENT);
        let added: Vec<&str> = added.split([',', ' ', ';']).filter(|name| !name.is_empty()).collect();
        if let Some(wrong) = added.iter().find(|name| !is_pattern(name)) {
            let hint = format!("'{wrong}' is not the name of a variable, or a prefix followed by '*'");
            return Err(SettingError::new(STUDYGOV_CALLBACK_ENVIRONMENT, hint));
        }
        let may_have = |name: &str| {
            let asked_for = added.iter().any(|pattern| matches(pattern, name)) && !is_own_secret(name);
            asked_for || is_usual(name)
        };
        // Includes the environment of the process: it has a `PATH` even where the settings come from elsewhere.
        let process =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let set = environment.all().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut variables: BTreeMap<String, String> = process.chain(set).filter(|(name, _)| may_have(name)).collect();
        let user = user::read(environment, &mut variables)?;
        Ok(Self { variables, user })
    }
}

fn is_pattern(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// Whether programs receive a variable of this name by default.
pub(super) fn is_usual(name: &str) -> bool {
    USUAL.iter().any(|pattern| matches(pattern, name) && !(pattern.ends_with('*') && is_secret_name(name)))
}

mod user {
    //! `STUDYGOV_CALLBACK_USER`: a name in `/etc/passwd`, `uid`, or `uid:gid`.

    use super::{BTreeMap, Environment, ProgramUser, SettingError};

    use super::super::table::STUDYGOV_CALLBACK_USER as NAME;

    /// Reads the user and sets its name, home and shell in `variables`.
    pub(super) fn read(
        environment: &Environment,
        variables: &mut BTreeMap<String, String>,
    ) -> Result<Option<ProgramUser>, SettingError> {
        let Some(wanted) = environment.get(NAME) else { return Ok(None) };
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (user, account) = find(wanted, &users).ok_or_else(|| {
            let hint = "is not a user of this machine (expected a name in /etc/passwd, uid, or uid:gid)";
            SettingError::new(NAME, format!("'{wanted}' {hint}"))
        })?;
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if (user.uid, user.gid) == own {
            return Ok(None);
        }
        if !may_change_user(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
            let hint = "programs can only run as another user if Study Governor runs as root or with the capabilities \
                        CAP_SETUID, CAP_SETGID and CAP_KILL";
            return Err(SettingError::new(NAME, hint));
        }
        let Account { name, home, shell } = account;
        for (variable, value) in [("USER", &name), ("LOGNAME", &name), ("HOME", &home), ("SHELL", &shell)] {
            variables.insert(variable.to_owned(), value.clone());
        }
        Ok(Some(user))
    }

    struct Account {
        name: String,
        home: String,
        shell: String,
    }

    /// Finds a user in `users`, the text of `/etc/passwd`. A numeric id needs no entry there.
    fn find(wanted: &str, users: &str) -> Option<(ProgramUser, Account)> {
        let (name, group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
        let group = group.map(|group| group.parse::<u32>().ok()).map_or(Some(None), |group| group.map(Some))?;
        let number = name.parse::<u32>().ok();
        let entry = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
            fields.len() >= 7
                && if number.is_some() { fields[2].parse() == Ok(number.unwrap_or(0)) } else { fields[0] == name }
        });
        let account = |name: &str, home: &str, shell: &str| Account {
            name: name.to_owned(),
            home: home.to_owned(),
            shell: shell.to_owned(),
        };
        match (entry, number) {
            (Some(fields), _) => {
                let (uid, own_group) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
                let user = ProgramUser { uid, gid: group.unwrap_or(own_group) };
                Some((user, account(fields[0], fields[5], fields[6])))
            }
            (None, Some(uid)) => {
                Some((ProgramUser { uid, gid: group.unwrap_or(uid) }, account(&uid.to_string(), "/", "/bin/sh")))
            }
            (None, None) => None,
        }
    }

    /// Whether a process with this `/proc/self/status` may switch to another user and end that user's programs.
    fn may_change_user(status: &str) -> bool {
        // CAP_KILL, CAP_SETGID, CAP_SETUID
        const NEEDED: u64 = 1 << 5 | 1 << 6 | 1 << 7;
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|own| own & NEEDED == NEEDED)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn users_are_found_by_name_and_number() {
            let users = "root:x:0:0:root:/root:/bin/bash\npipeline:x:1200:1300::/srv/pipeline:/bin/sh\nbroken:line\n";
            let found = |wanted: &str| find(wanted, users).map(|(user, account)| (user.uid, user.gid, account.home));
            assert_eq!(found("pipeline"), Some((1200, 1300, "/srv/pipeline".to_owned())));
            assert_eq!(found("1200"), Some((1200, 1300, "/srv/pipeline".to_owned())));
            assert_eq!(found("pipeline:7"), Some((1200, 7, "/srv/pipeline".to_owned())));
            assert_eq!(found("4711"), Some((4711, 4711, "/".to_owned())));
            assert_eq!(found("4711:12"), Some((4711, 12, "/".to_owned())));
            for wrong in ["nobody-here", "pipeline:users", "", "broken", "-1"] {
                assert_eq!(found(wrong), None, "{wrong}");
            }
            assert!(may_change_user("Name:\tx\nCapEff:\t000001ffffffffff\n"));
            assert!(!may_change_user("CapEff:\t00000000000000c0\n") && !may_change_user("CapEff:\t0\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_what_is_usual_and_what_was_added_and_no_secrets() {
        let set = [
            ("PYTHONPATH", "/code"),
            ("LC_ALL", "C"),
            ("PGPASSWORD", "s"),
            ("AWS_PROFILE", "s"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("SINGULARITY_DOCKER_PASSWORD", "s"),
            ("SINGULARITY_BIND", "/data"),
            ("OUR_LICENSE", "l"),
            ("OUR_TOKEN", "t"),
            ("OTHER", "o"),
            ("SECRET_KEY", "s"),
            ("STUDYGOV_BROKER", "amqp://u:p@h"),
            ("DATABASE_URL", "s"),
        ];
        let read = |added: &str| {
            let environment: Environment = set.into_iter().chain([("STUDYGOV_CALLBACK_ENVIRONMENT", added)]).collect();
            ProgramSettings::read(&environment)
        };
        let plain = read("").unwrap().variables;
        let names = |variables: &BTreeMap<String, String>| -> Vec<String> {
            let own = set.iter().map(|(name, _)| *name).filter(|name| variables.contains_key(*name));
            own.map(str::to_owned).collect()
        };
        assert_eq!(names(&plain), ["PYTHONPATH", "LC_ALL", "SINGULARITY_BIND"]);
        assert!(plain.contains_key("PATH"), "that of this process");
        let more = read("OUR_*, AWS_SECRET_ACCESS_KEY,SECRET_KEY S*").unwrap().variables;
        let wanted = [
            "PYTHONPATH",
            "LC_ALL",
            "AWS_SECRET_ACCESS_KEY",
            "SINGULARITY_DOCKER_PASSWORD",
            "SINGULARITY_BIND",
            "OUR_LICENSE",
            "OUR_TOKEN",
        ];
        assert_eq!(names(&more), wanted);
        for wrong in ["*", "A-B", "A*B"] {
            assert_eq!(read(wrong).unwrap_err().variable, "STUDYGOV_CALLBACK_ENVIRONMENT");
        }
    }

    #[test]
    fn a_user_that_is_not_there_stops_the_start() {
        let environment: Environment = [("STUDYGOV_CALLBACK_USER", "no-such-user")].into_iter().collect();
        assert_eq!(ProgramSettings::read(&environment).unwrap_err().variable, "STUDYGOV_CALLBACK_USER");
    }
}
