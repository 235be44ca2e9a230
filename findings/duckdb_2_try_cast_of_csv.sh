#!/usr/bin/env bash
# DuckDB 2.0.1 raises for TRY_CAST of a text column of read_csv: the cast goes into the reader of CSV, which converts as
# CAST would. DuckDB 1.5.6 gives NULL. It is so where the column is used for nothing but that cast, also in a subquery
# and where its type was stated (`columns={'a': 'VARCHAR'}`, `all_varchar=true`); a cast within a CASE, a
# comparison or an aggregate gives NULL, and so does one of JSON or Parquet.
#
# Seen: "1.5.6 NULL", "2.0.1 ConversionException", "2.0.1 in a CASE NULL" (Python 3.11).
# Exits with 1 if either has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf 'a,b\n1,2\nx,3\n' >"$folder/log.csv"
cat >"$folder/look.py" <<'EOT'
import sys

import duckdb

cast = "TRY_CAST(a AS FLOAT)"
wanted = f"CASE WHEN a <> '' THEN {cast} END" if sys.argv[2:] else cast
read = f"read_csv('{sys.argv[1]}', auto_detect=false, header=true, columns={{'a': 'VARCHAR', 'b': 'VARCHAR'}})"
try:
    found = duckdb.sql(f"SELECT {wanted} FROM {read}").fetchall()[-1][0]
    told = "NULL" if found is None else found
except duckdb.Error as error:
    told = type(error).__name__
print(duckdb.__version__, *sys.argv[2:], told)
EOT
for version in 1.5.6 2.0.1; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "duckdb==$version"
  "$folder/$version/bin/python" "$folder/look.py" "$folder/log.csv"
done >"$folder/found"
"$folder/2.0.1/bin/python" "$folder/look.py" "$folder/log.csv" 'in a CASE' >>"$folder/found"
cat "$folder/found"
printf '1.5.6 NULL\n2.0.1 ConversionException\n2.0.1 in a CASE NULL\n' | cmp - "$folder/found"
