# What went over a connection is counted, and how long it was waited for one in vain. The end
# of a stream may count as an octet.
echo hello | nc -l -p 8080 &
while ! netstat -ltn | grep -q ':8080 '; do sleep 0.1; done
cgfw run --block github.com --audit-log /tmp/log -- nc -w 30 198.51.100.1 8080 </dev/null
cat /tmp/log
grep '"event":"traffic"' /tmp/log | grep '"dst_ip":"198.51.100.1"' \
    | grep -q '"connections":1,"bytes_sent":[01],"bytes_received":[67],'
cgfw run --block github.com --audit-log /tmp/log -- timeout 2 nc 192.0.2.1 80 || true
tail -n 3 /tmp/log
grep '"event":"unanswered"' /tmp/log | grep '"dst_ip":"192.0.2.1"' \
    | grep -q '"connections":1,"waited_us":[1-9][0-9]\{6\},'
