#!/bin/sh
# Makes the virtual environment and, where it may, installs the Debian packages that the journeys
# use. Called by `make setup`; safe to run again.
set -eu

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
PACKAGES="orthanc orthanc-dicomweb chromium nginx plastimatch postgresql iproute2 systemd"

"$PYTHON" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"fedgtv needs Python 3.11 or newer, not {sys.version.split()[0]}: make setup PYTHON=python3.11")
CHECK

missing=
for package in $PACKAGES; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing Debian packages:$missing"
        log=$(mktemp)
        if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
               apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
            tail -n 5 "$log"
            echo "setup: could not install:$missing (the journeys that need them will be skipped)"
        fi
        rm -f "$log"
    else
        echo "setup: without root these Debian packages are left out:$missing"
        echo "setup: journeys that need them will be skipped; get them with:"
        echo "setup:   sudo apt-get install$missing"
    fi
fi

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
echo "setup: installing Python packages into $VENV (a few minutes the first time)"
"$VENV/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$VENV/bin/pip" install --quiet --disable-pip-version-check -e '.[dev]'

# GeodisTK 0.1.7 imports numpy in its setup.py and uses a macro that numpy 2 renamed.
if ! "$VENV/bin/python" -c 'import GeodisTK' 2>/dev/null; then
    echo "setup: compiling GeodisTK for numpy 2"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check numpy setuptools wheel
    CPPFLAGS=-DNPY_IN_ARRAY=NPY_ARRAY_IN_ARRAY CXXFLAGS=-DNPY_IN_ARRAY=NPY_ARRAY_IN_ARRAY \
        "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir \
        --no-build-isolation --force-reinstall --no-deps GeodisTK==0.1.7
fi
"$VENV/bin/python" scripts/fetch_axe.py "$VENV" || true
"$VENV/bin/python" -c 'import maxflow' 2>/dev/null || echo "setup: PyMaxflow is absent (optional)"
"$VENV/bin/python" -c 'import GeodisTK, torch, flwr, onnxruntime, streamlit' || {
    echo "setup: a package does not import; remove $VENV and run 'make setup' again" >&2
    exit 1
}
echo "setup: ready"
