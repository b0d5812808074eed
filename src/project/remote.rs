//! Fetching from the repository into a folder on this machine.

use std::path::Path;
use std::time::Duration;

use crate::config::RepositorySettings;

use super::checkout::{Revision, Shelf, inner_folder};
use super::git::git;
use super::{SyncError, short};

/// Limit for listing branches.
const LOOK: Duration = Duration::from_mins(1);
/// Limit for a fetch: the first one downloads the whole history of the branch.
const FETCH: Duration = Duration::from_mins(30);
/// Limit for local commands.
const HERE: Duration = Duration::from_mins(10);

/// The reference of the branch in the local objects.
const HEAD: &str = "refs/project/head";

/// The commit of a branch or tag.
struct Head {
    /// `refs/heads/main`
    name: String,
    commit: String,
}

/// The repository, and its revisions on this machine.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) settings: RepositorySettings,
    pub(super) shelf: Shelf,
}

impl Repository {
    pub(super) fn new(settings: &RepositorySettings) -> Self {
        Self { settings: settings.clone(), shelf: Shelf::new(&settings.folder) }
    }

    /// The newest revision of the branch, fetched and checked out if it is not on this machine. Does not activate it.
    pub(super) async fn newest(&self) -> Result<Revision, SyncError> {
        self.shelf.prepare().map_err(|error| self.unwritable(&error))?;
        let head = self.head().await?;
        self.provide(&head.commit, Some(&head)).await
    }

    /// The revision of a commit.
    pub(super) async fn revision(&self, commit: &str) -> Result<Revision, SyncError> {
        if !is_commit(commit) {
            return Err(SyncError::missing("PROJECT_REPO", "a server names a commit that is not the name of a commit"));
        }
        self.shelf.prepare().map_err(|error| self.unwritable(&error))?;
        self.provide(commit, None).await
    }

    /// The last revision that was current on this machine; `None` if there is none, or its files are missing.
    pub(super) async fn current(&self) -> Option<Revision> {
        let commit = self.shelf.current()?;
        self.held(&commit, None).await.ok().flatten()
    }

    /// Points the link to a revision, and deletes unused revisions.
    pub(super) async fn use_revision(&self, revision: &Revision) -> Result<(), SyncError> {
        let _lock = self.shelf.lock(HERE).await.map_err(|error| self.unwritable(&error))?;
        self.shelf.use_revision(&revision.commit).map_err(|error| self.unwritable(&error))?;
        if let Err(error) = self.shelf.clean() {
            tracing::warn!(%error, "old revisions of the project cannot be deleted");
        }
        Ok(())
    }

    fn unwritable(&self, error: &std::io::Error) -> SyncError {
        let folder = self.settings.folder.display();
        SyncError::passing("STUDYGOV_PROJECT_HOME", format!("revisions cannot be kept in {folder}: {error}"))
    }

    async fn look(&self, arguments: &[&str]) -> Result<String, SyncError> {
        let arguments = [&["ls-remote"], arguments].concat();
        git(&self.settings, self.shelf.root(), &arguments, (LOOK, &[])).await
    }

    /// Fetches a branch or a commit into the local objects.
    async fn fetch_into_objects(&self, what: &str) -> Result<String, SyncError> {
        let objects = self.shelf.objects();
        let address = self.settings.address.as_str();
        let arguments = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", address, what];
        git(&self.settings, self.shelf.root(), &arguments, (FETCH, &[("GIT_DIR", objects.as_path())])).await
    }

    /// Reads the commit of the branch from the repository.
    async fn head(&self) -> Result<Head, SyncError> {
        let address = self.settings.address.as_str();
        let shown = self.settings.shown();
        let Some(branch) = &self.settings.branch else {
            let found = self.look(&["--symref", "--", address, "HEAD"]).await?;
            return default_head(&found).ok_or_else(|| {
                let problem = format!("the repository {shown} has no default branch with a commit; set PROJECT_BRANCH");
                SyncError::setting("PROJECT_REPO", problem)
            });
        };
        let (heads, tag) = (format!("refs/heads/{branch}"), format!("refs/tags/{branch}"));
        let found = self.look(&["--", address, &heads, &tag, &format!("{tag}^{{}}")]).await?;
        let commit = |name: &str| {
            let mut lines = found.lines().filter_map(|line| line.split_once('\t'));
            lines.find(|(commit, one)| *one == name && is_commit(commit)).map(|(commit, _)| commit.to_owned())
        };
        if let Some(commit) = commit(&heads) {
            return Ok(Head { name: heads, commit });
        }
        // For an annotated tag, its commit counts and not the tag object.
        match commit(&format!("{tag}^{{}}")).or_else(|| commit(&tag)) {
            Some(commit) => Ok(Head { name: tag, commit }),
            None => {
                let problem = format!("the repository {shown} has no branch or tag '{branch}'");
                Err(SyncError::setting("PROJECT_BRANCH", problem))
            }
        }
    }

    async fn provide(&self, commit: &str, head: Option<&Head>) -> Result<Revision, SyncError> {
        if let Some(revision) = self.held(commit, head).await? {
            return Ok(revision);
        }
        let _lock = self.shelf.lock(FETCH).await.map_err(|error| self.unwritable(&error))?;
        if self.shelf.hold(commit).map_err(|error| self.unwritable(&error))?.is_none() {
            self.fetch(commit, head).await?;
            if let Err(error) = self.check_out(commit).await {
                // After a power cut, objects may be incomplete.
                tracing::warn!(%error, "a revision of the project cannot be checked out; it is fetched again");
                std::fs::remove_dir_all(self.shelf.objects()).map_err(|error| self.unwritable(&error))?;
                self.fetch(commit, head).await?;
                self.check_out(commit).await?;
            }
        }
        match self.held(commit, head).await? {
            Some(revision) => Ok(revision),
            None => Err(SyncError::passing("STUDYGOV_PROJECT_HOME", "a revision was deleted while it was made")),
        }
    }

    /// The revision, if it is on this machine.
    async fn held(&self, commit: &str, head: Option<&Head>) -> Result<Option<Revision>, SyncError> {
        let Some(held) = self.shelf.hold(commit).map_err(|error| self.unwritable(&error))? else { return Ok(None) };
        let relative = &self.settings.relative_path;
        let folder = inner_folder(&self.shelf.revision(commit), relative).ok_or_else(|| {
            let (path, short) = (relative.display(), short(commit));
            let problem = format!("revision {short} of the repository has no folder '{path}' inside it");
            SyncError::setting("PROJECT_RELATIVE_PATH", problem)
        })?;
        let committed = self.here(&["show", "--no-patch", "--format=%cI", commit], &[]).await.unwrap_or_default();
        let reference = match head {
            Some(head) => head.name.strip_prefix("refs/heads/").or(head.name.strip_prefix("refs/tags/")),
            None => self.settings.branch.as_deref(),
        };
        let reference = reference.unwrap_or_default().to_owned();
        Ok(Some(Revision {
            commit: commit.to_owned(),
            reference,
            committed_at: committed.trim().to_owned(),
            folder,
            held,
        }))
    }

    /// Runs git on the local objects.
    async fn here(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Result<String, SyncError> {
        let objects = self.shelf.objects();
        let variables = [&[("GIT_DIR", objects.as_path())], variables].concat();
        git(&self.settings, self.shelf.root(), arguments, (HERE, &variables)).await
    }

    async fn has(&self, commit: &str) -> bool {
        self.here(&["cat-file", "-e", &format!("{commit}^{{commit}}")], &[]).await.is_ok()
    }

    /// Fetches a commit: with its branch, or alone when the branch no longer contains it.
    async fn fetch(&self, commit: &str, head: Option<&Head>) -> Result<(), SyncError> {
        let objects = self.shelf.objects();
        if !objects.join("HEAD").is_file() {
            let path = objects.display().to_string();
            let create = ["init", "--quiet", "--bare", "--template=", "--", &path];
            git(&self.settings, self.shelf.root(), &create, (HERE, &[])).await?;
        }
        self.shelf.remove_locks_of_git();
        if self.has(commit).await {
            return Ok(());
        }
        let own;
        let head = match head {
            Some(head) => head,
            None => {
                own = self.head().await?;
                &own
            }
        };
        self.fetch_into_objects(&format!("+{}:{HEAD}", head.name)).await?;
        if self.has(commit).await {
            return Ok(());
        }
        self.fetch_into_objects(commit).await.map_err(|error| {
            let (shown, short) = (self.settings.shown(), short(commit));
            let problem = format!("the repository {shown} does not give away commit {short}: {}", error.problem);
            SyncError::missing("PROJECT_REPO", problem)
        })?;
        Ok(())
    }

    /// Writes the files of a commit into their own folder. Requires the lock.
    async fn check_out(&self, commit: &str) -> Result<(), SyncError> {
        let folder = self.shelf.begin(commit).map_err(|error| self.unwritable(&error))?;
        self.shelf.remove_locks_of_git();
        let index = self.shelf.root().join("index");
        let places = [("GIT_INDEX_FILE", index.as_path()), ("GIT_WORK_TREE", folder.as_path())];
        self.here(&["read-tree", commit], &places).await?;
        self.here(&["checkout-index", "--all", "--force"], &places).await?;
        let _ = std::fs::remove_file(&index);
        self.shelf.finish(&folder, commit).map_err(|error| self.unwritable(&error))
    }
}

/// Parses the default branch from the output of `ls-remote --symref … HEAD`.
fn default_head(found: &str) -> Option<Head> {
    let mut lines = found.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| *name == "HEAD");
    let (symbolic, commits): (Vec<_>, Vec<_>) = lines.by_ref().partition(|(value, _)| value.starts_with("ref: "));
    let (commit, _) = commits.first()?;
    // A detached HEAD, or a server without symbolic references, has no branch name.
    let name = symbolic.first().map_or("HEAD", |(value, _)| value.trim_start_matches("ref: "));
    is_commit(commit).then(|| Head { name: name.to_owned(), commit: (*commit).to_owned() })
}

/// Whether this is a full commit hash, which git cannot mistake for an option.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_branch_is_read_from_the_answer() {
        let commit = "1234567890123456789012345678901234567890";
        let head = default_head(&format!("ref: refs/heads/trunk\tHEAD\n{commit}\tHEAD\n")).unwrap();
        assert_eq!((head.name.as_str(), head.commit.as_str()), ("refs/heads/trunk", commit));
        assert_eq!(default_head(&format!("{commit}\tHEAD\n")).unwrap().name, "HEAD");
        assert!(default_head("").is_none() && default_head("ref: refs/heads/x\tHEAD\n").is_none());
        assert!(
            is_commit(commit) && !is_commit("--upload-pack=x") && !is_commit(&commit.to_uppercase().replace('1', "A"))
        );
    }
}
