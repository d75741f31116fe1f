#!/usr/bin/env bash
# Stops the server that run_api_server.sh started, or the one on a port.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/launch.sh disable=SC1091
source scripts/launch.sh

usage() {
    cat <<'END'
Usage: ./close_api_server.sh [--port PORT | --pid PID] [--wait SECONDS] [--force]

Without --port and --pid: the server in server.pid, else the one on ACESTEP_API_PORT (8001).
  --port PORT  stop what listens on this port
  --pid PID    stop this process
  --wait SECONDS
               kill it if it has not stopped by then (45)
  --force      stop it even if it is not this server
  -h, --help   show this text

Queued and running jobs are kept; the next start goes on with them.

Exit codes: 0 stopped, or nothing to stop; 1 could not stop it; 2 wrong arguments; 3 not this server.
END
}

# number NAME VALUE: VALUE, or the usage if it is no number.
number() {
    if [[ ! $2 =~ ^[0-9]{1,9}$ ]]; then
        printf '%s needs a number\n\n' "$1" >&2
        usage >&2
        exit 2
    fi
    echo "$2"
}

# stop PID: SIGTERM, then SIGKILL after $wait seconds; also to its children if it leads a process group.
stop() {
    kill -TERM "$1" || return 1
    for ((i = 0; i < wait * 5; i++)); do
        is_running "$1" || return 0
        ((i != 15)) || echo "Waiting for PID $1 to stop ($wait s at most)" >&2
        sleep 0.2
    done
    echo "PID $1 did not stop when asked; killing it" >&2
    kill -KILL -- "-$1" 2>/dev/null || kill -KILL "$1" || return 1
    for ((i = 0; i < 10; i++)); do
        is_running "$1" || return 0
        sleep 0.1
    done
    return 1
}

port="" pid="" wait=45 force=false
while (($#)); do
    case $1 in
    --port)
        port=$(number --port "${2-}")
        shift
        ;;
    --pid)
        pid=$(number --pid "${2-}")
        shift
        ;;
    --wait)
        wait=$(number --wait "${2-}")
        shift
        ;;
    --force) force=true ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        printf 'Unknown argument: %s\n\n' "$1" >&2
        usage >&2
        exit 2
        ;;
    esac
    shift
done

if [[ -n $pid ]]; then
    pids=$pid
elif [[ -z $port ]] && pids=$(running_pid); then
    :
else
    port=${port:-$(setting ACESTEP_API_PORT 8001)}
    if ! pids=$(listeners "$port"); then
        echo "Neither lsof nor ss is installed to find the process on port $port; give --pid." >&2
        exit 1
    fi
    if [[ -z $pids ]] && answers 127.0.0.1 "$port"; then
        echo "Something listens on port $port, but its process belongs to another user." >&2
        exit 3
    fi
fi

found=false
for pid in $pids; do
    is_running "$pid" || continue
    found=true
    if ! $force && ! is_ours "$pid"; then
        echo "PID $pid is not this server: $(command_line "$pid")" >&2
        echo "Use --force to stop it anyway." >&2
        exit 3
    fi
    stop "$pid" || { echo "PID $pid could not be stopped" >&2 && exit 1; }
    echo "Stopped PID $pid"
done
$found || echo "No server is running."
running_pid >/dev/null || rm -f "$PIDFILE"
