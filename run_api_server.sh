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
    holder=$(listeners "$port" | head -n 1) || holder=""
    echo "Port $port is taken by ${holder:+process }${holder:-another process}." \
        "Stop it (./close_api_server.sh --port $port), or choose another: ACESTEP_API_PORT=$((port + 1)) $0" >&2
    exit 2
fi
find_server
export ACESTEP_LAUNCHED_BY="./${0##*/}"

log=server.log
if ! { : >>"$log" && : >>"$PIDFILE"; } 2>/dev/null; then
    echo "This user cannot write $log and $PIDFILE in $PWD. Make the folder writable for $(id -un)," \
        "or run uv run acestep-api, which needs neither." >&2
    exit 2
fi
before=$(wc -l <"$log")
echo "=== $(date '+%Y-%m-%d %H:%M:%S') run_api_server.sh: $host:$port" >>"$log"
set -m # gives the server a process group of its own, so that it can be stopped with its children
nohup "${SERVER[@]}" >>"$log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$PIDFILE"
echo "PID $pid, log: $PWD/$log"

limit=$(setting ACESTEP_START_SECONDS 60) # of waiting here; the server goes on starting after it
for ((i = 0; i < limit * 5; i++)); do
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
    if ((i % 25 == 24)); then # 5 seconds
        said=$(tail -n "+$((before + 2))" "$log" | tail -n 1)
        echo "Not listening yet after $(((i + 1) / 5)) s.${said:+ The log says: $said}"
    fi
    sleep 0.2
done
echo "Not listening after $limit s, and still starting (PID $pid). See: tail -f '$PWD/$log'"
