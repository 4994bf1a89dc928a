# Who acted is told with what it executed and where, whom it comes from, and how it ended.
mkdir -p /tmp/deploy/work
cat > /tmp/deploy/deploy.sh <<'EOF'
#!/bin/sh
cd work
sh -c 'nc 192.0.2.1 80 </dev/null; exit 3'
true
EOF
chmod +x /tmp/deploy/deploy.sh
cd /tmp/deploy
cgfw run --block 192.0.2.1 --audit-log /tmp/log -- ./deploy.sh
cat /tmp/log
grep '"event":"connect"' /tmp/log > /tmp/act
grep -q '"exe":"/bin/busybox","argv":\["nc","192.0.2.1","80"\],"cwd":"/tmp/deploy/work"' /tmp/act
grep -q '"ancestors":\[{[^}]*"script":"/tmp/deploy/deploy.sh"[^}]*},{[^}]*"argv":\["sh","-c"' /tmp/act
grep '"event":"exit"' /tmp/log | grep '"argv":\["sh","-c"' | grep -q '"status":3'
grep '"event":"exit"' /tmp/log | grep '"script":"/tmp/deploy/deploy.sh"' | grep -q '"status":0'
