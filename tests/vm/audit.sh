# --audit refuses nothing and says what it would have refused.
echo hello | nc -l -p 8080 &
while ! netstat -ltn | grep -q ':8080 '; do sleep 0.1; done
if cgfw run --block 198.51.100.1 -- nc -w 30 198.51.100.1 8080 </dev/null >/tmp/stdout 2>/tmp/stderr; then
    echo "nc was not refused without --audit"
    exit 1
fi
cat /tmp/stderr
cgfw run --audit --block 198.51.100.1 -- nc -w 30 198.51.100.1 8080 </dev/null >/tmp/stdout 2>/tmp/stderr
cat /tmp/stderr
grep -qx hello /tmp/stdout
grep 'WOULD' /tmp/stderr | grep -q 'cmd="nc -w 30 198.51.100.1 8080"'
cgfw run --audit --block 198.51.100.1 -- ping -c 1 -W 30 198.51.100.1 >/tmp/stdout 2>/tmp/stderr
grep -q '1 packets received' /tmp/stdout
