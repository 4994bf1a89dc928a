# A connect to a blocked address is refused at once, and reported with who tried.
# Unfiltered, the same connect would wait for its timeout.
start=$(date +%s)
if cgfw run --block 192.0.2.1 -- nc -w 30 192.0.2.1 80 </dev/null 2>/tmp/stderr; then
    echo "nc was not refused"
    exit 1
fi
elapsed=$(($(date +%s) - start))
cat /tmp/stderr
test "$elapsed" -lt 10
grep -q 'nc: .*(192.0.2.1): Connection refused' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=connect' | grep -q 'cmd="nc -w 30 192.0.2.1 80"'
