# What no rule blocks passes, and the exit code is the command's.
echo hello | nc -l -p 8080 &
while ! netstat -ltn | grep -q ':8080 '; do sleep 0.1; done
cgfw run --block 192.0.2.1 -- nc -w 30 127.0.0.1 8080 </dev/null >/tmp/stdout
grep -qx hello /tmp/stdout
status=0
cgfw run --block 192.0.2.1 -- sh -c 'exit 7' || status=$?
test "$status" = 7
