//! What a process does to a directory, call by call, in the order in which it becomes visible.
//!
//! The process runs under ptrace with all its threads and children; a seccomp filter stops only the calls that can
//! change a file, so it runs nearly at its own speed. A call is noted when it has returned and before its thread goes
//! on: of two calls one of which caused the other, the cause stands first.
//!
//! What is written through a mapping cannot be seen. SQLite's `-shm` is the one file that is (it is made anew at each
//! start) and is left out; any other shared writable mapping of a file of the directory ends the recording with a
//! panic. So does a call that would change a file in a way that is not known here.
//!
//! Unprivileged: a process may always trace its own children, unless a container forbids that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::mem::{MaybeUninit, size_of};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

/// A file, whatever its names: numbers are never used twice.
pub type FileNumber = u64;

/// The files that are there, and the first number that no file has had.
#[derive(Debug, Default)]
pub struct Numbers {
    pub files: BTreeMap<PathBuf, FileNumber>,
    pub next: FileNumber,
}

/// One call that changed something, or made something durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Create {
        path: PathBuf,
        file: FileNumber,
    },
    Write {
        file: FileNumber,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Cut or filled with zeros to that length.
    SetLength {
        file: FileNumber,
        length: u64,
    },
    SyncFile {
        file: FileNumber,
    },
    MakeDirectory {
        path: PathBuf,
    },
    SyncDirectory {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// Of a file, or of an empty directory.
    Remove {
        path: PathBuf,
    },
}

/// The calls of one process so far, in order.
pub type Operations = Arc<Mutex<Vec<Operation>>>;

/// A process whose calls are recorded.
pub struct Recorded {
    pub operations: Operations,
    process: libc::pid_t,
    tracer: Option<JoinHandle<Result<(), String>>>,
    lines: Receiver<String>,
}

impl Recorded {
    /// Starts `command` and records what it does inside `root`, an absolute path without links in it, where the files
    /// have these numbers. An error where processes cannot be traced.
    pub fn start(mut command: Command, root: &Path, numbers: Numbers) -> Result<Self, String> {
        let operations = Operations::default();
        let tracer = Tracer::over(root, operations.clone(), numbers)?;
        let (told, started) = channel();
        let (tell_line, lines) = channel();
        // Who starts it is the one who may trace it: a thread of its own.
        let tracer = std::thread::spawn(move || {
            command.stdout(Stdio::piped());
            let filter = filter();
            // SAFETY: only async-signal-safe calls are made between fork and exec; the filter was made before.
            unsafe { command.pre_exec(move || ask_to_be_traced(&filter)) };
            let mut child = command.spawn().map_err(|error| format!("it cannot be traced: {error}"))?;
            let process = child.id().cast_signed();
            let stdout = child.stdout.take().expect("it was piped");
            std::thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(tell_line.send(line)));
            });
            told.send(process).expect("the starter waits");
            tracer.follow(process)
        });
        match started.recv() {
            Ok(process) => Ok(Self { operations, process, tracer: Some(tracer), lines }),
            Err(_) => Err(tracer.join().expect("the tracer has not panicked").expect_err("it did not start")),
        }
    }

    /// The next line of its standard output; `None` once it is closed.
    pub fn line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// How many calls have been recorded.
    pub fn position(&self) -> usize {
        self.operations.lock().len()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process has not been waited for by anybody but the tracer, which ends with it.
        unsafe { libc::kill(self.process, signal) };
    }

    /// Waits for its end, which somebody else must bring about, and gives what it has done.
    pub fn ended(mut self) -> Vec<Operation> {
        self.tracer.take().expect("it is waited for once").join().expect("every call is understood").unwrap();
        std::mem::take(&mut self.operations.lock())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(tracer) = self.tracer.take() {
            self.signal(libc::SIGKILL);
            // A panic in it has been printed.
            let _ = tracer.join();
        }
    }
}

#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_link,
    libc::SYS_symlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[i64] = &[];

const CALLS: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_copy_file_range,
    libc::SYS_splice,
    libc::SYS_sendfile,
    libc::SYS_mmap,
    libc::SYS_io_uring_setup,
];

/// Stops at the calls above and lets all others pass.
fn filter() -> Vec<libc::sock_filter> {
    let calls: Vec<i64> = CALLS.iter().chain(OLD_CALLS).copied().collect();
    let (load, jump, answer) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    // The number of the call is the first word of what the filter sees.
    let mut program = vec![libc::sock_filter { code: load as u16, jt: 0, jf: 0, k: 0 }];
    for (at, call) in calls.iter().enumerate() {
        let to_stop = (calls.len() - at) as u8;
        program.push(libc::sock_filter { code: jump as u16, jt: to_stop, jf: 0, k: *call as u32 });
    }
    let answers = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRACE];
    program.extend(answers.map(|k| libc::sock_filter { code: answer as u16, jt: 0, jf: 0, k }));
    program
}

fn ask_to_be_traced(filter: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain calls of the kernel; the program outlives the one that reads it.
    let refused = unsafe {
        ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// A call that has begun and is awaited.
enum Begun {
    Open { path: PathBuf, is_new: bool, truncates: bool },
    Write { call: i64, arguments: [u64; 6] },
    SetLength { file: FileNumber, descriptor: u64 },
    Sync { descriptor: u64 },
    MakeDirectory { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

struct Tracer {
    root: PathBuf,
    operations: Operations,
    numbers: HashMap<u64, FileNumber>,
    next: FileNumber,
    begun: HashMap<libc::pid_t, Begun>,
}

/// What is written through a mapping, see the head of this file.
pub fn is_left_out(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"-shm")
}

impl Tracer {
    fn over(root: &Path, operations: Operations, numbers: Numbers) -> Result<Self, String> {
        let numbered = |(path, number): (PathBuf, FileNumber)| Ok((path.metadata()?.ino(), number));
        let of_inodes: std::io::Result<_> = numbers.files.into_iter().map(numbered).collect();
        let of_inodes = of_inodes.map_err(|error| error.to_string())?;
        let (root, next, begun) = (root.to_owned(), numbers.next, HashMap::new());
        Ok(Self { root, operations, numbers: of_inodes, next, begun })
    }

    fn number_anew(&mut self, inode: u64) -> FileNumber {
        self.numbers.insert(inode, self.next);
        self.next += 1;
        self.next - 1
    }

    /// Until the last of its threads and children has ended.
    fn follow(mut self, process: libc::pid_t) -> Result<(), String> {
        let mut known = HashSet::from([process]);
        let mut is_set = false;
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call. Only what this thread traces is waited for.
            let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if thread < 0 {
                let error = std::io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ECHILD) => return Ok(()),
                    Some(libc::EINTR) => continue,
                    _ => return Err(error.to_string()),
                }
            }
            if !libc::WIFSTOPPED(status) {
                self.begun.remove(&thread);
                known.remove(&thread);
                continue;
            }
            if !is_set {
                set_options(thread)?;
                is_set = true;
            }
            let (request, signal) = self.answer(thread, status, &mut known);
            // Refused if it was killed meanwhile, which the next wait tells.
            ptrace(request, thread, 0, signal as usize);
        }
    }

    /// How a thread that has stopped goes on, and with what signal.
    fn answer(&mut self, thread: libc::pid_t, status: i32, known: &mut HashSet<libc::pid_t>) -> (libc::c_uint, i32) {
        let is_new = known.insert(thread);
        let signal = libc::WSTOPSIG(status);
        if status >> 16 == libc::PTRACE_EVENT_SECCOMP {
            let begun = seen(thread).and_then(|call| self.begin(thread, call));
            let request = if begun.is_some() { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
            begun.and_then(|begun| self.begun.insert(thread, begun));
            return (request, 0);
        }
        if signal == libc::SIGTRAP | 0x80 {
            if let (Some(begun), Some(Seen::Left(result))) = (self.begun.remove(&thread), seen(thread)) {
                self.end(thread, begun, result);
            }
            return (libc::PTRACE_CONT, 0);
        }
        // A new thread stops once before it begins, and so does a program after exec.
        let is_ours = status >> 16 != 0 || signal == libc::SIGTRAP || (is_new && signal == libc::SIGSTOP);
        (libc::PTRACE_CONT, if is_ours { 0 } else { signal })
    }

    fn begin(&self, thread: libc::pid_t, call: Seen) -> Option<Begun> {
        let Seen::Entered(number, arguments) = call else { return None };
        let [a, b, c, d, ..] = arguments;
        match number {
            libc::SYS_openat => self.begin_open(self.path(thread, a, b)?, c),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                self.file(thread, a)?;
                Some(Begun::Write { call: number, arguments })
            }
            libc::SYS_ftruncate => Some(Begun::SetLength { file: self.file(thread, a)?, descriptor: a }),
            libc::SYS_fallocate => {
                let file = self.file(thread, a)?;
                assert_eq!(b, 0, "only a plain fallocate is understood");
                Some(Begun::SetLength { file, descriptor: a })
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                self.inside(link(thread, a)?)?;
                Some(Begun::Sync { descriptor: a })
            }
            libc::SYS_renameat => self.begin_rename(self.path(thread, a, b), self.path(thread, c, d)),
            libc::SYS_renameat2 => {
                let begun = self.begin_rename(self.path(thread, a, b), self.path(thread, c, d))?;
                assert!(arguments[4] & u64::from(libc::RENAME_EXCHANGE) == 0, "no exchange is understood");
                Some(begun)
            }
            libc::SYS_unlinkat => Some(Begun::Remove { path: self.path(thread, a, b)? }),
            libc::SYS_mkdirat => Some(Begun::MakeDirectory { path: self.path(thread, a, b)? }),
            libc::SYS_mmap => {
                let writes = c & libc::PROT_WRITE as u64 != 0 && d & 0xf == libc::MAP_SHARED as u64;
                let path = writes.then(|| link(thread, arguments[4])).flatten().and_then(|path| self.inside(path));
                assert!(path.is_none(), "{path:?} is written through a mapping, which cannot be seen");
                None
            }
            libc::SYS_io_uring_setup => panic!("what goes through io_uring cannot be seen"),
            other => self.begin_old(thread, other, arguments),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn begin_old(&self, thread: libc::pid_t, number: i64, arguments: [u64; 6]) -> Option<Begun> {
        const HERE: u64 = libc::AT_FDCWD as u64;
        let [a, b, ..] = arguments;
        match number {
            libc::SYS_open => self.begin_open(self.path(thread, HERE, a)?, b),
            libc::SYS_rename => self.begin_rename(self.path(thread, HERE, a), self.path(thread, HERE, b)),
            libc::SYS_unlink | libc::SYS_rmdir => Some(Begun::Remove { path: self.path(thread, HERE, a)? }),
            libc::SYS_mkdir => Some(Begun::MakeDirectory { path: self.path(thread, HERE, a)? }),
            _ => self.refuse(thread, number, arguments),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn begin_old(&self, thread: libc::pid_t, number: i64, arguments: [u64; 6]) -> Option<Begun> {
        self.refuse(thread, number, arguments)
    }

    /// Calls that nobody makes here: links, copies inside the kernel, changes by name alone.
    fn refuse(&self, thread: libc::pid_t, number: i64, arguments: [u64; 6]) -> Option<Begun> {
        let names_files = matches!(number, libc::SYS_copy_file_range | libc::SYS_splice | libc::SYS_sendfile);
        let touches = |descriptor: u64| link(thread, descriptor).and_then(|path| self.inside(path)).is_some();
        let is_harmless = names_files && !touches(arguments[0]) && !touches(arguments[2]);
        assert!(is_harmless, "call {number} is not understood");
        None
    }

    fn begin_open(&self, path: PathBuf, flags: u64) -> Option<Begun> {
        let has = |flag: i32| flags & flag as u64 != 0;
        assert!(!has(libc::O_TMPFILE & !libc::O_DIRECTORY), "a file without a name is not understood");
        let is_new = !path.exists();
        let matters = if is_new { has(libc::O_CREAT) } else { has(libc::O_TRUNC) };
        matters.then_some(Begun::Open { path, is_new, truncates: has(libc::O_TRUNC) })
    }

    fn begin_rename(&self, from: Option<PathBuf>, to: Option<PathBuf>) -> Option<Begun> {
        match (from, to) {
            (Some(from), Some(to)) => Some(Begun::Rename { from, to }),
            (None, None) => None,
            halfway => panic!("{halfway:?}: only what stays inside is understood"),
        }
    }

    fn end(&mut self, thread: libc::pid_t, begun: Begun, result: i64) {
        if result < 0 {
            return;
        }
        let operation = match begun {
            Begun::Open { path, is_new, truncates } => {
                let inode = std::fs::metadata(&path).expect("it has just been opened").ino();
                match (is_new, truncates) {
                    (true, _) => Some(Operation::Create { path, file: self.number_anew(inode) }),
                    (false, true) => Some(Operation::SetLength { file: self.numbers[&inode], length: 0 }),
                    (false, false) => None,
                }
            }
            Begun::Write { call, arguments } => self.written(thread, call, arguments, result as u64),
            Begun::SetLength { file, descriptor } => {
                let behind = std::fs::metadata(format!("/proc/{thread}/fd/{descriptor}")).expect("it is open");
                Some(Operation::SetLength { file, length: behind.len() })
            }
            Begun::Sync { descriptor } => self.synced(thread, descriptor),
            Begun::MakeDirectory { path } => Some(Operation::MakeDirectory { path }),
            Begun::Rename { from, to } => Some(Operation::Rename { from, to }),
            Begun::Remove { path } => Some(Operation::Remove { path }),
        };
        self.operations.lock().extend(operation);
    }

    fn written(&self, thread: libc::pid_t, call: i64, arguments: [u64; 6], length: u64) -> Option<Operation> {
        let [descriptor, at, count, offset, ..] = arguments;
        let file = self.file(thread, descriptor)?;
        let bytes = match call {
            libc::SYS_write | libc::SYS_pwrite64 => memory(thread, at, length as usize),
            _ => gathered(thread, at, count as usize, length as usize),
        };
        let offset = match call {
            // What was written ends where the file now stands, also where it is only appended to.
            libc::SYS_write | libc::SYS_writev => standing(thread, descriptor) - length,
            _ => offset,
        };
        Some(Operation::Write { file, offset, bytes })
    }

    fn synced(&self, thread: libc::pid_t, descriptor: u64) -> Option<Operation> {
        match self.file(thread, descriptor) {
            Some(file) => Some(Operation::SyncFile { file }),
            None => Some(Operation::SyncDirectory { path: self.inside(link(thread, descriptor)?)? }),
        }
    }

    /// The number of the file behind a descriptor; `None` for what is no file of the directory.
    fn file(&self, thread: libc::pid_t, descriptor: u64) -> Option<FileNumber> {
        let path = self.inside(link(thread, descriptor)?)?;
        let behind = std::fs::metadata(format!("/proc/{thread}/fd/{descriptor}")).ok()?;
        let number = || self.numbers.get(&behind.ino()).unwrap_or_else(|| panic!("{path:?} was never opened"));
        behind.is_file().then(|| *number())
    }

    fn inside(&self, path: PathBuf) -> Option<PathBuf> {
        (path.starts_with(&self.root) && !is_left_out(&path)).then_some(path)
    }

    /// The path that a call names; `None` if it is not inside.
    fn path(&self, thread: libc::pid_t, folder: u64, at: u64) -> Option<PathBuf> {
        let named = text(thread, at);
        let named = Path::new(OsStr::from_bytes(named.as_bytes()));
        let path = match folder as i32 {
            _ if named.is_absolute() => named.to_owned(),
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{thread}/cwd")).ok()?.join(named),
            folder => link(thread, folder as u64)?.join(named),
        };
        self.inside(path)
    }
}

/// The two last are addresses or numbers, as the request says; an address must be that of memory it may write.
fn ptrace(request: libc::c_uint, thread: libc::pid_t, address: usize, data: usize) -> i64 {
    // SAFETY: a request about a thread that is not ours to trace, or not stopped, is refused.
    unsafe { libc::ptrace(request, thread, address, data) }
}

fn set_options(process: libc::pid_t) -> Result<(), String> {
    let options = libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC;
    let done = ptrace(libc::PTRACE_SETOPTIONS, process, 0, options as usize);
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

/// What a stopped thread is about to do, or has done.
enum Seen {
    Entered(i64, [u64; 6]),
    Left(i64),
}

/// `None` if it was killed meanwhile.
fn seen(thread: libc::pid_t) -> Option<Seen> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // At most `size` bytes are written, and all zeros are a valid value.
    let written = ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr() as usize);
    if written <= 0 {
        return None;
    }
    // SAFETY: it was written, and `op` says which part of the union.
    unsafe {
        let info = info.assume_init();
        match info.op {
            libc::PTRACE_SYSCALL_INFO_SECCOMP => Some(Seen::Entered(info.u.seccomp.nr as i64, info.u.seccomp.args)),
            libc::PTRACE_SYSCALL_INFO_EXIT => Some(Seen::Left(info.u.exit.sval)),
            _ => None,
        }
    }
}

/// Where a descriptor leads; for a file that was removed, the path it had.
fn link(thread: libc::pid_t, descriptor: u64) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/proc/{thread}/fd/{}", descriptor as i32)).ok()?;
    match link.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => Some(OsStr::from_bytes(path).into()),
        None => Some(link),
    }
}

/// Where the next plain read or write of a descriptor begins.
fn standing(thread: libc::pid_t, descriptor: u64) -> u64 {
    let about = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}")).expect("it is open");
    let position = about.lines().find_map(|line| line.strip_prefix("pos:"));
    position.and_then(|position| position.trim().parse().ok()).expect("a file has a position")
}

fn memory(thread: libc::pid_t, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        let here = libc::iovec { iov_base: bytes[read..].as_mut_ptr().cast(), iov_len: length - read };
        let there = libc::iovec { iov_base: (at as usize + read) as *mut libc::c_void, iov_len: length - read };
        // SAFETY: `here` lies in `bytes`; what is not mapped there gives an error.
        let got = unsafe { libc::process_vm_readv(thread, &raw const here, 1, &raw const there, 1, 0) };
        assert!(got > 0, "the memory of {thread}: {}", std::io::Error::last_os_error());
        read += got as usize;
    }
    bytes
}

/// What a list of `count` buffers at `at` holds, the first `length` bytes.
fn gathered(thread: libc::pid_t, at: u64, count: usize, length: usize) -> Vec<u8> {
    let list = memory(thread, at, count * size_of::<libc::iovec>());
    let mut bytes = Vec::with_capacity(length);
    for buffer in list.chunks_exact(2 * size_of::<u64>()) {
        let word = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
        let wanted = (word(8) as usize).min(length - bytes.len());
        bytes.extend(memory(thread, word(0), wanted));
    }
    bytes
}

/// A text that ends with a zero. It may lie close to the end of what is mapped, so it is read up to borders of pages.
fn text(thread: libc::pid_t, at: u64) -> CString {
    const PAGE: u64 = 4096;
    let memory = File::open(format!("/proc/{thread}/mem")).expect("a traced process can be read");
    let mut bytes = Vec::new();
    loop {
        let from = at + bytes.len() as u64;
        let mut part = vec![0; (PAGE - from % PAGE) as usize];
        let Ok(1..) = memory.read_at(&mut part, from) else { return CString::default() };
        bytes.extend(part);
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
            return CString::new(bytes).expect("it ends with its zero");
        }
    }
}
