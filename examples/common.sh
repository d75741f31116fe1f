# shellcheck shell=bash
# What the examples share. Needs curl and jq. Set by variables:
#   API       address of the server          KEY       its key, if it has one
#   DURATION  seconds of music               STEPS     sampling steps; null: the model's own
# Songs are written to the folder that is given as the first argument, or else to the current one.
set -euo pipefail

API=${API:-http://127.0.0.1:8001}
DURATION=${DURATION:-30}
STEPS=${STEPS:-null}
folder=${1:-.}
mkdir -p "$folder"

# Calls the server; an error fails, with what the server said on standard output.
call() {
    curl --silent --show-error --fail-with-body ${KEY:+--header "Authorization: Bearer $KEY"} "$@"
}

# Sends the JSON on standard input.
post() {
    call --header 'Content-Type: application/json' --data @- "$@"
}

# Ends the script with what the server said: answer=$(post …) || refused "$answer"
refused() {
    printf '%s\n' "$1" >&2
    exit 1
}

# Says where a song was written to.
wrote() {
    printf 'wrote %s\n' "$1"
}
