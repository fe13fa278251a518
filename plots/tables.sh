#!/bin/sh
# `make tables`: rewrite the tables between <!-- results KIND ... --> and <!-- /results --> from plots/recorded/*.tsv.
#   tables.sh --check   change nothing; name the files whose tables are stale, exit status 1
# README.md in this folder lists the kinds.
set -eu
export LC_ALL=C # numbers with decimal points, in any language
cd "$(dirname "$0")/.."
recorded=$(ls plots/recorded/*.tsv 2>/dev/null | tr '\n' ' ')
new=$(mktemp)
trap 'rm -f "$new"' EXIT
status=0
for page in README.md steps/*/README.md docs/*.md plots/README.md; do
    [ -f "$page" ] && grep -q '^<!-- results' "$page" || continue
    awk -f plots/results.awk -f plots/tables.awk -v recorded="$recorded" -v mains="$(echo steps/*/main.c)" "$page" >"$new" || { status=1; continue; }
    cmp -s "$new" "$page" && continue
    if [ "${1:-}" = --check ]; then
        echo "tables: $page is stale: make tables" >&2
        status=1
    else
        cat "$new" >"$page"
        echo "tables: $page rewritten"
    fi
done
exit $status
