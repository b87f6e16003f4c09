//! `ci tidy`: what the compiler cannot forbid: which crate imports which, file heads, unsafe corners.
//!
//! Reads the tree, never writes it. The other checks are `.ci/run`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Each crate's folder, with the crates of ours that it may import: those to its left.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("engine/proto", &[]),
    ("engine/tree", &["proto"]),
    ("engine/wire", &["proto", "tree"]),
    ("engine/storage", &["proto", "wire"]),
    ("engine/peer", &["proto", "tree", "wire", "storage"]),
    ("engine", &["proto", "tree", "wire", "storage", "peer"]),
];

/// Crates that do no I/O: `no_std`, no unsafe code.
const PURE: &[&str] =
    &["engine/proto", "engine/tree", "engine/wire", "engine/storage", "engine/peer"];

/// What pure code must not name.
const IMPURE: &[&str] =
    &["std::fs", "std::net", "std::time", "std::thread", "Instant::now", "SystemTime"];

/// The only files with unsafe code.
const UNSAFE_CORNERS: &[&str] = &["engine/src/runtime/uring/", "engine/src/runtime/pool.rs"];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(Path::new(".")),
        _ => {
            eprintln!("usage: ci tidy     (run it in the project's folder)");
            ExitCode::from(2)
        }
    }
}

fn tidy(root: &Path) -> ExitCode {
    let mut faults = Vec::new();
    for (folder, allowed) in MAY_IMPORT {
        check_imports(root, folder, allowed, &mut faults);
    }
    for folder in PURE {
        check_pure(root, folder, &mut faults);
    }
    let files = sources(root, &["engine", "bench", "tools"]);
    for file in &files {
        check_file(root, file, &mut faults);
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    println!("tidy: {} files, {} faults", files.len(), faults.len());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn check_imports(root: &Path, folder: &str, allowed: &[&str], faults: &mut Vec<String>) {
    let manifest = read(&root.join(folder).join("Cargo.toml"));
    let dependencies = manifest
        .split("\n[")
        .find(|section| section.starts_with("dependencies]"))
        .unwrap_or_default();
    for line in dependencies.lines() {
        if let Some(rest) = line.strip_prefix("quorate-") {
            let name = rest.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&name) {
                faults.push(format!("{folder}/Cargo.toml: may not import quorate-{name}"));
            }
        }
    }
}

fn check_pure(root: &Path, folder: &str, faults: &mut Vec<String>) {
    let head = read(&root.join(folder).join("src/lib.rs"));
    for wanted in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        if !head.contains(wanted) {
            faults.push(format!("{folder}/src/lib.rs: {wanted} is missing"));
        }
    }
    for file in sources(root, &[&format!("{folder}/src")]) {
        let text = read(&file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in IMPURE {
            if code.contains(word) {
                faults.push(format!("{}: a pure crate names {word}", file.display()));
            }
        }
    }
}

fn check_file(root: &Path, file: &Path, faults: &mut Vec<String>) {
    let text = read(file);
    if !text.starts_with("//!") && !text.starts_with("#!/") {
        faults.push(format!("{}: does not open with its purpose (//!)", file.display()));
    }
    let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().replace('\\', "/");
    let in_corner = UNSAFE_CORNERS.iter().any(|corner| name.starts_with(corner));
    if text.contains("allow(unsafe_code)") && !in_corner && !name.ends_with("ci.rs") {
        faults.push(format!("{name}: unsafe code outside its corners"));
    }
}

fn sources(root: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one pure crate whose library file has this text and these dependencies.
    fn faults(library: &str, dependencies: &str) -> Vec<String> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("engine/proto");
        fs::create_dir_all(folder.join("src")).expect("a folder");
        fs::write(folder.join("src/lib.rs"), library).expect("a file");
        let manifest = format!("[package]\n\n[dependencies]\n{dependencies}\n");
        fs::write(folder.join("Cargo.toml"), manifest).expect("a file");
        let mut faults = Vec::new();
        check_imports(root.path(), "engine/proto", &[], &mut faults);
        check_pure(root.path(), "engine/proto", &mut faults);
        for file in sources(root.path(), &["engine"]) {
            check_file(root.path(), &file, &mut faults);
        }
        faults
    }

    const PURE_HEAD: &str = "//! Purpose.\n#![no_std]\n#![forbid(unsafe_code)]\n";

    #[test]
    fn a_pure_crate_that_imports_nothing_has_no_fault() {
        assert_eq!(faults(PURE_HEAD, ""), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_a_fault() {
        assert_eq!(faults(PURE_HEAD, "quorate-tree.workspace = true").len(), 1);
        assert_eq!(faults("#![no_std]\n#![forbid(unsafe_code)]\n", "").len(), 1);
        assert_eq!(faults("//! Purpose.\n", "").len(), 2);
        assert_eq!(faults(&format!("{PURE_HEAD}use std::time::Duration;\n"), "").len(), 1);
        assert_eq!(faults(&format!("{PURE_HEAD}#![allow(unsafe_code)]\n"), "").len(), 1);
    }
}
