//! The house rules that a compiler does not check by itself: imports point down,
//! pure crates stay pure, `unsafe` has one home, files stay readable.

use std::fs;
use std::path::{Path, PathBuf};

/// Bottom first. A crate may depend only on crates before it.
const LAYERS: &[&str] = &[
    "base",
    "wire",
    "state",
    "group",
    "lease",
    "flow",
    "functions",
    "region",
    "committed",
    "host",
    "node",
    "sim",
    "model",
    "stateplane",
];
const SANS_IO: &[&str] = &[
    "base",
    "wire",
    "state",
    "group",
    "lease",
    "flow",
    "functions",
];
const LINES_MAX: usize = 600;

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("crates/")
        .to_owned()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&crates_dir().join(name).join("src"), &mut found);
    found
}

#[test]
fn every_crate_has_its_layer() {
    let mut names: Vec<_> = fs::read_dir(crates_dir())
        .expect("crates/")
        .flatten()
        .map(|e| {
            e.file_name()
                .into_string()
                .expect("a crate's name is UTF-8")
        })
        .collect();
    names.sort();
    let mut layers = LAYERS.to_vec();
    layers.sort_unstable();
    assert_eq!(names, layers);
}

#[test]
fn imports_point_down() {
    for (level, name) in LAYERS.iter().enumerate() {
        let manifest =
            fs::read_to_string(crates_dir().join(name).join("Cargo.toml")).expect("manifest");
        let normal = manifest
            .split("[dev-dependencies]")
            .next()
            .expect("split yields a head");
        for line in normal.lines() {
            let Some(dependency) = line.strip_prefix("stateplane-") else {
                continue;
            };
            let dependency = dependency.split(['.', ' ', '=']).next().expect("a name");
            let below = LAYERS
                .iter()
                .position(|l| *l == dependency)
                .expect("a crate of ours");
            assert!(
                below < level,
                "{name} depends on {dependency}, which is not below it"
            );
        }
    }
}

#[test]
fn cores_are_no_std_and_forbid_unsafe() {
    for name in SANS_IO {
        let lib = fs::read_to_string(crates_dir().join(name).join("src/lib.rs")).expect("lib.rs");
        assert!(lib.contains("#![no_std]"), "{name} must be no_std");
        assert!(
            lib.contains("#![forbid(unsafe_code)]"),
            "{name} must forbid unsafe code"
        );
    }
}

#[test]
fn unsafe_lives_in_host_and_in_one_module_of_region() {
    let memory = crates_dir().join("region/src/memory");
    for name in LAYERS.iter().filter(|n| **n != "host") {
        for file in sources(name) {
            if file.starts_with(&memory) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("source");
            let found = text
                .lines()
                .any(|l| l.contains("unsafe {") || l.contains("unsafe fn"));
            assert!(
                !found,
                "unsafe outside host and the memory of region: {}",
                file.display()
            );
        }
    }
}

#[test]
fn files_stay_readable() {
    for name in LAYERS {
        for file in sources(name) {
            let lines = fs::read_to_string(&file).expect("source").lines().count();
            assert!(
                lines <= LINES_MAX,
                "{} has {lines} lines, more than {LINES_MAX}",
                file.display()
            );
        }
    }
}
