//! The queries of examples/fleet, over the logs of several hosts and weeks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Of which the logs of the fleet are made: a run in which everything happens.
const SAMPLE: &str = include_str!("../../cgfw/src/formats/sample.jsonl");

const DUCKDB: &str = "duckdb==2.0.0";

/// Prints the rows of a query, one a line. Arguments: the statement before it, and its file.
const QUERY: &str = "import duckdb, sys
db = duckdb.connect()
if sys.argv[1]: db.execute(sys.argv[1])
for row in db.execute(open(sys.argv[2]).read()).fetchall():
    print('|'.join(','.join(x) if isinstance(x, list) else str(x) for x in row))";

/// A Python that has DuckDB, installed once into cargo's directory for such things. Why not,
/// if it cannot be had.
fn python() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(DUCKDB);
    let python = venv.join("bin/python");
    if run(Command::new(&python).args(["-c", "import duckdb"])).is_err() {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", DUCKDB]))?;
    }
    Ok(python)
}

/// What a command prints; what it complains of, if it fails.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sample as the log of run `id` on `host`, on `day`, with `name` in place of the name that
/// all of its runs ask for, and with nothing lost.
fn log(id: &str, host: &str, day: &str, name: &str) -> Vec<Value> {
    let edited = |line: &str| {
        let line = line.replace("artifacts.example", name);
        let mut line: Value = serde_json::from_str(&line).unwrap();
        let time = line["time"].as_str().unwrap();
        line["time"] = format!("{day}{}", &time[10..]).into();
        line["run"] = id.into();
        match line["event"].as_str().unwrap() {
            "run_start" => line["host"] = host.into(),
            "run_end" => line["lost"] = 0.into(),
            _ => {}
        }
        line
    };
    let lines = SAMPLE.lines().map(edited);
    lines.filter(|line| line["event"] != "loss").collect()
}

fn write(dir: &Path, host: &str, log: &[Value]) {
    let dir = dir.join("logs").join(host);
    fs::create_dir_all(&dir).unwrap();
    let name = format!("{}.jsonl", log[0]["run"].as_str().unwrap());
    let lines: Vec<String> = log.iter().map(Value::to_string).collect();
    fs::write(dir.join(name), lines.join("\n") + "\n").unwrap();
}

/// Logs of four hosts: one is cut off, after a loss, and one says that something was lost.
fn gather(dir: &Path) {
    write(dir, "db1", &log("1", "db1", "2026-11-02", "old.example"));
    write(dir, "db2", &log("2", "db2", "2026-11-18", "new.example"));
    write(dir, "db2", &log("3", "db2", "2026-11-19", "old.example"));
    let mut cut = log("4", "db3", "2026-11-20", "old.example");
    assert_eq!(cut.pop().unwrap()["event"], "run_end");
    cut.retain(|line| line["qname"] != "github.com");
    let time = &cut[0]["time"];
    cut.push(json!({"schema": 1, "time": time, "run": "4", "event": "loss", "count": 2}));
    write(dir, "db3", &cut);
    let mut lossy = log("5", "db4", "2026-11-21", "newer.example");
    lossy.last_mut().unwrap()["lost"] = 7.into();
    write(dir, "db4", &lossy);
}

#[test]
fn the_queries_find_what_is_in_the_logs() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            let reason = reason.replace('\n', " ");
            println!("SKIP {DUCKDB} cannot be installed: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gather(dir);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fleet");
    let check = |file: &str, before: &str, expected: &[&str]| {
        let query = examples.join(file);
        let mut command = Command::new(&python);
        command
            .args(["-c", QUERY, before])
            .arg(query)
            .current_dir(dir);
        let rows = run(&mut command).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        assert_eq!(rows, expected, "{file}");
    };
    let depends = "./deploy.sh --fast|git fetch origin|github.com";
    check(
        "depends.sql",
        "SET VARIABLE name = 'github.com'",
        &[
            &format!("db1|{depends}|1|1|2026-11-02 00:00:00.900000"),
            &format!("db2|{depends}|2|2|2026-11-19 00:00:00.900000"),
            &format!("db4|{depends}|1|1|2026-11-21 00:00:00.900000"),
        ],
    );
    // Neither a part of a name nor what is above it is below it.
    check("depends.sql", "SET VARIABLE name = 'hub.com'", &[]);
    check(
        "new.sql",
        "SET VARIABLE until = TIMESTAMP '2026-11-23'",
        &[
            "new.example|2026-11-18 00:00:00.412345|db2|./deploy.sh --fast",
            "newer.example|2026-11-21 00:00:00.412345|db4|./deploy.sh --fast",
        ],
    );
    check(
        "new.sql",
        "SET VARIABLE until = TIMESTAMP '2026-11-16'",
        &[],
    );
    check(
        "incomplete.sql",
        "",
        &[
            "db3|1|1|2|2026-11-20 00:00:00",
            "db4|0|1|7|2026-11-21 00:00:00",
        ],
    );
}
