#!/usr/bin/env bash
# Starts the server in the foreground with one model, a smaller planner, and idle models in main memory.
# An exported variable or .env overrides each default below. Arguments go to acestep-api.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/launch.sh disable=SC1091
source scripts/launch.sh

default ACESTEP_CONFIG_PATH acestep-v15-turbo
# One model only, whatever is exported or in .env: a variable that is exported empty hides .env.
export ACESTEP_CONFIG_PATH2="" ACESTEP_CONFIG_PATH3="" ACESTEP_MODELS=""

if ! tries_nano; then # which has a planner of its own
    default ACESTEP_INIT_LLM 1
    default ACESTEP_LM_MODEL_PATH acestep-5Hz-lm-1.7B
fi
default ACESTEP_LM_BACKEND vllm

default ACESTEP_OFFLOAD_TO_CPU 1
default ACESTEP_LM_OFFLOAD_TO_CPU 1
default ACESTEP_OFFLOAD_DIT_TO_CPU 0

default ACESTEP_API_HOST 0.0.0.0
default ACESTEP_API_PORT 8001
default ACESTEP_API_LOG_LEVEL debug

serve "$@"
