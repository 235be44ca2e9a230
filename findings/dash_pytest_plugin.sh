#!/usr/bin/env bash
# Dash 4.4.1 ends every pytest 9.2 session in its environment that makes warnings errors, also one whose tests do not
# use Dash: its wheel registers a pytest plugin (entry point `dash`, module dash.testing.plugin), whose hooks are marked in
# the old style, and pytest warns of that while it loads plugins, before it collects anything. `-p no:dash` helps.
#
# Seen: "PytestRemovedIn10Warning: The hookimpl pytest_addhooks uses old-style configuration options", exit status not 0; with
# -p no:dash "1 passed" (Python 3.11).
# Exits with 1 if either has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dash==4.4.1 pytest==9.2.0

mkdir "$folder/project"
cd "$folder/project"
printf '[pytest]\nfilterwarnings = error\n' >pytest.ini
echo 'def test_nothing_of_dash(): assert 1 + 1 == 2' >test_one.py

status=0
"$folder/venv/bin/python" -m pytest -q >"$folder/with" 2>&1 || status=$?
"$folder/venv/bin/python" -m pytest -q -p no:dash >"$folder/without" 2>&1 || true
tail -n 8 "$folder/with" | cut -c1-160
echo "exit status $status"
echo "with -p no:dash: $(tail -n 1 "$folder/without")"
[ "$status" != 0 ]
grep -q 'PytestRemovedIn10Warning: The hookimpl pytest_addhooks uses old-style' "$folder/with"
grep -q '^1 passed' "$folder/without"
