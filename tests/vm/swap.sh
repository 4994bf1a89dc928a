# A policy that is changed while it is in force: on kernels without batches for prefix tries
# (before 5.13), and with memory that counts in the limit of locked memory (before 5.11).
policy() {
    printf 'version = 1\ndefault = "%s"\n[[rule]]\n%s = ["%s"]\n' "$1" "$2" "$3" >/tmp/policy.new
    mv /tmp/policy.new /tmp/policy.toml
}
policy allow block 192.0.2.0/24
cat >/tmp/child <<'EOF'
judged() {
    if nc -w 3 192.0.2.1 80 </dev/null 2>&1 | grep -q refused; then echo refused; else echo passed; fi
}
judged
touch /tmp/ready
while [ ! -e /tmp/changed1 ]; do sleep 0.1; done
judged
touch /tmp/ready1
while [ ! -e /tmp/changed2 ]; do sleep 0.1; done
judged
EOF
cgfw run --watch --policy /tmp/policy.toml -- sh /tmp/child >/tmp/stdout 2>/tmp/stderr &
run=$!
said() {
    tries=0
    until [ "$(grep -c 'the policy has changed' /tmp/stderr)" = "$1" ]; do
        tries=$((tries + 1))
        if [ $tries = 300 ]; then cat /tmp/stderr; exit 1; fi
        sleep 0.1
    done
}
while [ ! -e /tmp/ready ]; do sleep 0.1; done
policy allow block 198.51.100.0/24
said 1
touch /tmp/changed1
while [ ! -e /tmp/ready1 ]; do sleep 0.1; done
policy block allow 198.51.100.0/24
said 2
touch /tmp/changed2
wait $run
cat /tmp/stdout
test "$(tr '\n' ' ' </tmp/stdout)" = "refused passed refused "
