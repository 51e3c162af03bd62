//! A disk whose power can be cut: an ext4 file system over a disk with a volatile write cache.
//!
//! The file system under test lies in a file behind a loop device. That file lies on a second ext4 file system behind a
//! second loop device, whose page cache plays the cache in the drive: a flush that the first file system asks for is an
//! fsync of its file there. Both are mounted with `commit=300`, so that nothing is made durable in passing.
//!
//! A cut is `EXT4_IOC_SHUTDOWN` without a flush of the journal: from one moment on the file system lets nothing more
//! through to its device, and every later write or fsync fails. Which of the two is shut down decides what is lost, see
//! [`Cut`]. After it both are unmounted, which drops what they had in memory, and mounted again, which replays their
//! journals.
//!
//! Against a copy of the mounted image, the usual way to do this: a copy takes time, in which later writes get into it
//! and earlier ones do not, a state that no disk can be left in; and since the loop driver writes into the page cache
//! of the file's own file system, a copy has everything that was issued, flushed or not. [`Cut::Issued`] has that
//! mildness, the other two do not.
//!
//! Against a real cut: harsher in that all of a drive's cache is lost, or a random half of it, where a drive loses
//! little. Milder in three ways: blocks of 4 KiB are written whole or not at all, where a drive promises that for a
//! sector; ext4 brings all of its directories with any new file that is flushed, so that a forgotten fsync of a
//! directory is not seen here; and the process and the kernel live on for a moment, but all they can do then is to see
//! errors.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

/// `_IOR('X', 125, __u32)` of the kernel's fs/ext4/ext4.h, and its flag for losing the journal's tail too.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
const WITHOUT_JOURNAL_FLUSH: u32 = 2;
const MIB: u64 = 1 << 20;
/// What a drive moves out of its cache at once.
const STRETCH_BYTES: u64 = 64 << 10;
/// Space of the outer file system beside the inner one's file: its journal and tables.
const OUTER_EXTRA_MIB: u64 = 64;
/// A loop device lets go of its file a moment after it is unmounted.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// What is lost at a cut, beside all that the file system had only in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing: all that the file system has issued reaches the disk.
    Issued,
    /// All that the file system has issued and not flushed.
    Flushed,
    /// A random half of that, in stretches of 64 KiB, whatever the order in which it was issued.
    Torn { seed: u64 },
}

/// See the head of this file. Unmounts and removes everything when dropped.
pub struct CutDisk {
    // In the order in which they must go.
    inner: FileSystem,
    outer: FileSystem,
    _dir: TempDir,
}

impl CutDisk {
    /// A new disk of so many MiB. Where that is not possible it says why, past what a passing test's output is kept
    /// from, and gives `None`: the caller has nothing to test and must return.
    pub fn switched_on(mib: u64) -> Option<Self> {
        let made = Self::format(mib);
        if let Err(reason) = &made {
            // If even this cannot be written, nothing can be said at all.
            let _ = writeln!(std::io::stderr(), "skipped: no power can be cut here: {reason}");
        }
        made.ok()
    }

    fn format(mib: u64) -> Result<Self, String> {
        // SAFETY: no arguments, no memory, always succeeds.
        if unsafe { libc::geteuid() } != 0 {
            return Err("only root can mount".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let outer = FileSystem { image: dir.path().join("outer.img"), point: dir.path().join("outer") };
        let inner = FileSystem { image: outer.point.join("inner.img"), point: dir.path().join("inner") };
        let disk = Self { inner, outer, _dir: dir };
        let sized = |image: &Path, mib: u64| File::create(image).and_then(|file| file.set_len(mib * MIB));
        sized(&disk.outer.image, mib + OUTER_EXTRA_MIB).map_err(|error| error.to_string())?;
        disk.outer.format()?;
        disk.outer.mount()?;
        write_zeros(&disk.inner.image, mib).map_err(|error| error.to_string())?;
        disk.inner.format()?;
        disk.inner.mount()?;
        disk.inner.shut_down().map_err(|error| format!("the file system cannot be cut off: {error}"))?;
        disk.inner.unmount()?;
        disk.inner.mount()?;
        Ok(disk)
    }

    /// The directory to work in.
    pub fn root(&self) -> &Path {
        &self.inner.point
    }

    /// Cuts the power, and tells so in the moment before. Nothing written from now on is kept, and fsyncs fail; but one
    /// that is under way while another's transaction dies may, it seems, be told of success: the journal has let
    /// go of that transaction. Answers have been seen to come after a cut; that one of them was lost was seen once.
    pub fn cut(&self, cut: Cut, tell: impl FnOnce()) {
        if let Cut::Torn { seed } = cut {
            self.keep_a_random_half(&mut StdRng::seed_from_u64(seed)).unwrap();
        }
        tell();
        match cut {
            Cut::Issued => self.inner.shut_down().unwrap(),
            Cut::Flushed | Cut::Torn { .. } => self.outer.shut_down().unwrap(),
        }
    }

    /// Switches it on again after a cut. No process may have a file of it open.
    pub fn power_on(&self) {
        self.inner.unmount().unwrap();
        self.outer.unmount().unwrap();
        self.outer.mount().unwrap();
        self.inner.mount().unwrap();
    }

    // The file's blocks are all written since `format`, so their content needs no journal to be found again.
    fn keep_a_random_half(&self, random: &mut StdRng) -> std::io::Result<()> {
        let file = File::open(&self.inner.image)?;
        for at in (0..file.metadata()?.len()).step_by(STRETCH_BYTES as usize) {
            if random.random_bool(0.5) {
                issue(&file, at, STRETCH_BYTES)?;
            }
        }
        Ok(())
    }
}

/// An image and where it is mounted.
struct FileSystem {
    image: PathBuf,
    point: PathBuf,
}

impl FileSystem {
    // Everything is written now, and nothing discarded: what `mkfs` leaves for later would be written in passing.
    fn format(&self) -> Result<(), String> {
        let later = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-J", "size=16", "-E", later]).arg(&self.image))
    }

    fn mount(&self) -> Result<(), String> {
        std::fs::create_dir_all(&self.point).map_err(|error| error.to_string())?;
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop,commit=300"]).args([&self.image, &self.point]))
    }

    #[expect(clippy::disallowed_methods, reason = "a bounded wait for the kernel, also where nothing can be awaited")]
    fn unmount(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match run(Command::new("umount").arg(&self.point)) {
                Err(_) if begun.elapsed() < UNMOUNT_LIMIT => std::thread::sleep(Duration::from_millis(20)),
                ended => return ended,
            }
        }
    }

    fn shut_down(&self) -> std::io::Result<()> {
        let directory = File::open(&self.point)?;
        let flags = WITHOUT_JOURNAL_FLUSH;
        // SAFETY: the descriptor is open, and the request reads one u32, which outlives the call.
        let done = unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.point.to_str())
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // A failed test leaves a disk that is half cut; what holds it open ends with the test.
        if self.is_mounted() && run(Command::new("umount").arg(&self.point)).is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.point));
        }
    }
}

/// What it said on failure.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
}

fn write_zeros(path: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; MIB as usize];
    for _ in 0..mib {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

/// Hands what is written in the range to the device below, without a flush.
fn issue(file: &File, at: u64, bytes: u64) -> std::io::Result<()> {
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), at.cast_signed(), bytes.cast_signed(), how) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL_MIB: u64 = 64;
    const OLD: &[u8] = &[b'o'; STRETCH_BYTES as usize];
    const NEW: &[u8] = &[b'n'; STRETCH_BYTES as usize];

    fn written(path: &Path, content: &[u8]) -> File {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// After a cut: a flushed file, one that was flushed and then overwritten without a flush, one that was never
    /// flushed.
    fn left_by(disk: &CutDisk, cut: Cut) -> [Option<Vec<u8>>; 3] {
        let paths = ["flushed", "issued", "written"].map(|name| disk.root().join(name));
        let mut flushed = written(&paths[0], OLD);
        flushed.sync_all().unwrap();
        written(&paths[1], OLD).sync_all().unwrap();
        File::open(disk.root()).unwrap().sync_all().unwrap();
        issue(&written(&paths[1], NEW), 0, STRETCH_BYTES).unwrap();
        written(&paths[2], NEW);

        disk.cut(cut, || {});
        assert!(flushed.write_all(NEW).and_then(|()| flushed.sync_all()).is_err(), "a flush after the cut is refused");
        drop(flushed);
        disk.power_on();

        paths.map(|path| std::fs::read(path).ok())
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_loses_what_the_drive_or_the_memory_had() {
        let Some(disk) = CutDisk::switched_on(SMALL_MIB) else { return };
        let (old, new) = (Some(OLD.to_vec()), Some(NEW.to_vec()));

        assert_eq!(left_by(&disk, Cut::Flushed), [old.clone(), old.clone(), None]);
        assert_eq!(left_by(&disk, Cut::Issued), [old.clone(), new.clone(), None]);
        let [flushed, issued, written] = left_by(&disk, Cut::Torn { seed: 1 });
        assert_eq!((flushed, written), (old, None));
        // Its blocks need not begin where a stretch begins, so it may be kept in part.
        let bytes = issued.expect("its name was flushed");
        assert!(bytes.iter().all(|byte| OLD.contains(byte) || NEW.contains(byte)), "a stretch is kept or lost");
    }

    #[test]
    fn nothing_stays_mounted_behind_a_disk_that_is_dropped_in_the_middle_of_a_cut() {
        let Some(disk) = CutDisk::switched_on(SMALL_MIB) else { return };
        let points = [disk.inner.point.clone(), disk.outer.point.clone()];
        disk.cut(Cut::Torn { seed: 1 }, || {});

        drop(disk);

        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(points.iter().all(|point| !mounts.contains(point.to_str().unwrap())), "{mounts}");
    }
}
