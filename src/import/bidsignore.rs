//! `.bidsignore`: patterns, as in `.gitignore`, of files and folders that do not belong to the data set.

use globset::{GlobBuilder, GlobMatcher};

/// The patterns, in order.
#[derive(Default)]
pub(super) struct Ignored {
    rules: Vec<Rule>,
}

struct Rule {
    glob: GlobMatcher,
    /// `!pattern`: an exception from earlier patterns.
    is_exception: bool,
    /// `pattern/`: matches folders only.
    is_folder: bool,
}

impl Ignored {
    /// Parses the patterns; returns an error message for each invalid line.
    pub(super) fn parse(text: &str) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start_matches('\u{feff}').trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match rule(line) {
                Ok(rule) => rules.push(rule),
                Err(error) => problems.push(format!(".bidsignore line {}: {error}", number + 1)),
            }
        }
        (Self { rules }, problems)
    }

    /// Whether the patterns exclude a path of the data set (with `/`), or a folder above it.
    pub(super) fn matches(&self, path: &str, is_folder: bool) -> bool {
        let ends = path.match_indices('/').map(|(end, _)| (end, true));
        ends.chain([(path.len(), is_folder)]).any(|(end, is_folder)| self.matches_one(&path[..end], is_folder))
    }

    fn matches_one(&self, path: &str, is_folder: bool) -> bool {
        let applies = |rule: &&Rule| (is_folder || !rule.is_folder) && rule.glob.is_match(path);
        self.rules.iter().rev().find(applies).is_some_and(|rule| !rule.is_exception)
    }
}

fn rule(line: &str) -> Result<Rule, globset::Error> {
    let (is_exception, pattern) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    let (is_folder, pattern) = pattern.strip_suffix('/').map_or((false, pattern), |rest| (true, rest));
    // A pattern with a slash begins at the top of the data set; one without matches names at any level.
    let pattern = match pattern.strip_prefix('/') {
        Some(pattern) => pattern.to_owned(),
        None if pattern.contains('/') => pattern.to_owned(),
        None => format!("**/{pattern}"),
    };
    let glob = GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build()?;
    Ok(Rule { glob: glob.compile_matcher(), is_exception, is_folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let (ignored, problems) =
            Ignored::parse("# comment\n*_T1w_old.nii\nextra/\n/sub-03\nsub-*/anat/*_FLASH.nii\n!sub-02/anat/*\n[\n");
        assert_eq!(problems.len(), 1, "{problems:?}");
        for (path, is_folder, wanted) in [
            ("sub-01/anat/sub-01_T1w_old.nii", false, true),
            ("sub-01/anat/sub-01_T1w.nii", false, false),
            ("sub-01/extra/x.nii", false, true),
            ("sub-01/extra", false, false),
            ("sub-03", true, true),
            ("sub-03/anat/sub-03_T1w.nii", false, true),
            ("sub-01/anat/sub-01_FLASH.nii", false, true),
            ("sub-02/anat/sub-02_FLASH.nii", false, false),
        ] {
            assert_eq!(ignored.matches(path, is_folder), wanted, "{path}");
        }
    }
}
