#!/usr/bin/env python3
"""
Every kind of load at once, in an order that SEED decides, for SECONDS.

soak SECONDS SEED ALLOWED CLOSED BLOCKED

Prints "warm" when everything was done once, what went wrong, and at the end "done" with how
often each load was put on. Between "warm" and the rest, and after "done", is silence.
"""
import collections, os, random, subprocess, sys, time

seconds, seed = float(sys.argv[1]), int(sys.argv[2])
allowed, closed, blocked = sys.argv[3:]
random.seed(seed)
RIGHT, MOODY = "203.0.113.30", "203.0.113.40"
MOODS = {
    "late": MOODY,
    "twice": MOODY,
    "oversized": None,
    "never": "failure",
    "id": "failure",
    "question": "failure",
    "truncated": "failure",
    "garbage": "failure",
    "noise": "failure",
}
wrong = 0


def complain(text):
    global wrong
    wrong += 1
    if wrong <= 50:
        print("WRONG:", text, flush=True)


def connects(length, processes, port):
    def check(output):
        if output.split()[2:] != ["0", "0"]:
            complain(f"connects: {output}")

    return ["connects", str(length), str(processes), allowed, closed, blocked, port], "", check


def asks(names, at_once):
    transport = random.choice(["udp", "tcp"])
    server = random.choice(["198.51.100.53", "2001:db8:53::53"])
    text = "".join(f"{n} {o or (MOODY if transport == 'tcp' else 'failure')}\n" for n, o in names)

    def check(output):
        asked, in_vain, slowest, _all = output.splitlines()[-1].split()
        if (asked, in_vain) != (str(len(names)), "0") or int(slowest) > 10000:
            complain(f"asks {transport} {server}: {output[-300:]}")

    return ["asks", transport, server, str(at_once)], text, check


def names(numbers):
    both = [[(f"n{n}.soak.load.example", RIGHT), (f"n{n}.github.com", "nxdomain")] for n in numbers]
    return [name for pair in both for name in pair]


def some_names():
    return asks(names(random.sample(range(2048), 500)), random.choice([10, 100, 1000]))


def moods():
    some = [(f"n{n}.{m}.moody.example", o) for n in random.sample(range(100), 20) for m, o in MOODS.items()]
    return asks(some, 1000)


def forks():
    count = random.randrange(100, 1000)

    def check(output):
        if output != f"{count}\n":
            complain(f"forks: {output} of {count}")

    return ["forks", str(count), "50", blocked, "80"], "", check


def fetch():
    def check(output):
        if output != "hello from allowed.example\n":
            complain(f"curl: {output}")

    # The lab's web server has one thread, and so has its flooded discard server.
    return ["curl", "--silent", "--show-error", "--retry", "3", "http://allowed.example/"], "", check


def datagrams():
    script = f"""
import socket
refused, s = 0, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(2000, 3000):
    try:
        s.sendto(b"soak", ("{blocked}", port))
    except (ConnectionRefusedError, PermissionError):
        refused += 1
print(refused)
"""

    def check(output):
        if output != "1000\n":
            complain(f"datagrams: {output}")

    return ["python3", "-c", script], "", check


def sockets():
    """Nobody is there, which somebody has to find out."""
    script = """
import random, socket
refused = 0
for n in random.sample(range(2000), 200):
    try:
        socket.socket(socket.AF_UNIX).connect(b"\\0soak%d" % n)
    except ConnectionRefusedError:
        refused += 1
print(refused)
"""

    def check(output):
        if output != "200\n":
            complain(f"sockets: {output}")

    return ["python3", "-c", script], "", check


LOADS = {
    "connects": lambda: connects(random.choice([0.2, 1]), 2, "80"),
    "spray": lambda: connects(0.3, 1, "0"),
    "names": some_names,
    "moods": moods,
    "forks": forks,
    "fetch": fetch,
    "datagrams": datagrams,
    "sockets": sockets,
}
counts = collections.Counter()
running = []


def start(what, load):
    command, text, check = load
    counts[what] += 1
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child.stdin.write(text)
    child.stdin.close()
    running.append((command[0], child, check, time.monotonic()))


def settle(at_most):
    """Wait until so many loads are on."""
    while len(running) > at_most:
        for entry in running:
            name, child, check, started = entry
            if child.poll() is not None:
                output = child.stdout.read()
                if child.returncode:
                    complain(f"{name}: status {child.returncode}: {output}")
                else:
                    check(output)
                running.remove(entry)
                break
            if time.monotonic() - started > 60:
                complain(f"{name} hangs")
                child.kill()
                child.wait()
                running.remove(entry)
                break
        else:
            time.sleep(0.01)


# What is remembered of names and ports is remembered from here on.
start("names", asks(names(range(2048)), 200))
start("spray", connects(1, 1, "0"))
for what, load in LOADS.items():
    start(what, load())
settle(0)
print("warm", flush=True)
time.sleep(1)
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    settle(random.randrange(4))
    what = random.choice(list(LOADS))
    start(what, LOADS[what]())
settle(0)
print("done", dict(counts), flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
sys.exit(wrong > 0)
