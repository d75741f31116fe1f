#!/usr/bin/env bash
# The same request as a multipart form, in which every value is text.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

steps=()
[[ $STEPS == null ]] || steps=(--form "inference_steps=$STEPS")
answer=$(
    call "$API/release_task" "${steps[@]}" \
        --form 'prompt=upbeat piano pop, bright and clear' \
        --form 'lyrics=[Instrumental]' \
        --form "audio_duration=$DURATION" \
        --form 'batch_size=1' \
        --form 'audio_format=flac'
) || refused "$answer"
task=$(jq --raw-output .data.task_id <<<"$answer")
while answer=$(post "$API/query_result" <<<"{\"task_id\": \"$task\"}") &&
    [[ $(jq '.data[0].status' <<<"$answer") == 0 ]]; do
    sleep 1
done
file=$(jq --raw-output '.data[0].result | fromjson | .[0].file' <<<"$answer")
call --output "$folder/form.flac" "$API$file"
wrote "$folder/form.flac"
