#!/bin/sh
# A transitive dependency: the script asks a service on this host, and the service asks
# github.com. What the service does is not the script's, so that no filter on the script
# stops it: cgfw says who was asked, and does not call the run clean.
#
#   ./examples/transitive.sh serve
#   cgfw run --block github.com -- ./examples/transitive.sh
#   ./examples/transitive.sh stop
#
# Needs curl and python3. The service listens on loopback, and ends after ten minutes.
set -u

service=http://127.0.0.1:8642

case ${1:-deploy} in
serve)
    exec python3 - release-service <<'SERVICE'
import http.server, os, signal, subprocess

class Release(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/stop":
            self.reply(200, "stopped")
            os._exit(0)
        upstream = ["curl", "-fsSL", "--max-time", "10", "-o", "/dev/null", "https://github.com/"]
        answered = subprocess.run(upstream, stderr=subprocess.DEVNULL).returncode == 0
        self.reply(200 if answered else 502, "42" if answered else "github.com is down")

    def reply(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode() + b"\n")

    def log_message(self, *args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 8642), Release)
if os.fork() == 0:
    os.setsid()
    signal.alarm(600)
    server.serve_forever()
SERVICE
    ;;
stop)
    exec curl -fsS -o /dev/null "$service/stop"
    ;;
esac

echo "deploy: asking the release service which release is current"
if ! release=$(curl -fsS --max-time 15 "$service/"); then
    echo "deploy: the release service has no answer" >&2
    exit 1
fi
echo "deploy: deploying release $release"
