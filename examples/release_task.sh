#!/usr/bin/env bash
# The main way: submit, ask until it has ended, follow the links.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

answer=$(
    post "$API/release_task" <<JSON
{
  "prompt": "upbeat piano pop, bright and clear",
  "lyrics": "[Instrumental]",
  "bpm": 120,
  "key_scale": "C major",
  "audio_duration": $DURATION,
  "inference_steps": $STEPS,
  "batch_size": 2,
  "seed": 42
}
JSON
) || refused "$answer"
jq --raw-output '.data.warnings[]' <<<"$answer"
task=$(jq --raw-output .data.task_id <<<"$answer")

# status: 0 queued or running, 1 succeeded, 2 failed.
while true; do
    answer=$(post "$API/query_result" <<<"{\"task_id_list\": [\"$task\"]}") || refused "$answer"
    status=$(jq '.data[0].status' <<<"$answer")
    ((status == 0)) || break
    jq --raw-output '.data[0].progress_text' <<<"$answer"
    sleep 1
done
if ((status == 2)); then
    refused "$(jq --raw-output '.data[0].error' <<<"$answer")"
fi

# `result` is JSON in a string: one item for each song.
jq --raw-output '.data[0].result | fromjson | .[] | "\(.seed) \(.file)"' <<<"$answer" |
    while read -r seed file; do
        call --output "$folder/song-$seed.mp3" "$API$file"
        wrote "$folder/song-$seed.mp3"
    done
