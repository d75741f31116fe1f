#!/usr/bin/env bash
# Starts the server in the background. Its output is appended to server.log, its PID stands in server.pid.
# Everything is set by variables (exported, or in .env); see docs/configuration.md. Stop: ./close_api_server.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/launch.sh disable=SC1091
source scripts/launch.sh

if (($#)); then
    echo "run_api_server.sh takes no arguments; set variables, as in: ACESTEP_API_PORT=8002 ./run_api_server.sh" >&2
    exit 2
fi

default ACESTEP_API_HOST 0.0.0.0
default ACESTEP_API_PORT 8001
default ACESTEP_API_LOG_LEVEL debug
host=$(setting ACESTEP_API_HOST 127.0.0.1)
port=$(setting ACESTEP_API_PORT 8001)

if pid=$(running_pid); then
    echo "The server runs already (PID $pid). Stop it with ./close_api_server.sh" >&2
    exit 1
fi
if answers "$host" "$port"; then
    echo "Port $port is taken. See ./close_api_server.sh --port $port, or set ACESTEP_API_PORT." >&2
    exit 1
fi
find_server

log=server.log
touch "$log"
before=$(wc -l <"$log")
echo "=== $(date '+%Y-%m-%d %H:%M:%S') run_api_server.sh: $host:$port" >>"$log"
set -m # gives the server a process group of its own, so that it can be stopped with its children
nohup "${SERVER[@]}" >>"$log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$PIDFILE"
echo "PID $pid, log: $PWD/$log"

for ((i = 0; i < 50; i++)); do # 10 seconds
    if ! is_running "$pid"; then
        rm -f "$PIDFILE"
        echo "The server stopped at once. The end of its log:" >&2
        tail -n "+$((before + 2))" "$log" | tail -n 20 >&2
        exit 1
    fi
    if answers "$host" "$port"; then
        echo "Listening on $host:$port"
        exit 0
    fi
    sleep 0.2
done
echo "Not listening yet; see: tail -f '$PWD/$log'"
