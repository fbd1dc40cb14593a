//! Compiled programs on disk, by digest of what they were made from.
//!
//! An entry that is damaged, or that the plugin does not take back, counts as missing. Writing is best effort.

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs};

/// The variable that names the folder; `off` keeps nothing.
pub const VARIABLE: &str = "SWITCHYARD_CACHE";
const SUFFIX: &str = "executable";
const DIGEST_BYTES: usize = 32;
/// What all entries together may take; the oldest go first.
const MAX_BYTES: u64 = 4 << 30;

/// A folder of compiled programs.
pub struct Cache {
    folder: PathBuf,
}

/// The digest of a program and of all that shapes its compilation.
pub struct Key(String);

impl Key {
    /// `versions`: of platform, plugin and devices. `inputs`: the module and the options.
    pub fn new(versions: &[&str], inputs: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        let parts = versions.iter().map(|text| text.as_bytes()).chain(inputs.iter().copied());
        for part in parts {
            // Lengths keep neighbouring parts apart.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.update(instruction_set());
        Self(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What this processor can do: code for the host is not for another one that shares the folder.
fn instruction_set() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    format!("{} {}", env::consts::ARCH, flags.unwrap_or_default())
}

impl Cache {
    /// `$SWITCHYARD_CACHE`, else `switchyard` in the user's folder for caches, if there is one.
    pub fn open() -> Option<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match set(VARIABLE) {
            Some(folder) if folder == Path::new("off") => None,
            Some(folder) => Some(Self { folder }),
            None => {
                let caches = set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")))?;
                Some(Self { folder: caches.join("switchyard") })
            }
        }
    }

    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0).with_extension(SUFFIX)
    }

    /// The bytes of an entry, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(key)).ok()?;
        let (digest, payload) = bytes.split_at_checked(DIGEST_BYTES)?;
        (Sha256::digest(payload).as_slice() == digest).then(|| payload.to_vec())
    }

    /// Keeps an entry; a folder that cannot be written keeps nothing.
    pub fn put(&self, key: &Key, payload: &[u8]) {
        if self.write(key, payload).is_ok() {
            self.shrink(MAX_BYTES);
        }
    }

    fn write(&self, key: &Key, payload: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        // A reader sees a whole entry or none.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&Sha256::digest(payload))?;
        file.write_all(payload)?;
        file.persist(self.path(key))?;
        Ok(())
    }

    /// Removes the oldest entries until the rest take at most so many bytes.
    fn shrink(&self, most: u64) {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> =
            fs::read_dir(&self.folder).into_iter().flatten().filter_map(|entry| age(&entry.ok()?)).collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= most {
                break;
            }
            let _ = fs::remove_file(path);
            total -= bytes;
        }
    }
}

/// When an entry was written, how large it is, and where it lies.
fn age(entry: &fs::DirEntry) -> Option<(SystemTime, u64, PathBuf)> {
    let path = entry.path();
    let data = entry.metadata().ok()?;
    (path.extension()? == SUFFIX).then_some((data.modified().ok()?, data.len(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(&folder.path().join("new"));
        let key = Key::new(&["cpu", "1"], &[b"module", b"options"]);
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"code");
        assert_eq!(cache.get(&key).as_deref(), Some(&b"code"[..]));
        let path = cache.path(&key);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[whole.as_slice(), b"x"].concat()] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get(&key), None);
        }
    }

    #[test]
    fn keys_differ_where_any_part_does() {
        let key = |versions: &[&str], inputs: &[&[u8]]| Key::new(versions, inputs).0;
        let all = [
            key(&["cpu", "1"], &[b"m"]),
            key(&["cpu", "2"], &[b"m"]),
            key(&["cpu1", ""], &[b"m"]),
            key(&["cpu", "1"], &[b"m", b""]),
            key(&["cpu", "1"], &[b"n"]),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn the_oldest_entries_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        let keys = ["a", "b", "c"].map(|name| Key::new(&[name], &[]));
        for (age, key) in [3, 2, 1].into_iter().zip(&keys) {
            cache.put(key, &[0; 100]);
            let file = fs::File::options().write(true).open(cache.path(key)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        cache.shrink(300);
        assert_eq!(keys.each_ref().map(|key| cache.get(key).is_some()), [false, true, true]);
    }
}
