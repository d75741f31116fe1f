# One verb each; every recipe is a line that you can also type.

# Run the tests
test *args:
    uv run pytest {{ args }}

# Check style, types and scripts
lint:
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run shellcheck -x *.sh scripts/*.sh examples/*.sh .ci/run

# Check style and types of the page
page:
    npm install --silent --no-package-lock --no-audit --no-fund
    npm run --silent check

# Start a real server, make one song, check that it is music
smoke:
    uv run python -m scripts.smoke

# Regenerate docs/configuration.md, docs/api.md and their Japanese pages
docs:
    uv run python -m acestep.settings.docs
    uv run python -m scripts.settings_ja
    uv run python -m scripts.api_docs

# Rebuild the nano model (up to two hours)
nano:
    uv run --group training python -m training.nano.train

# Measure how well nano obeys
nano-eval:
    uv run --group training python -m benchmarks.nano_eval

# Write the versions of uv.lock into pyproject.toml
pin:
    uv lock --upgrade && uv run python -m scripts.pin
