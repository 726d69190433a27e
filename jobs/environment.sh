# Sourced by jobs/quickstart.sh and tests/run.sh: one virtual environment, installed only when pyproject.toml changed.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed, none was found on PATH: install it, or set PYTHON=/path/to/python3" >&2
    exit 1
}

# prepare_environment EXTRAS: EXTRAS is "" or a list like "[test,milvus-server]". Extras are added, never removed.
prepare_environment() {
    local extras="$1" mark stamp
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    stamp=".venv/.installed-$(echo "$extras" | tr -cd 'a-z-')"
    mark="$(cksum <pyproject.toml)"
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$mark" ]; then
        echo "installing skillmatch-ray$extras into .venv (a few minutes the first time)" >&2
        .venv/bin/python -m pip install --disable-pip-version-check --quiet --editable ".$extras"
        echo "$mark" >"$stamp"
    fi
}
