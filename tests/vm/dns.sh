# A query for a blocked name reaches the proxy, whatever server it is sent to, and is denied.
if cgfw run --block github.com -- nslookup github.com 192.0.2.53 >/tmp/output 2>&1; then
    echo "nslookup was not denied"
    exit 1
fi
cat /tmp/output
grep -q 'NXDOMAIN' /tmp/output
grep 'DNS BLOCKED' /tmp/output | grep 'domain=github.com.' | grep -q 'cmd="nslookup github.com 192.0.2.53"'
