#!/usr/bin/env bash
# All tests: makes .venv, installs what tests need, then lint, types and pytest with the arguments given.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh
prepare_environment "[test,milvus-server,benchmark]"
if ! { command -v chromium && command -v hey && command -v wrk && command -v redis-server; } >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq chromium hey wrk redis-server; } >/dev/null 2>&1 ||
        echo "warning: Chromium, hey, wrk or redis-server could not be installed: the tests that need them are skipped" >&2
fi
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled TOKENIZERS_PARALLELISM=false
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
