#!/usr/bin/env bash
# The older way: the fields of release_task, answers without a wrapper.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

job=$(
    post "$API/v1/music/generate" <<JSON
{
  "caption": "upbeat piano pop",
  "lyrics": "[Instrumental]",
  "audio_duration": $DURATION,
  "inference_steps": $STEPS,
  "batch_size": 1
}
JSON
) || refused "$job"
id=$(jq --raw-output .job_id <<<"$job")
while job=$(call "$API/v1/jobs/$id") && [[ $(jq --raw-output .status <<<"$job") == @(queued|running) ]]; do
    sleep 1
done
call --output "$folder/music.mp3" "$API$(jq --raw-output .result.first_audio_path <<<"$job")"
wrote "$folder/music.mp3"
