#!/usr/bin/env bash
# Songs from a song, which is uploaded: a cover of it, and it again with some seconds repainted.
# Of a file of your own: examples/on_audio.sh FOLDER FILE
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

steps=()
[[ $STEPS == null ]] || steps=(--form "inference_steps=$STEPS")

# Asks for one song by a form, waits for it, and fetches it: make NAME --form FIELD=VALUE …
make() {
    local name=$1 answer task
    shift
    answer=$(
        call "$API/release_task" "${steps[@]}" --form 'batch_size=1' --form 'audio_format=flac' "$@"
    ) || refused "$answer"
    jq --raw-output '.data.warnings[]' <<<"$answer"
    task=$(jq --raw-output .data.task_id <<<"$answer")
    while answer=$(post "$API/query_result" <<<"{\"task_id\": \"$task\"}") &&
        [[ $(jq '.data[0].status' <<<"$answer") == 0 ]]; do
        sleep 1
    done
    [[ $(jq '.data[0].status' <<<"$answer") == 1 ]] || refused "$(jq --raw-output '.data[0].error' <<<"$answer")"
    call --output "$folder/$name.flac" "$API$(jq --raw-output '.data[0].result | fromjson | .[0].file' <<<"$answer")"
    wrote "$folder/$name.flac"
}

song=${2:-$folder/source.flac}
if (($# < 2)); then
    make source --form 'prompt=upbeat piano pop' --form "audio_duration=$DURATION"
fi
make cover --form "src_audio=@$song" --form 'task_type=cover' --form 'prompt=jazz trio' \
    --form 'audio_cover_strength=0.8'
make repaint --form "src_audio=@$song" --form 'task_type=repaint' --form 'prompt=piano solo' \
    --form 'repainting_start=3' --form 'repainting_end=6' --form 'repaint_mode=balanced'
