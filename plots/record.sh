#!/bin/sh
# `make record`: keep build/results.tsv as plots/recorded/NAME.tsv, under a header that says what it was measured on.
#   record.sh [NAME]    NAME: of the machine, for file names (default: its device's name, in small letters)
#   record.sh --draft   only build/plots/NAME.tsv, for drawing; prints the names of the files
# From the environment: RESULTS and CEILINGS (other files than build/results.tsv and build/ceilings.tsv), DEVICE (if the results
# are of several: which), FORCE=1 (although the tree has changes), and the header: DRIVER COMPILER COMMIT DATE OS. All of these
# must be given for results that were brought here from another machine.
set -eu
export LC_ALL=C # numbers with decimal points, in any language
cd "$(dirname "$0")/.."
results=${RESULTS:-build/results.tsv} ceilings=${CEILINGS:-build/ceilings.tsv}
refuse() { echo "record: $*" >&2; exit 1; }

[ -f "$results" ] || refuse "$results: no such file; make bench writes it"
devices=$(awk -F '\t' 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } "device" in at && !seen[$at["device"]]++ { print $at["device"] }' "$results")
[ -n "$devices" ] || refuse "$results holds no results; make bench writes them"

slug() { echo "$1" | tr '[:upper:]' '[:lower:]' | sed 's/([a-z]*)//g; s/@.*//; s/[^a-z0-9]\{1,\}/-/g; s/^-//; s/-$//'; }
backend_of() { awk -F '\t' -v d="$1" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } $at["device"] == d { print $at["backend"]; exit }' "$results"; }

commit() { git rev-parse --short=12 HEAD 2>/dev/null || echo unknown; }
changes() { git status --porcelain -- . ':!plots/recorded' 2>/dev/null; }

# Is the device $1 in this machine?
here() {
    grep -qF "$1" /proc/cpuinfo 2>/dev/null || [ "$(sysctl -n machdep.cpu.brand_string 2>/dev/null)" = "$1" ] ||
        nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | grep -qxF "$1"
}

header() { # of device $1, which runs by backend $2
    driver=-
    compiler=$(${CC:-gcc} --version 2>/dev/null | head -n 1)
    if [ "$2" = cuda ]; then
        driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
        compiler=$("${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([^,]*\).*/nvcc \1/p')", $compiler"
    fi
    echo "# device: $1"
    echo "# driver: ${DRIVER:-$driver}"
    echo "# compiler: ${COMPILER:-$compiler}"
    echo "# os: ${OS:-$(. /etc/os-release 2>/dev/null && echo "$PRETTY_NAME" || uname -sr)}"
    echo "# commit: ${COMMIT:-$(commit)$([ -z "$(changes)" ] || echo ' and changes')}"
    echo "# date: ${DATE:-$(date -u +%Y-%m-%d)}"
    [ ! -f "$ceilings" ] || awk -F '\t' -v d="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["device"] != d { next }
        $at["name"] ~ /^L[123]$/ { if (!seen[$at["name"]]++) print "# cache: " $at["name"], $at["value"], $at["unit"]; next }
        $at["name"] == "sms" { if (!seen["sms"]++) print "# sms: " $at["value"]; next }
        { print "# ceiling: " $at["name"], $at["dtype"], $at["threads"] ? $at["threads"] : "-", $at["value"], $at["unit"] }' "$ceilings"
}

# The rows of device $1. Of runs of the same thing (the same in all columns before `reps`) the last counts.
rows() {
    awk -F '\t' -v d="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; print; next }
        $at["device"] == d { key = ""; for (i = 1; i < at["reps"]; i++) key = key FS $i
                             if (!(key in place)) place[key] = ++n
                             line[place[key]] = $0 }
        END { for (i = 1; i <= n; i++) print line[i] }' "$results"
}

draft() { # of device $1, under the name $2
    mkdir -p build/plots
    { header "$1" "$(backend_of "$1")"; rows "$1"; } >"build/plots/$2.tsv"
}

if [ "${1:-}" = --draft ]; then
    echo "$devices" | while read -r device; do
        draft "$device" "$(slug "$device")"
        echo "build/plots/$(slug "$device").tsv"
    done
    exit
fi

device=${DEVICE:-$devices}
[ "$(echo "$device" | wc -l)" -eq 1 ] || refuse "$results is of several devices; say which one: DEVICE='$(echo "$devices" | head -n 1)'"
echo "$devices" | grep -qxF "$device" || refuse "$results has no results of '$device'"
name=${1:-$(slug "$device")}
if ! here "$device"; then
    for variable in DRIVER COMPILER COMMIT DATE OS; do
        eval "[ -n \"\${$variable:-}\" ]" || refuse "'$device' is not in this machine: $variable must be given, with what it was there"
    done
fi
if [ -z "${COMMIT:-}" ] && [ "${FORCE:-}" != 1 ]; then
    git rev-parse HEAD >/dev/null 2>&1 || refuse "no commit to name: this is not a git repository; give COMMIT"
    [ -z "$(changes)" ] || refuse "the tree has changes, so that no commit describes it; commit them, or FORCE=1"
fi
draft "$device" "$name"
wrong=$(awk -F '\t' '/^#/ { next } !n++ { for (i = 1; i <= NF; i++) at[$i] = i; next }
    $at["verdict"] == "FAIL" { rows = $at["rows"]; cols = $at["cols"]
                               if (rows == "-") { rows = $at["seq_q"]; cols = $at["seq_k"] }
                               print $at["step"], rows " x " cols, $at["dtype"], $at["input"]; exit }' "build/plots/$name.tsv")
[ -z "$wrong" ] || refuse "a result is wrong ($wrong), and wrong results are not recorded; when mended: rm $results, make bench"
mkdir -p plots/recorded
cp "build/plots/$name.tsv" "plots/recorded/$name.tsv"
echo "recorded $(grep -vc '^#' "plots/recorded/$name.tsv" | awk '{ print $1 - 1 }') results of $device in plots/recorded/$name.tsv"
command -v gnuplot >/dev/null || { echo "record: no gnuplot here; where there is one: plots/draw.sh plots/recorded/$name.tsv"; exit; }
exec plots/draw.sh "plots/recorded/$name.tsv"
