#!/bin/sh
# A hidden dependency: every tool is on this disk already, but one of them looks for an
# update of itself first, and tells nobody whether that worked.
#
#   cgfw run --block github.com -- ./examples/hidden.sh
#
# Needs curl. It succeeds with a network, without one, and with github.com blocked: only
# cgfw's report shows that it asked.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > packer <<'TOOL'
#!/bin/sh
# The tool, as a vendor might have written it.
curl -fsS --max-time 5 https://api.github.com/repos/vendor/packer/releases/latest \
    > /dev/null 2>&1 || true
tar -cf "$2" -C "$1" .
TOOL
chmod +x packer

mkdir site
echo "hello" > site/index.html
echo "deploy: packing the site"
./packer site site.tar
echo "deploy: packed $(tar -tf site.tar | grep -c html) page"
