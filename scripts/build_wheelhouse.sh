#!/bin/sh
# Collects what an installation without the internet needs, for this machine's Python and processor.
#
#   sh scripts/build_wheelhouse.sh OUT [EXTRAS]        EXTRAS: site,ui (default) or coordinator
#
# OUT then holds the wheels, install.sh, SHA256SUMS and sbom.cdx.json (CycloneDX), and was installed
# once from itself alone, so it is complete. Carry it over and run: sh install.sh /opt/fedgtv
set -eu

PYTHON=${PYTHON:-python3}
OUT=${1:?"usage: sh scripts/build_wheelhouse.sh OUT [EXTRAS]"}
EXTRAS=${2:-site,ui}
HERE=$(cd "$(dirname "$0")/.." && pwd)
[ ! -e "$OUT" ] || { echo "wheelhouse: $OUT is there already: choose another folder" >&2; exit 2; }
case ",$EXTRAS," in *,site,* | *,ui,*) site=yes ;; *) site= ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
"$PYTHON" -m venv "$work/build"
pip="$work/build/bin/pip --disable-pip-version-check --quiet"

echo "wheelhouse: fedgtv and what it needs ($EXTRAS)"
$pip wheel --no-deps --wheel-dir "$OUT" "$HERE"
own=$(ls "$OUT"/fedgtv-*.whl)
if [ -n "$site" ]; then
    $pip download --dest "$OUT" torch==2.13.0
    # As in setup.sh: GeodisTK 0.1.7 has no wheel and needs a recipe to compile.
    $pip install numpy setuptools wheel
    CPPFLAGS=-DNPY_IN_ARRAY=NPY_ARRAY_IN_ARRAY CXXFLAGS=-DNPY_IN_ARRAY=NPY_ARRAY_IN_ARRAY \
        $pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$OUT" GeodisTK==0.1.7 ||
        echo "wheelhouse: GeodisTK did not compile and is left out (optional)"
fi
$pip download --dest "$OUT" --prefer-binary --find-links "$OUT" "${own}[$EXTRAS]"
$pip wheel --no-deps --wheel-dir "$OUT" $(ls "$OUT"/*.tar.gz 2>/dev/null) pip
rm -f "$OUT"/*.tar.gz

cat >"$OUT/install.sh" <<INSTALL
#!/bin/sh
# Installs fedgtv[$EXTRAS] from this folder alone:  sh install.sh TARGET
set -eu
cd "\$(dirname "\$0")"
TARGET=\${1:?"usage: sh install.sh TARGET, such as /opt/fedgtv"}
sha256sum --quiet --check SHA256SUMS || { echo "install: a file was changed: carry it over again" >&2; exit 1; }
\${PYTHON:-python3} -m venv "\$TARGET"
"\$TARGET/bin/pip" install --disable-pip-version-check --quiet --no-index --find-links . 'fedgtv[$EXTRAS]'
if ls GeodisTK-*.whl >/dev/null 2>&1; then
    "\$TARGET/bin/pip" install --disable-pip-version-check --quiet --no-index --find-links . GeodisTK
fi
echo "install: \$TARGET/bin/fedgtv-$([ -n "$site" ] && echo site || echo coordinator) is ready"
INSTALL
(cd "$OUT" && sha256sum *.whl install.sh >SHA256SUMS)

echo "wheelhouse: installing it from itself, for the bill of materials"
sh "$OUT/install.sh" "$work/installed" >/dev/null
"$PYTHON" -m venv "$work/sbom"
"$work/sbom/bin/pip" install --disable-pip-version-check --quiet "cyclonedx-bom>=7,<8"
"$work/sbom/bin/cyclonedx-py" environment --output-reproducible --of JSON \
    --output-file "$OUT/sbom.cdx.json" "$work/installed/bin/python"
(cd "$OUT" && sha256sum *.whl install.sh sbom.cdx.json >SHA256SUMS)
echo "wheelhouse: $OUT, $(ls "$OUT"/*.whl | wc -l) wheels, $(du -sh "$OUT" | cut -f1)"
