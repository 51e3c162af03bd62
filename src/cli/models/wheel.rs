//! Wheels: downloaded by pip, checked, and opened for the listed files only. Nothing in them is ever run.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::inference::{ExpectedFile, Package, PackageFile};

use super::place::{Workshop, check_wheel};
use super::progress::Progress;

/// The registry's ordinary client is a module of this interpreter.
const PYTHON: &str = "python3";
/// How often the bar of a download moves.
const POLL: Duration = Duration::from_millis(200);
/// Wheels are chosen for this version of the language whatever the interpreter is: only files are taken from them.
const PYTHON_VERSION: &str = "3.11";

/// Downloads a package and puts its listed files in place. The wheel is deleted afterwards.
pub(super) fn fetch_package(package: &Package, workshop: &Workshop, progress: &Progress) -> anyhow::Result<()> {
    let wheel = workshop.scratch.join(&package.wheel);
    progress.start(&format!("downloading {}", package.wheel), package.wheel_bytes);
    download(package, &workshop.scratch, progress)?;
    if !wheel.is_file() {
        bail!("pip did not bring {}, which the manifest names for {}=={}", package.wheel, package.pip, package.version);
    }
    check_wheel(&wheel, &package.wheel_sha256)?;
    progress.start(&format!("unpacking {}", package.wheel), package.files.iter().map(|file| file.bytes).sum());
    let mut archive =
        zip::ZipArchive::new(File::open(&wheel)?).with_context(|| format!("cannot open {}", package.wheel))?;
    for file in &package.files {
        let made = workshop.scratch.join(format!("{}.member", file.file));
        unpack(&mut archive, file, &made).with_context(|| format!("{} in {}", file.member, package.wheel))?;
        let expected = ExpectedFile { name: &file.file, sha256: &file.sha256, bytes: file.bytes };
        workshop.install(&made, &expected)?;
        progress.advance(file.bytes);
    }
    Ok(())
}

fn unpack(archive: &mut zip::ZipArchive<File>, file: &PackageFile, made: &Path) -> anyhow::Result<()> {
    // One byte more than it should have: a member that unpacks to more is wrong, however large it is.
    let mut member = archive.by_name(&file.member)?.take(file.bytes + 1);
    io::copy(&mut member, &mut File::create(made)?)?;
    Ok(())
}

fn download(package: &Package, scratch: &Path, progress: &Progress) -> anyhow::Result<()> {
    let mut command = Command::new(PYTHON);
    command.args(pip_arguments(package)).arg("--dest").arg(scratch);
    // pip downloads to its temporary directory first: there the bar can watch the file grow.
    let unfinished = scratch.join("unfinished");
    std::fs::create_dir_all(&unfinished)?;
    command.env("TMPDIR", &unfinished).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| {
        format!("cannot run {PYTHON}: models come in Python packages, so Python 3 with pip must be installed")
    })?;
    let output = wait(child, || progress.set(bytes_below(scratch)))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let (pip, version) = (&package.pip, &package.version);
    if told.contains("No module named pip") {
        bail!("{PYTHON} has no pip: install it (Debian and Ubuntu: python3-pip) and run this again");
    }
    bail!("pip could not download {pip}=={version} ({}): {}", output.status, told.trim());
}

fn pip_arguments(package: &Package) -> Vec<String> {
    let fixed = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    arguments.extend(["--python-version".to_owned(), PYTHON_VERSION.to_owned()]);
    if let Some(platform) = &package.platform {
        let abi = format!("cp{}", PYTHON_VERSION.replace('.', ""));
        let chosen = ["--implementation", "cp", "--abi", &abi, "--platform", &platform.tag];
        arguments.extend(chosen.map(str::to_owned));
    }
    arguments.push(format!("{}=={}", package.pip, package.version));
    arguments
}

/// Waits for a process and calls `meanwhile` now and then.
fn wait(child: std::process::Child, mut meanwhile: impl FnMut()) -> anyhow::Result<Output> {
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::Builder::new().name("pip".to_owned());
    let waiter = waiter.spawn(move || sender.send(child.wait_with_output()))?;
    let output = loop {
        match receiver.recv_timeout(POLL) {
            Ok(output) => break output?,
            Err(RecvTimeoutError::Timeout) => meanwhile(),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for pip"),
        }
    };
    let _ = waiter.join();
    Ok(output)
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::inference::Manifest;

    #[test]
    fn a_wheel_is_asked_for_by_exact_version_and_platform() {
        let manifest = Manifest::built_in().unwrap();
        let runtime = manifest.named("onnxruntime").unwrap();

        let arguments = pip_arguments(&runtime.package[0]).join(" ");

        assert!(arguments.contains("--no-deps --only-binary=:all: --python-version 3.11"), "{arguments}");
        assert!(arguments.ends_with("--abi cp311 --platform manylinux_2_28_x86_64 onnxruntime==1.32.0"), "{arguments}");
    }

    #[test]
    fn a_member_larger_than_said_is_cut_short_and_so_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.whl");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        writer.start_file("a/b", zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&[0; 100_000]).unwrap();
        writer.finish().unwrap();
        let file = PackageFile { member: "a/b".into(), file: "b".into(), sha256: String::new(), bytes: 10 };
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();

        unpack(&mut archive, &file, &dir.path().join("b")).unwrap();

        assert_eq!(std::fs::metadata(dir.path().join("b")).unwrap().len(), 11);
        let absent = PackageFile { member: "no/such".into(), ..file };
        assert!(unpack(&mut archive, &absent, &dir.path().join("c")).is_err());
    }
}
