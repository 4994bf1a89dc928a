# The same over IPv6: a connect, a packet, and a query to whatever server. Nothing leads to
# 2001:db8::2 and ::53: unfiltered, the network would be unreachable.
if cgfw run --block 2001:db8::2 -- nc -w 30 2001:db8::2 80 </dev/null 2>/tmp/stderr; then
    echo "nc was not refused"
    exit 1
fi
cat /tmp/stderr
grep -q '^nc: .*: Connection refused$' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=connect' | grep -q 'cmd="nc -w 30 2001:db8::2 80"'
ping6 -c 1 -W 30 2001:db8::1
if cgfw run --block 2001:db8::1 -- ping6 -c 1 -W 30 2001:db8::1 2>/tmp/stderr; then
    echo "ping6 was not refused"
    exit 1
fi
cat /tmp/stderr
grep -q '^ping6: sendto: Operation not permitted$' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=packet' | grep -q 'cmd="ping6 -c 1 -W 30 2001:db8::1"'
if cgfw run --block github.com -- nslookup github.com 2001:db8::53 >/tmp/output 2>&1; then
    echo "nslookup was not denied"
    exit 1
fi
cat /tmp/output
grep -q 'NXDOMAIN' /tmp/output
