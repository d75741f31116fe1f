# shellcheck shell=bash
# Shared by the launch scripts: overridable defaults, the server's command, processes and ports.
# To be sourced in the project folder. Runs on bash 3.2 (macOS) too.

PIDFILE=server.pid

# dotenv NAME: print what .env assigns to NAME, without running it; fail if it assigns nothing.
dotenv() {
    local mark=$'\xef\xbb\xbf' pattern value # some editors put a byte order mark in front
    pattern="^($mark)?[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*="
    [[ -f .env ]] && value=$(LC_ALL=C grep -E "$pattern" .env | tail -n 1) && [[ -n $value ]] || return 1
    value=${value#*=}
    value=${value#"${value%%[![:space:]]*}"}
    case $value in
    \'*) value=${value#\'} value=${value%%\'*} ;;
    \"*) value=${value#\"} value=${value%%\"*} ;;
    *) value=${value%%[[:space:]]#*} value=${value%"${value##*[![:space:]]}"} ;;
    esac
    printf '%s\n' "$value"
}

# default NAME VALUE: export NAME=VALUE, unless NAME is exported already or stands in .env.
default() {
    [[ -n ${!1+set} ]] || dotenv "$1" >/dev/null || export "$1=$2"
}

# setting NAME FALLBACK: print what the server will read.
setting() {
    local value
    if [[ -n ${!1+set} ]]; then value=${!1}; else value=$(dotenv "$1") || true; fi
    printf '%s\n' "${value:-$2}"
}

# tries_nano: whether the bundled model is to run, which needs neither weights nor a planner of their size.
tries_nano() {
    [[ $(setting ACESTEP_CONFIG_PATH "") == acestep-nano ]]
}

# Set SERVER to the command that starts the server: through uv, else from the current environment.
find_server() {
    if command -v uv >/dev/null; then
        SERVER=(uv run acestep-api)
    elif [[ -x .venv/bin/acestep-api ]]; then
        SERVER=(./.venv/bin/acestep-api)
    else
        echo "uv is missing. Get it with: curl -LsSf https://astral.sh/uv/install.sh | sh" >&2
        exit 1
    fi
}

# Replace this shell by the server, whose errors name this script in the commands that they offer.
serve() {
    find_server
    export ACESTEP_LAUNCHED_BY="./${0##*/}"
    exec "${SERVER[@]}" "$@"
}

# command_line PID: print how the process was started.
command_line() {
    if [[ -d /proc/self ]]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    else
        ps -ww -o args= -p "$1"
    fi 2>/dev/null
}

# is_running PID: whether the process exists and is no zombie.
is_running() {
    local state=""
    if [[ -d /proc/self ]]; then
        read -r state <"/proc/$1/stat" && state=${state##*) }
    else
        state=$(ps -o stat= -p "$1")
    fi 2>/dev/null
    [[ -n $state && $state != [ZX]* ]]
}

# is_ours PID: whether the process is this server, however it was started.
is_ours() {
    case $(command_line "$1") in
    *acestep-api* | *acestep.api_server*) return 0 ;;
    esac
    return 1
}

# running_pid: print the PID in the pidfile if that process is our server.
running_pid() {
    local pid
    pid=$(cat "$PIDFILE" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" && echo "$pid"
}

# listeners PORT: print the PIDs that listen there, as far as this user may see them.
listeners() {
    if command -v lsof >/dev/null; then
        lsof -t -iTCP:"$1" -sTCP:LISTEN || true
    elif command -v ss >/dev/null; then
        ss -Hltnp "sport = :$1" | { grep -o 'pid=[0-9]*' || true; } | cut -d= -f2
    else
        return 1
    fi | sort -un
}

# answers HOST PORT: whether a process listens there.
answers() {
    local host=$1
    case $host in 0.0.0.0 | ::) host=127.0.0.1 ;; esac
    (exec 3<>"/dev/tcp/$host/$2") 2>/dev/null
}
