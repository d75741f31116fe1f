#!/usr/bin/env bash
# As in a chat, in a stream of events: words as they come, and the song at the end.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

post --no-buffer "$API/v1/chat/completions" <<JSON |
{
  "model": "acestep/acestep-v15-turbo",
  "messages": [{"role": "user", "content": "A calm piano piece for a rainy evening"}],
  "audio_config": {"duration": $DURATION, "format": "flac", "instrumental": true},
  "inference_steps": $STEPS,
  "stream": true
}
JSON
    while IFS= read -r line || [[ -n $line ]]; do
        event=${line#data: }
        [[ -n $event && $event != '[DONE]' ]] || continue
        case $event in
        *'"audio_url"'*)
            jq --raw-output '.choices[0].delta.audio[0].audio_url.url | split(",")[1]' <<<"$event" |
                base64 --decode >"$folder/stream.flac"
            printf '\n'
            wrote "$folder/stream.flac"
            ;;
        *) jq --raw-output --join-output '.choices[0].delta.content // .error // ""' <<<"$event" ;;
        esac
    done
