#!/usr/bin/env bash
# The answer is the song itself; headers tell its task, its seed, and what was changed.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

post --output "$folder/generation.flac" --dump-header "$folder/generation.headers" \
    "$API/v1/audio/generations" <<JSON || refused "$(cat "$folder/generation.flac")"
{
  "prompt": "upbeat piano pop",
  "lyrics": "[Instrumental]",
  "duration": $DURATION,
  "response_format": "flac",
  "inference_steps": $STEPS,
  "seed": 42
}
JSON
grep --ignore-case '^x-ace-step' "$folder/generation.headers"
wrote "$folder/generation.flac"
