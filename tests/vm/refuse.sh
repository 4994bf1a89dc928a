# A connect to a blocked address is refused at once, and reported with who tried.
# The route leads nowhere: unfiltered, the same connect would wait for its timeout.
ip route add 192.0.2.0/24 dev lo
if cgfw run --block 192.0.2.1 -- nc -w 30 192.0.2.1 80 </dev/null 2>/tmp/stderr; then
    echo "nc was not refused"
    exit 1
fi
cat /tmp/stderr
grep -q 'nc: .*(192.0.2.1): Connection refused' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=connect' | grep -q 'cmd="nc -w 30 192.0.2.1 80"'
