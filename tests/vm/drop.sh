# --on-block drop: a connect hangs as in an outage, until --timeout ends it; a ping goes out
# and stays without an answer.
start=$(date +%s)
status=0
cgfw run --block 192.0.2.1 --on-block drop --timeout 3 -- nc 192.0.2.1 80 2>/tmp/stderr || status=$?
elapsed=$(($(date +%s) - start))
cat /tmp/stderr
test "$status" = 124
test "$elapsed" -ge 3
test "$elapsed" -lt 15
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=packet' | grep -q 'cmd="nc 192.0.2.1 80"'
if cgfw run --block 192.0.2.1 --on-block drop -- ping -c 1 -W 1 192.0.2.1 >/tmp/output 2>&1; then
    echo "ping had an answer"
    exit 1
fi
cat /tmp/output
grep -q '1 packets transmitted, 0 packets received' /tmp/output
