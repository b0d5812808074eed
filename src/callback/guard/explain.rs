//! Explains why a program could not be started. The kernel returns `ENOENT` both for a script with a missing interpreter and
//! for a program with a missing loader: the file itself shows which.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why `binary` could not be started, for the end of a sentence. `error` is the kernel's answer. A name without a slash is
/// searched on the `PATH` of this process.
pub(super) fn reason(binary: &str, error: &io::Error) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(file) = find(binary, &path) else {
        return match binary.contains('/') {
            true => format!("there is no such file ({error})"),
            false => "no program of this name on the PATH of the worker (No such file or directory)".to_owned(),
        };
    };
    let what = if file == Path::new(binary) { "it".to_owned() } else { file.display().to_string() };
    about(&file, error).map_or_else(|| error.to_string(), |why| why.replace("{it}", &what))
}

/// A hint about the return code of a program that was started: `env` reports a missing interpreter without showing the
/// carriage return at the end of its name.
pub(in crate::callback) fn hint(binary: &str, return_code: i32) -> Option<String> {
    if !matches!(return_code, 126 | 127) {
        return None;
    }
    let file = find(binary, &std::env::var_os("PATH").unwrap_or_default())?;
    let mut start = Vec::new();
    std::fs::File::open(&file).and_then(|file| file.take(4096).read_to_end(&mut start)).ok()?;
    let line = start.split(|byte| *byte == b'\n').next()?;
    let has_windows_end = line.starts_with(b"#!") && line.ends_with(b"\r");
    has_windows_end.then(|| format!("The first line of {} has a Windows line ending (dos2unix).", file.display()))
}

/// The first executable file of this name on the path, or else the first file.
fn find(binary: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    if binary.contains('/') {
        return Some(PathBuf::from(binary)).filter(|file| file.exists());
    }
    let all: Vec<PathBuf> =
        std::env::split_paths(path).map(|folder| folder.join(binary)).filter(|file| file.is_file()).collect();
    all.iter().find(|file| is_executable(file)).or_else(|| all.first()).cloned()
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The reason that the file shows; `{it}` stands for the file.
fn about(file: &Path, error: &io::Error) -> Option<String> {
    if file.is_dir() {
        return Some("{it} is a folder".to_owned());
    }
    if error.kind() == io::ErrorKind::ArgumentListTooLong {
        return Some("its arguments and environment are too long".to_owned());
    }
    if error.kind() == io::ErrorKind::ExecutableFileBusy {
        return Some("{it} is open for writing".to_owned());
    }
    if !is_executable(file) {
        return Some("{it} is not executable (chmod +x)".to_owned());
    }
    let mut start = Vec::new();
    match std::fs::File::open(file).and_then(|file| file.take(4096).read_to_end(&mut start)) {
        Ok(_) => {}
        // It can be executed but not read, so the reason is unknown.
        Err(_) => return None,
    }
    if let Some(line) = start.strip_prefix(b"#!") {
        return about_interpreter(line, error);
    }
    if let Some(elf) = start.strip_prefix(b"\x7fELF") {
        return about_elf(elf, &start, error);
    }
    if start.is_empty() {
        return Some("{it} is an empty file".to_owned());
    }
    if start.starts_with(b"\xef\xbb\xbf#!") {
        return Some("{it} starts with a byte order mark; its first bytes must be #!".to_owned());
    }
    if start.starts_with(b"MZ") {
        return Some("{it} is a Windows program".to_owned());
    }
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Some("{it} is UTF-16 text; a script must be UTF-8".to_owned());
    }
    let is_text = start.iter().all(|byte| *byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r'));
    match (error.raw_os_error(), is_text) {
        (Some(ENOEXEC), true) => Some(
            "the first line of {it} does not specify an interpreter such as \
            #!/bin/sh"
                .to_owned(),
        ),
        (Some(ENOEXEC), false) => Some("{it} is not a program that this machine can run".to_owned()),
        _ => None,
    }
}

/// "Exec format error".
const ENOEXEC: i32 = 8;

/// `line` is the text after `#!`.
fn about_interpreter(line: &[u8], error: &io::Error) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    let line = String::from_utf8_lossy(line).into_owned();
    let line = line.trim_start_matches([' ', '\t']);
    let name = line.split([' ', '\t']).next().unwrap_or_default();
    let shown = name.escape_debug();
    if let Some(plain) = name.strip_suffix('\r') {
        let hint = "it has Windows line endings";
        return Some(format!("its first line names the interpreter {shown}: {hint} (dos2unix; intended: {plain})"));
    }
    if name.is_empty() {
        return Some("its first line, #!, does not specify an interpreter".to_owned());
    }
    let interpreter = Path::new(name);
    if !interpreter.exists() {
        return Some(format!("its first line names the interpreter {shown}, which does not exist on this machine"));
    }
    if interpreter.is_dir() || !is_executable(interpreter) {
        return Some(format!("its first line names the interpreter {shown}, which is not a program"));
    }
    // The interpreter may be a script, or a program for another machine.
    let mut start = Vec::new();
    let _ = std::fs::File::open(interpreter).and_then(|file| file.take(4096).read_to_end(&mut start));
    let inner = match start.strip_prefix(b"\x7fELF") {
        Some(elf) => about_elf(elf, &start, error)?.replace("{it}", &shown.to_string()),
        None => return None,
    };
    Some(format!("its first line names the interpreter {shown}: {inner}"))
}

/// `elf` is the data after the magic number, `all` the beginning of the file.
fn about_elf(elf: &[u8], all: &[u8], error: &io::Error) -> Option<String> {
    let is_little = elf.get(1) == Some(&1);
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = all.get(at..at + size)?;
        let join = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        Some(if is_little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    };
    let machine = number(18, 2)?;
    let own = machines().iter().find(|(_, name)| *name == std::env::consts::ARCH).map(|(code, _)| *code);
    if own.is_some_and(|own| own != machine) {
        let named = machines().iter().find(|(code, _)| *code == machine).map(|(_, name)| *name);
        let named = named.map_or_else(|| format!("machine type {machine}"), str::to_owned);
        let own = std::env::consts::ARCH;
        return Some(format!("{{it}} is a program for {named}, and this machine is {own}"));
    }
    if error.kind() != io::ErrorKind::NotFound || elf.first() != Some(&2) {
        return None;
    }
    // The loader is named in the program header of type 3.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let loader = (0..count).find_map(|index| {
        let at = usize::try_from(table + index * size).ok()?;
        let (start, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        (number(at, 4)? == 3).then(|| all.get(start..start.checked_add(length)?))?
    })?;
    let loader = String::from_utf8_lossy(loader).trim_end_matches('\0').to_owned();
    Some(format!("{{it}} needs the loader {loader}, which does not exist on this machine"))
}

/// ELF numbers of processor architectures.
fn machines() -> &'static [(u64, &'static str)] {
    &[
        (3, "x86"),
        (8, "mips"),
        (20, "powerpc"),
        (21, "powerpc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "x86_64"),
        (183, "aarch64"),
        (243, "riscv64"),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::process::Command;

    use super::*;

    fn said(content: &[u8], mode: u32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let name = file.to_str().unwrap();
        loop {
            // Starts it as the guard does.
            match Command::new(name).spawn() {
                Ok(_) => panic!("it was started"),
                // Another test forked while the file was being written.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                Err(error) => return reason(name, &error),
            }
        }
    }

    #[test]
    fn what_is_said_about_a_program_that_cannot_be_started_is_true() {
        for (content, words) in [
            (&b"#!/bin/sh\r\necho hi\r\n"[..], "the interpreter /bin/sh\\r: it has Windows line endings"),
            (
                b"#! /no/such/interpreter -x\necho\n",
                "names the interpreter /no/such/interpreter, which does not exist on",
            ),
            (b"#!\necho\n", "does not specify an interpreter"),
            (b"#!/etc\necho\n", "names the interpreter /etc, which is not a program"),
            (b"#!/etc/passwd\necho\n", "names the interpreter /etc/passwd, which is not a program"),
            (b"", "is an empty file"),
            (b"echo hi\n", "the first line of it does not specify an interpreter"),
            (b"\xef\xbb\xbf#!/bin/sh\necho\n", "starts with a byte order mark"),
            (b"MZ\x90\x00", "is a Windows program"),
            (b"\x00\x01\x02", "is not a program that this machine can run"),
        ] {
            let said = said(content, 0o755);
            assert!(said.contains(words), "{said}");
        }
        assert!(said(b"#!/bin/sh\necho\n", 0o644).contains("is not executable"));
        let folder = tempfile::tempdir().unwrap();
        let error = Command::new(folder.path()).spawn().unwrap_err();
        assert!(reason(folder.path().to_str().unwrap(), &error).contains("is a folder"));
        let absent = io::Error::from_raw_os_error(2);
        assert!(reason("no-such-program", &absent).contains("no program of this name on the PATH"));
        assert!(reason("/no/such/program", &absent).contains("there is no such file"));
    }

    #[test]
    fn an_interpreter_that_env_does_not_find_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, "#!/usr/bin/env sh\r\necho hi\r\n").unwrap();
        let name = file.to_str().unwrap();
        assert!(hint(name, 127).unwrap().contains("has a Windows line end"));
        assert_eq!(hint(name, 1), None);
        std::fs::write(&file, "#!/usr/bin/env sh\necho hi\r\n").unwrap();
        assert_eq!(hint(name, 127), None);
    }

    #[test]
    fn a_program_for_another_machine_or_without_its_loader_is_named_so() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut other = own[..4096].to_vec();
        other[18..20].copy_from_slice(&if cfg!(target_arch = "aarch64") { [62, 0] } else { [183, 0] });
        let words = if cfg!(target_arch = "aarch64") { "a program for x86_64" } else { "a program for aarch64" };
        assert!(said(&other, 0o755).contains(words), "{}", said(&other, 0o755));
        let shell = std::fs::read("/bin/sh").unwrap();
        let Some(at) = shell.windows(4).position(|window| window == b"/lib") else { return };
        let mut lost = shell.clone();
        lost[at..at + 4].copy_from_slice(b"/not");
        let said = said(&lost, 0o755);
        assert!(said.contains("needs the loader /not"), "{said}");
    }
}
