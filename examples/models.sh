#!/usr/bin/env bash
# Which models there are: in the server's own shape, and twice in OpenAI's.
# shellcheck source=examples/common.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

call "$API/v1/models" | jq --raw-output '.data.models[] | "\(.name): \(.state), tasks: \(.tasks | join(", "))"'
call "$API/v1/models?format=openai" | jq --raw-output '.data[].id'
call "$API/api/v1/models" | jq --raw-output '.data[].id'
