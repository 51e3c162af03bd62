//! A directory as a record of calls leaves it: what every reader sees now, and what a power cut leaves of it.
//!
//! Harsher than a journaling file system: what was not asked for is not kept. A file's content lasts as of its last
//! fsync, and a directory's names as of the directory's own; `sync_file_range` keeps nothing. Names of one directory
//! come and go together, which is what a journal does with them too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::io_record::{FileNumber, Numbers, Operation, is_left_out};

type FolderNumber = usize;

/// The folder that all paths begin with.
const ROOT: FolderNumber = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(FileNumber),
    Folder(FolderNumber),
}

type Names = BTreeMap<OsString, Entry>;

#[derive(Default)]
struct Folder {
    now: Names,
    durable: Names,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last fsync.
    pending: Vec<Operation>,
}

/// See the head of this file.
pub struct Disk {
    root: PathBuf,
    folders: Vec<Folder>,
    files: HashMap<FileNumber, Content>,
}

/// Folders and files by their paths below the root; a folder stands before what is in it.
#[derive(Debug, Default)]
pub struct Image {
    folders: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Image {
    /// Equal images have equal marks.
    pub fn mark(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for folder in &self.folders {
            hasher.update(folder.as_os_str().as_encoded_bytes()).update(b"\0/");
        }
        for (path, content) in &self.files {
            hasher.update(path.as_os_str().as_encoded_bytes()).update(b"\0");
            hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
        }
        hasher.finalize()
    }

    /// Paths at which two images are not the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let paths =
            |image: &Self| -> BTreeSet<PathBuf> { image.folders.iter().chain(image.files.keys()).cloned().collect() };
        let differs = |path: &&PathBuf| {
            let here = (self.folders.contains(path), self.files.get(*path));
            here != (other.folders.contains(path), other.files.get(*path))
        };
        paths(self).union(&paths(other)).filter(differs).map(|path| path.display().to_string()).collect()
    }

    /// Writes it into the empty directory `root`.
    pub fn write(&self, root: &Path) -> std::io::Result<()> {
        self.folders.iter().try_for_each(|folder| std::fs::create_dir(root.join(folder)))?;
        self.files.iter().try_for_each(|(path, content)| std::fs::write(root.join(path), content))
    }
}

impl Disk {
    /// A directory with nothing in it, at that path.
    pub fn empty(root: &Path) -> Self {
        Self { root: root.to_owned(), folders: vec![Folder::default()], files: HashMap::new() }
    }

    /// What is in the directory, all of it durable.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self::empty(root);
        disk.take_in(root);
        for folder in &mut disk.folders {
            folder.durable = folder.now.clone();
        }
        disk
    }

    fn take_in(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.apply(&Operation::MakeDirectory { path: path.clone() });
                self.take_in(&path);
            } else if !is_left_out(&path) {
                let (file, bytes) = (self.next_number(), std::fs::read(&path).unwrap());
                self.apply(&Operation::Create { path, file });
                self.apply(&Operation::Write { file, offset: 0, bytes });
                self.apply(&Operation::SyncFile { file });
            }
        }
    }

    fn next_number(&self) -> FileNumber {
        self.files.keys().max().map_or(1, |last| last + 1)
    }

    /// What a recording must know to go on where this has got to.
    pub fn numbers(&self) -> Numbers {
        let mut files = BTreeMap::new();
        self.walk(
            |folder| &folder.now,
            |path, entry| {
                if let Entry::File(number) = entry {
                    files.insert(self.root.join(path), number);
                }
            },
        );
        Numbers { files, next: self.next_number() }
    }

    /// Lets one call happen.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { path, file } => {
                self.files.insert(*file, Content::default());
                self.enter(path, Entry::File(*file));
            }
            Operation::Write { file, .. } | Operation::SetLength { file, .. } => {
                let content = self.file(*file);
                change(&mut content.now, operation);
                content.pending.push(operation.clone());
            }
            Operation::SyncFile { file } => {
                let content = self.file(*file);
                content.durable.clone_from(&content.now);
                content.pending.clear();
            }
            Operation::MakeDirectory { path } => {
                self.folders.push(Folder::default());
                self.enter(path, Entry::Folder(self.folders.len() - 1));
            }
            Operation::SyncDirectory { path } => {
                let folder = self.folder(path);
                self.folders[folder].durable = self.folders[folder].now.clone();
            }
            Operation::Rename { from, to } => {
                assert_eq!(from.parent(), to.parent(), "two directories are not durable together");
                let entry = self.leave(from);
                self.enter(to, entry);
            }
            Operation::Remove { path } => {
                self.leave(path);
            }
        }
    }

    fn file(&mut self, file: FileNumber) -> &mut Content {
        self.files.get_mut(&file).unwrap_or_else(|| panic!("file {file} was never made"))
    }

    fn folder(&self, path: &Path) -> FolderNumber {
        let below = path.strip_prefix(&self.root).expect("it is below the root");
        below.iter().fold(ROOT, |folder, name| match self.folders[folder].now.get(name) {
            Some(Entry::Folder(inner)) => *inner,
            other => panic!("{path:?} is {other:?} and no folder"),
        })
    }

    fn enter(&mut self, path: &Path, entry: Entry) {
        let folder = self.folder(path.parent().expect("it is in a folder"));
        self.folders[folder].now.insert(path.file_name().expect("it has a name").to_owned(), entry);
    }

    fn leave(&mut self, path: &Path) -> Entry {
        let folder = self.folder(path.parent().expect("it is in a folder"));
        let name = path.file_name().expect("it has a name");
        self.folders[folder].now.remove(name).unwrap_or_else(|| panic!("{path:?} is not there"))
    }

    /// What is there after a kill: all of it.
    pub fn killed(&self) -> Image {
        self.image(|folder| &folder.now, |content| content.now.clone())
    }

    /// What is there if the last call, this one, was not yet made or only in part: a write is kept up to a byte that is
    /// drawn. `None` where the call is no write.
    pub fn torn(&self, last: &Operation, random: &mut StdRng) -> Option<Image> {
        let Operation::Write { file, offset, bytes } = last else { return None };
        let kept = bytes[..random.random_range(0..bytes.len().max(1))].to_vec();
        let part = Operation::Write { file: *file, offset: *offset, bytes: kept };
        let torn = &raw const self.files[file];
        Some(self.image(
            |folder| &folder.now,
            |content| {
                let mut now = content.now.clone();
                if std::ptr::eq(content, torn) {
                    change(&mut now, &part);
                }
                now
            },
        ))
    }

    /// What a power cut leaves at least: what was made durable.
    pub fn cut(&self) -> Image {
        self.image(|folder| &folder.durable, |content| content.durable.clone())
    }

    /// What it may leave beside that: the names of some directories, and of some files some of the latest writes, in
    /// order, the last of them in part.
    pub fn cut_somewhere(&self, random: &mut StdRng) -> Image {
        let random = std::cell::RefCell::new(random);
        self.image(
            |folder| if random.borrow_mut().random_bool(0.5) { &folder.now } else { &folder.durable },
            |content| {
                let mut random = random.borrow_mut();
                let mut kept = content.durable.clone();
                let many = if random.random_bool(0.5) { random.random_range(0..=content.pending.len()) } else { 0 };
                content.pending[..many].iter().for_each(|write| change(&mut kept, write));
                if let Some(Operation::Write { file, offset, bytes }) = content.pending.get(many) {
                    let bytes = bytes[..random.random_range(0..bytes.len().max(1))].to_vec();
                    change(&mut kept, &Operation::Write { file: *file, offset: *offset, bytes });
                }
                kept
            },
        )
    }

    fn image<'a>(&'a self, names: impl Fn(&'a Folder) -> &'a Names, content: impl Fn(&'a Content) -> Vec<u8>) -> Image {
        let mut image = Image::default();
        self.walk(names, |path, entry| match entry {
            Entry::File(file) => drop(image.files.insert(path, content(&self.files[&file]))),
            Entry::Folder(_) => image.folders.push(path),
        });
        image
    }

    /// All paths below the root, a folder before what is in it.
    fn walk<'a>(&'a self, names: impl Fn(&'a Folder) -> &'a Names, mut meet: impl FnMut(PathBuf, Entry)) {
        let mut waiting = vec![(PathBuf::new(), ROOT)];
        while let Some((path, folder)) = waiting.pop() {
            for (name, entry) in names(&self.folders[folder]) {
                let path = path.join(name);
                meet(path.clone(), *entry);
                if let Entry::Folder(inner) = entry {
                    waiting.push((path, *inner));
                }
            }
        }
    }
}

fn change(content: &mut Vec<u8>, by: &Operation) {
    match by {
        Operation::Write { bytes, .. } if bytes.is_empty() => {}
        Operation::Write { offset, bytes, .. } => {
            let (from, to) = (*offset as usize, *offset as usize + bytes.len());
            content.resize(content.len().max(to), 0);
            content[from..to].copy_from_slice(bytes);
        }
        Operation::SetLength { length, .. } => content.resize(*length as usize, 0),
        other => unreachable!("{other:?} changes no content"),
    }
}
