#!/usr/bin/env bash
# As in a chat: the answer holds the song, in base64.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

post --output "$folder/chat.json" "$API/v1/chat/completions" <<JSON || refused "$(cat "$folder/chat.json")"
{
  "model": "acestep/acestep-v15-turbo",
  "messages": [
    {
      "role": "user",
      "content": "<prompt>upbeat piano pop</prompt><lyrics>[Instrumental]</lyrics>"
    }
  ],
  "audio_config": {"duration": $DURATION, "format": "mp3", "bpm": 120},
  "inference_steps": $STEPS,
  "seed": 42
}
JSON
jq --raw-output '.choices[0].message.content, (.warnings[] | "warning: \(.)")' "$folder/chat.json"
jq --raw-output '.choices[0].message.audio[0].audio_url.url | split(",")[1]' "$folder/chat.json" |
    base64 --decode >"$folder/chat.mp3"
wrote "$folder/chat.mp3"
