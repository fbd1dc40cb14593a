//! Finds the files of a corpus.

use super::error::DataError;
use super::tokenizer::hex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A NUL among so many first bytes makes a file binary.
const HEAD_BYTES: u64 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
}

#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) format: Format,
}

/// The files in the order of the paths, those of a folder sorted, each once.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) files: Vec<SourceFile>,
    pub(super) bytes: u64,
    pub(super) skipped_binary: u64,
    pub(super) skipped_empty: u64,
    /// Of names below the given paths, sizes and first bytes; not of where the folders lie.
    pub(super) digest: String,
}

/// Lists the files under `paths`.
///
/// Folders are entered recursively; hidden entries, links that lead back or nowhere, empty files and files with a NUL
/// among their first 8 KiB are left out. Errors: [`DataError::Io`], [`DataError::NoPaths`], [`DataError::NoText`].
pub(super) fn find(paths: &[PathBuf]) -> Result<Files, DataError> {
    if paths.is_empty() {
        return Err(DataError::NoPaths);
    }
    let mut finder =
        Finder { seen: HashSet::new(), hasher: Sha256::new(), found: vec![], binary: 0, empty: 0 };
    for root in paths {
        finder.walk(root)?;
    }
    let skipped = finder.binary + finder.empty;
    if finder.found.is_empty() {
        return Err(DataError::NoText { paths: paths.to_vec(), skipped });
    }
    Ok(Files {
        bytes: finder.found.iter().fold(0, |sum, f| sum.saturating_add(f.size)),
        files: finder.found,
        skipped_binary: finder.binary,
        skipped_empty: finder.empty,
        digest: hex(&finder.hasher.finalize()[..16]),
    })
}

struct Finder {
    seen: HashSet<PathBuf>,
    hasher: Sha256,
    found: Vec<SourceFile>,
    binary: u64,
    empty: u64,
}

impl Finder {
    fn walk(&mut self, root: &Path) -> Result<(), DataError> {
        let hidden =
            |e: &walkdir::DirEntry| e.depth() > 0 && e.file_name().as_encoded_bytes().starts_with(b".");
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
        for entry in walk.into_iter().filter_entry(|e| !hidden(e)) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => self.add(root, entry.path())?,
                Ok(_) => {}
                Err(error) if leads_nowhere(&error) => {}
                Err(error) => return Err(walk_error(root, error)),
            }
        }
        Ok(())
    }

    fn add(&mut self, root: &Path, path: &Path) -> Result<(), DataError> {
        let io = |e| DataError::io(path, e);
        // A file reached twice would be both trained on and held out.
        if !self.seen.insert(path.canonicalize().map_err(io)?) {
            return Ok(());
        }
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut head = vec![];
        file.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
        if head.is_empty() {
            self.empty += 1;
        } else if head.contains(&0) {
            self.binary += 1;
        } else {
            self.hash(root, path, size, &head);
            self.found.push(SourceFile { path: path.to_path_buf(), size, format: format_of(path) });
        }
        Ok(())
    }

    fn hash(&mut self, root: &Path, path: &Path, size: u64, head: &[u8]) {
        let below = path.strip_prefix(root).unwrap_or(path);
        let label = if below.as_os_str().is_empty() {
            path.file_name().unwrap_or_default()
        } else {
            below.as_os_str()
        };
        for part in [label.as_encoded_bytes(), &size.to_le_bytes(), head] {
            self.hasher.update((part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }
}

fn format_of(path: &Path) -> Format {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("jsonl") => Format::JsonLines,
        _ => Format::Text,
    }
}

/// A link to one of its own folders, or (below the root) to nothing.
fn leads_nowhere(error: &walkdir::Error) -> bool {
    let broken = || error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    error.loop_ancestor().is_some() || (error.depth() > 0 && broken())
}

fn walk_error(root: &Path, error: walkdir::Error) -> DataError {
    let path = error.path().unwrap_or(root).to_path_buf();
    let message = error.to_string();
    // The error of the system where there is one: the walk's own names the path once more.
    DataError::Io { path, source: error.into_io_error().unwrap_or_else(|| std::io::Error::other(message)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(files: &Files, root: &Path) -> Vec<String> {
        files.files.iter().map(|f| f.path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn folders_are_listed_sorted_without_hidden_binary_and_empty_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("sub/.git")).unwrap();
        for (name, text) in [
            ("b.txt", "b"),
            ("a.JSONL", "{}"),
            ("sub/c.txt", "c"),
            (".hidden", "x"),
            ("sub/.git/x", "x"),
            ("empty", ""),
            ("image", "P\0"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        let files = find(&[root.to_path_buf()]).unwrap();
        assert_eq!(names(&files, root), ["a.JSONL", "b.txt", "sub/c.txt"]);
        assert_eq!(files.files[0].format, Format::JsonLines);
        assert_eq!((files.bytes, files.skipped_binary, files.skipped_empty), (4, 1, 1));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_loops_are_left() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/text"), "text").unwrap();
        symlink(root, root.join("sub/up")).unwrap();
        symlink(root.join("sub/text"), root.join("again")).unwrap();
        symlink(root.join("gone"), root.join("broken")).unwrap();
        let files = find(&[root.to_path_buf(), root.join("sub")]).unwrap();
        assert_eq!(names(&files, root), ["again"]); // sub/text is the same file
    }

    #[test]
    fn the_digest_knows_names_sizes_and_heads_but_not_the_folder() {
        let digest = |name: &str, text: &str| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), text).unwrap();
            find(&[folder.path().to_path_buf()]).unwrap().digest
        };
        assert_eq!(digest("a", "text"), digest("a", "text"));
        assert_ne!(digest("a", "text"), digest("b", "text"));
        assert_ne!(digest("a", "text"), digest("a", "texts"));
        assert_ne!(digest("a", "text"), digest("a", "Text"));
    }

    #[test]
    fn missing_paths_and_folders_without_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(find(&[]), Err(DataError::NoPaths)));
        assert!(matches!(find(&[folder.path().join("gone")]), Err(DataError::Io { .. })));
        assert!(matches!(find(&[folder.path().to_path_buf()]), Err(DataError::NoText { skipped: 0, .. })));
    }
}
