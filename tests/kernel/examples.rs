//! Each example does what it says, with a network, without one, and behind the filter.

use crate::support::Lab;

#[test]
fn the_direct_dependency() {
    let Some(lab) = Lab::new() else { return };
    lab.command("/mnt/examples/direct.sh")
        .stdout_has("deploy: done")
        .run();
    let output = lab
        .cgfw()
        .args(["--block", "github.com"])
        .child(["/mnt/examples/direct.sh"])
        .stdout_has("example.com answers")
        .stderr_has("this script depends on github.com")
        .status(1)
        .run();
    let refusal = output.refusal();
    assert_eq!(refusal["domain"], "github.com.", "{output}");
    assert!(refusal["cmd"].starts_with("curl "), "{output}");
    lab.sh("ip link set eth0 down; /mnt/examples/direct.sh")
        .stderr_has("is this machine offline?")
        .status(1)
        .run();
}

#[test]
fn the_hidden_dependency() {
    let Some(lab) = Lab::new() else { return };
    let packed = "deploy: packing the site\ndeploy: packed 1 page\n";
    lab.command("/mnt/examples/hidden.sh").stdout(packed).run();
    assert_eq!(lab.internet().questions_about("api.github.com").len(), 2);
    let output = lab
        .cgfw()
        .args(["--block", "github.com"])
        .child(["/mnt/examples/hidden.sh"])
        .stdout(packed)
        .run();
    let refusal = output.refusal();
    assert_eq!(refusal["domain"], "api.github.com.", "{output}");
    assert!(refusal["cmd"].contains("releases/latest"), "{output}");
    lab.sh("ip link set eth0 down; /mnt/examples/hidden.sh")
        .stdout(packed)
        .run();
}

#[test]
fn the_policy_in_ci() {
    let Some(lab) = Lab::new() else { return };
    lab.command("/mnt/examples/ci-policy.sh")
        .stdout_has("depends on github.com; blocked were:\n    api.github.com\n")
        .status(120)
        .run();
    assert!(lab.read("cgfw-audit.jsonl").contains("\"run_end\""));
    lab.script("clean.sh", "#!/bin/sh\ncurl -sS http://example.com/\n");
    lab.command("/mnt/examples/ci-policy.sh")
        .arg("./clean.sh")
        .stdout_has("does not depend on github.com")
        .run();
    lab.script("broken.sh", "#!/bin/sh\nexit 9\n");
    lab.command("/mnt/examples/ci-policy.sh")
        .arg("./broken.sh")
        .stdout_has("itself failed with 9")
        .status(9)
        .run();
}

#[test]
fn the_transitive_dependency() {
    let Some(lab) = Lab::new() else { return };
    let deploy = "/mnt/examples/transitive.sh";
    lab.command(deploy)
        .stderr_has("the release service has no answer")
        .status(1)
        .run();
    lab.command(deploy).arg("serve").run();
    let deployed = "deploy: asking the release service which release is current\n\
                    deploy: deploying release 42\n";
    lab.command(deploy).stdout(deployed).run();
    let asked = || lab.internet().questions_about("github.com").len();
    let before = asked();
    lab.cgfw()
        .args(["--block", "github.com"])
        .child([deploy])
        .stdout(deployed)
        .stderr_has("WARN DELEGATION ALLOWED ")
        .stderr_has(" peer=\"python3 - release-service\"\n")
        .stderr_has("\nnot clean: 1 delegation: what python3 does is not seen\n")
        .run();
    assert!(asked() > before, "the service did not reach for github.com");
    lab.cgfw()
        .args(["--block", "github.com", "--allow", "127.0.0.1:8642"])
        .child([deploy])
        .stdout(deployed)
        .stderr_lacks("WARN")
        .stderr_has("\nclean: ")
        .run();
    lab.command(deploy).arg("stop").run();
    lab.sh("ip link set eth0 down; /mnt/examples/transitive.sh serve; \
            /mnt/examples/transitive.sh; /mnt/examples/transitive.sh stop")
        .stderr_has("the release service has no answer")
        .run();
}
