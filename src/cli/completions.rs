//! `studygovernor completions` and `studygovernor manual`: files that packages install with the program.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, Failure};

/// Print the completion script for a shell: bash, zsh, fish, elvish or powershell
#[derive(Args)]
pub(super) struct Completions {
    shell: Shell,
}

/// Write the manual pages to a folder: studygovernor.1 and one page for each subcommand
#[derive(Args)]
pub(super) struct Manual {
    /// Existing folder
    folder: PathBuf,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "studygovernor", &mut text);
        std::io::Write::write_all(&mut std::io::stdout(), &text).map_err(Failure::because)
    }
}

impl Manual {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let folder = self.folder.display();
        clap_mangen::generate_to(Arguments::command(), &self.folder)
            .map_err(|error| Failure::Failed(format!("cannot write the manual to {folder}: {error}")))
    }
}
