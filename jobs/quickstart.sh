#!/usr/bin/env bash
# From a fresh clone to a match: makes .venv, installs, runs `skillmatch quickstart` with the arguments given.
# Needs Python 3.11 or newer and a package index; a second run reuses everything and resumes what was cut off.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh
prepare_environment ""
exec .venv/bin/skillmatch quickstart "$@"
