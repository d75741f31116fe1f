#!/usr/bin/env bash
# The answer is a job at once; `Location` says where to ask for it.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

job=$(
    post "$API/v1/audio/generations" --header 'Prefer: respond-async' <<JSON
{
  "prompt": "upbeat piano pop",
  "duration": $DURATION,
  "n": 2,
  "inference_steps": $STEPS
}
JSON
) || refused "$job"
while [[ $(jq --raw-output .status <<<"$job") == @(queued|running) ]]; do
    jq --raw-output '"\(.stage) \(.progress)"' <<<"$job"
    sleep 1
    job=$(call "$API/v1/jobs/$(jq --raw-output .job_id <<<"$job")")
done
number=0
jq --raw-output '.result.audio_paths[]' <<<"$job" | while read -r file; do
    number=$((number + 1))
    call --output "$folder/job-$number.mp3" "$API$file"
    wrote "$folder/job-$number.mp3"
done
