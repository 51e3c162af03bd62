//! What a parser process may use at most, set by the kernel before its program starts.

use std::io;

/// Limits of one parser process.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessLimits {
    pub memory_bytes: u64,
    /// Over the process's whole life, all documents together.
    pub cpu_seconds: u64,
}

/// Standard input, output and error, and what the loader opens while the program starts.
const OPEN_FILES: u64 = 32;

/// Takes the limits on for the calling process. It ends with its parent by itself: its standard input ends then, and
/// what it is busy with until then is bounded by its processor time.
///
/// Safe to call between fork and exec: it only makes system calls.
pub(super) fn take_on(limits: &ProcessLimits) -> io::Result<()> {
    // The kernel sends SIGXCPU at the soft limit; the second more at the hard one would be SIGKILL.
    set(libc::RLIMIT_CPU as _, limits.cpu_seconds, limits.cpu_seconds + 1)?;
    set(libc::RLIMIT_FSIZE as _, 0, 0)?;
    set(libc::RLIMIT_CORE as _, 0, 0)?;
    set(libc::RLIMIT_NOFILE as _, OPEN_FILES, OPEN_FILES)?;
    // Elsewhere the kernel does not keep to it.
    #[cfg(target_os = "linux")]
    set(libc::RLIMIT_AS as _, limits.memory_bytes, limits.memory_bytes)?;
    Ok(())
}

fn set(resource: libc::c_int, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    let outcome = unsafe { libc::setrlimit(resource as _, &raw const limit) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the calling process has used so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub cpu_ms: u64,
    /// Most memory ever resident.
    pub resident_bytes: u64,
}

/// Asks the kernel; zeros where it does not say.
pub(super) fn used() -> Used {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable and large enough; an all-zero rusage is valid, so it may be read even after a failure.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    // The fields' types differ between systems.
    fn number(value: impl TryInto<u64>) -> u64 {
        value.try_into().unwrap_or(0)
    }
    let millis = |time: libc::timeval| number(time.tv_sec) * 1_000 + number(time.tv_usec) / 1_000;
    // Linux counts kibibytes, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let resident_bytes = high_water_bytes().unwrap_or(number(usage.ru_maxrss) * unit);
    Used { cpu_ms: millis(usage.ru_utime) + millis(usage.ru_stime), resident_bytes }
}

// `ru_maxrss` survives exec: it would count what the large parent held, and every worker would retire at once.
fn high_water_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn a_process_with_limits_sees_them() {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "ulimit -t; ulimit -f; ulimit -c; ulimit -n; ulimit -v"]);
        let limits = ProcessLimits { memory_bytes: 512 << 20, cpu_seconds: 7 };
        // SAFETY: `take_on` only makes system calls.
        unsafe { command.pre_exec(move || take_on(&limits)) };

        let output = command.output().unwrap();

        let memory = if cfg!(target_os = "linux") { "524288" } else { "unlimited" };
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("7\n0\n0\n32\n{memory}\n"));
    }

    #[test]
    fn work_shows_in_what_was_used() {
        let busy: u64 = (0..20_000_000u64).fold(0, |sum, n| sum ^ n.wrapping_mul(n));

        assert!(busy != 1 && used().resident_bytes > 1_000_000);
    }
}
