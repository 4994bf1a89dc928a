#!/bin/sh
# A policy in CI: the job fails when the deploy script reaches for github.com, even if
# the script itself succeeds, and says for which names.
#
#   ./examples/ci-policy.sh [DEPLOY-SCRIPT]
#
# Run as root. CGFW names the cgfw binary if it is not in PATH. The audit log stays, as an
# artifact of the job: cgfw-audit.jsonl in the working directory, or what AUDIT_LOG names.
set -u

script=${1:-$(dirname "$0")/hidden.sh}
log=${AUDIT_LOG:-cgfw-audit.jsonl}

rm -f "$log" # cgfw appends to it
"${CGFW:-cgfw}" run --block github.com --fail-on-block --audit-log "$log" -- "$script"
status=$?

case $status in
0) echo "policy: $script does not depend on github.com" ;;
120)
    echo "policy: $script succeeded, but it depends on github.com; blocked were:"
    # One JSON object a line: the names, each once.
    sed -n '/"verdict":"blocked"/s/.*"qname":"\([^"]*\)".*/    \1/p' "$log" | sort -u
    ;;
125) echo "policy: cgfw failed, so this says nothing about $script" ;;
*) echo "policy: $script itself failed with $status" ;;
esac
exit $status
