#!/usr/bin/env bash
# Starts the server in the foreground with two models: turbo by default, base for the requests that name it.
# An exported variable or .env overrides each value below. Arguments go to acestep-api.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/launch.sh disable=SC1091
source scripts/launch.sh

default ACESTEP_CONFIG_PATH acestep-v15-turbo
if ! tries_nano; then # which has a planner of its own, and does what base does
    default ACESTEP_CONFIG_PATH2 acestep-v15-base
    default ACESTEP_LM_MODEL_PATH acestep-5Hz-lm-4B
fi
default ACESTEP_CONFIG_PATH3 ""

default ACESTEP_LM_BACKEND vllm

default ACESTEP_API_HOST 0.0.0.0
default ACESTEP_API_PORT 8001
default ACESTEP_API_LOG_LEVEL debug

serve "$@"
