//! Compiles the XDP programs of `xdp/` with clang into `OUT_DIR`, from where they are
//! embedded into the library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PROGRAMS: [&str; 8] = [
    "bench",
    "bench_flows",
    "fastpath",
    "limits",
    "pass",
    "punt",
    "sequencer",
    "steering",
];

/// Where Debian keeps the versioned compilers if there is no plain one.
const COMPILERS: [&str; 5] = ["clang", "clang-19", "clang-16", "clang-15", "clang-14"];

fn main() -> ExitCode {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).join("../../xdp");
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile_all(&root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn compile_all(root: &Path) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = find_clang()?;
    for program in PROGRAMS {
        let source = root.join(program).with_extension("c");
        compile(&clang, &source, &out.join(program).with_extension("o"))?;
    }
    Ok(())
}

fn find_clang() -> Result<String, String> {
    let chosen = env::var("CLANG").ok();
    let works = |name: &String| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let mut candidates = chosen.into_iter().chain(COMPILERS.map(String::from));
    candidates.find(works).ok_or_else(|| {
        "clang is missing; it compiles the XDP programs. Install it with `make setup`, or on \
         Debian and Ubuntu with `apt-get install clang libbpf-dev linux-libc-dev`, or name \
         another one in the variable CLANG"
            .to_owned()
    })
}

fn compile(clang: &str, source: &Path, object: &Path) -> Result<(), String> {
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Atomic additions that return what they found (Linux 5.12).
    command.arg("-mcpu=v3");
    // Elsewhere readers of shared memory have to ask for the order of their loads.
    let machine = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    if ["x86", "x86_64"].contains(&machine.as_str()) {
        command.arg("-DLOADS_IN_ORDER");
    }
    // The kernel's <asm/types.h> lies in a folder named after the machine, which clang
    // does not search for this target.
    let include = format!("/usr/include/{}", multiarch());
    if Path::new(&include).is_dir() {
        command.arg("-idirafter").arg(include);
    }
    let output = command
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|error| format!("{clang} did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let hint = if errors.contains("file not found") {
        "\nA header is missing: on Debian and Ubuntu `apt-get install libbpf-dev linux-libc-dev`"
    } else {
        ""
    };
    Err(format!(
        "{clang} could not compile {}:\n{errors}{hint}",
        source.display()
    ))
}

/// Debian's name of the machine the build runs on, whose headers are installed.
fn multiarch() -> String {
    let host = env::var("HOST").expect("cargo sets HOST");
    let arch = host.split('-').next().unwrap_or_default();
    match arch {
        "i586" | "i686" => "i386-linux-gnu".to_owned(),
        "armv7" => "arm-linux-gnueabihf".to_owned(),
        "powerpc64le" => "powerpc64le-linux-gnu".to_owned(),
        "riscv64gc" => "riscv64-linux-gnu".to_owned(),
        arch => format!("{arch}-linux-gnu"),
    }
}
