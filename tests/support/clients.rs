/*!
Programs for the client machine: cgfw itself, and small clients in C and Go that resolve
names each in their own way. Built once and kept in cargo's directory for such things.
*/

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

static CLIENTS: LazyLock<Vec<(String, PathBuf)>> = LazyLock::new(|| {
    let mut programs = vec![("cgfw".to_owned(), env!("CARGO_BIN_EXE_cgfw").into())];
    programs.extend([
        build("musl", "connect.c", |source, target| {
            command("musl-gcc", &["-static", "-O1", "-o"], &[target, source])
        }),
        build("ares", "ares.c", |source, target| {
            command(
                "cc",
                &["-O1", "-o"],
                &[target, source, Path::new("-lcares")],
            )
        }),
        build("golang", "golang.go", |source, target| {
            let mut go = command("go", &["build", "-o"], &[target, source]);
            go.env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=mod")
                .env("GOPROXY", "off");
            go.env("GOCACHE", target.with_extension("cache"))
                .env("GO111MODULE", "off");
            go
        }),
        build("blast", "blast.c", |source, target| {
            command("cc", &["-O1", "-o"], &[target, source])
        }),
        build("uring", "uring.c", |source, target| {
            command("cc", &["-O1", "-o"], &[target, source])
        }),
        build("traffic", "traffic.c", |source, target| {
            command("cc", &["-O1", "-pthread", "-o"], &[target, source])
        }),
        build("connects", "connects.c", |source, target| {
            command("cc", &["-O1", "-o"], &[target, source])
        }),
        build("forks", "forks.c", |source, target| {
            command("cc", &["-O1", "-o"], &[target, source])
        }),
        build("swarm", "swarm.c", |source, target| {
            command("cc", &["-O1", "-o"], &[target, source])
        }),
        ("asks".to_owned(), source("asks.py")),
        ("soak".to_owned(), source("soak.py")),
        ("verdicts".to_owned(), source("verdicts.py")),
    ]);
    programs
});

/// The programs by the names under which the client machine has them in /mnt/bin.
pub fn programs() -> Vec<(String, PathBuf)> {
    CLIENTS.clone()
}

fn command(program: &str, args: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(program);
    command.args(args).args(paths);
    command
}

/// Build `source`, unless that was done since it changed. Test processes may race: each
/// builds under a name of its own, and the last rename wins.
fn build(
    name: &str,
    source: &str,
    compiler: impl FnOnce(&Path, &Path) -> Command,
) -> (String, PathBuf) {
    let source = self::source(source);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = dir.join(name);
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if changed(&target) > changed(&source) {
        return (name.to_owned(), target);
    }
    let fresh = dir.join(format!("{name}.{}", std::process::id()));
    let mut command = compiler(&source, &fresh);
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?} failed: {status:?}"
    );
    fs::rename(&fresh, &target).unwrap();
    (name.to_owned(), target)
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/support/clients")
        .join(name)
}
