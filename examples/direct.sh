#!/bin/sh
# A direct dependency: a deploy script that downloads a tool from github.com.
# If github.com is what the deploy has to repair, it cannot.
#
#   cgfw run --block github.com -- ./examples/direct.sh
#
# Needs curl. Without cgfw and with a network it succeeds; without a network it says so.
set -u

command -v curl >/dev/null || {
    echo "deploy: this example needs curl" >&2
    exit 1
}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

echo "deploy: checking that example.com answers"
if curl -fsS --max-time 10 -o health http://example.com/; then
    echo "deploy: example.com answers"
else
    echo "deploy: no answer from example.com; is this machine offline?" >&2
fi

echo "deploy: downloading the migration tool from github.com"
if ! curl -fsSL --max-time 10 -o tool https://github.com/; then
    echo "deploy: no migration tool, so no deploy: this script depends on github.com" >&2
    exit 1
fi
echo "deploy: done"
