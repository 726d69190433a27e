#!/usr/bin/env bash
# All tests: makes .venv, installs what tests need, then lint, types and pytest with the arguments given.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh
prepare_environment "[test,milvus-server,benchmark]"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled TOKENIZERS_PARALLELISM=false
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
