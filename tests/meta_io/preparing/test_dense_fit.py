"""What transforms learn: of the training rows alone, the same numbers from whatever chunks."""

import contextlib
import csv
import json
import math
import pathlib
import shutil

import duckdb
import numpy as np
import pytest
from made_dense import NAMES, SCHEMA, fitted_twin, write_dense_log

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing import dense_fit
from gmeta_tf.meta_io.preparing.dense_fit import DenseFit
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.sources.sources import files_source

ONE = gm.Schema((gm.Field("a", "dense", transform="standardize"),), "y", "u")


def words_of(values):
    """Rows of the schema `ONE`: a label, which is 0, and the value."""
    values = np.asarray(values, "<f4")
    return np.stack([np.zeros_like(values).view("<i4"), values.view("<i4")])


def fit_of(schema, *chunks):
    fit = DenseFit(schema)
    passed = list(fit.watch((np.zeros(len(chunk)), words_of(chunk)) for chunk in chunks))
    for (_, words), chunk in zip(passed, chunks, strict=True):
        np.testing.assert_array_equal(words, words_of(chunk))
    return fit


def dense_plane(records, name, split="train"):
    ranges = dict(zip((f.name for f in records.schema.fields), slot_ranges(records.schema)))
    planes = [words[ranges[name][0]] for _, words in records.read(split)]
    return np.concatenate(planes).view(np.float32)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    source = files_source(write_dense_log(folder / "log.csv"))
    return prepare(source, SCHEMA, folder / "records", split=Split(0.4), num_files=2)


def test_training_rows_alone_are_fitted(records):
    assert records.contents["test"].rows > 20
    for name in NAMES:
        twin = fitted_twin(dense_plane(records, name).tolist())
        told = records.details["dense_values"][name]
        found = [told[what] for what in ("mean", "deviation", "smallest", "largest")]
        np.testing.assert_allclose(found, twin, rtol=1e-12)
        everything = np.concatenate([dense_plane(records, name, s) for s in records.splits])
        assert found[0] != pytest.approx(fitted_twin(everything.tolist())[0], rel=1e-6)
        assert told["rows"] + told["missing"] == records.contents["train"].rows
        assert (told["missing"] > 0) == (name != "price")
    fitted = {field.name: field.fitted for field in records.schema.dense_fields}
    told = records.details["dense_values"]
    assert fitted["price"] is fitted["plain"] is None
    assert (fitted["year"].centre, fitted["year"].scale) == (
        told["year"]["mean"],
        told["year"]["deviation"],
    )
    assert fitted["age"].centre == told["age"]["smallest"]
    assert fitted["age"].scale == told["age"]["largest"] - told["age"]["smallest"]
    assert len(fitted["hours"].edges) == 3


def test_records_keep_the_values_and_nan_for_missing_ones(records):
    log = pathlib.Path(records.path).parent / "log.csv"
    with open(log, newline="", encoding="utf-8") as file:
        years = [row["year"].strip() for row in csv.DictReader(file)]
    expected = np.array([float(year) if year else np.nan for year in years], np.float32)
    found = np.concatenate([dense_plane(records, "year", split) for split in records.splits])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))
    assert np.isnan(found).sum() > 5
    assert verify(records.path).damaged_records == 0


def test_quantiles_part_the_training_rows_evenly(records):
    hours = dense_plane(records, "hours")
    hours = hours[~np.isnan(hours)]
    edges = next(f.fitted.edges for f in records.schema.dense_fields if f.name == "hours")
    counts = np.bincount(np.searchsorted(edges, hours, side="right"))
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 3


def test_the_same_numbers_from_any_chunks(monkeypatch):
    monkeypatch.setattr(dense_fit, "_BLOCK_ROWS", 7)
    values = np.random.default_rng(0).normal(2000, 30, 100).astype(np.float32)
    values[::9] = np.nan
    whole = fit_of(ONE, values)
    parts = fit_of(ONE, values[:1], values[1:50], values[50:50], values[50:])
    assert whole.described() == parts.described()
    mean, deviation, smallest, largest = fitted_twin(values.tolist())
    told = whole.described()["a"]
    np.testing.assert_allclose([told["mean"], told["deviation"]], [mean, deviation], rtol=1e-12)
    assert (told["smallest"], told["largest"], told["missing"]) == (smallest, largest, 12)


def test_quantiles_of_more_rows_than_are_kept(monkeypatch):
    monkeypatch.setattr(dense_fit, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(dense_fit, "_MOST_SAMPLED", 100)
    schema = gm.Schema((gm.Field("a", "dense", transform="bucketize", buckets=4),), "y", "u")
    # In order, as a time is that grows: the sample must reach to the end.
    fit = fit_of(schema, np.arange(1000))
    (column,) = fit._columns
    kept = np.concatenate(column.sampled)
    np.testing.assert_array_equal(kept, np.arange(0, 1000, 16))
    np.testing.assert_allclose(fit.fitted()["a"].edges, [250, 500, 750], atol=20)


def test_equal_values_are_one_bucket():
    schema = gm.Schema((gm.Field("a", "dense", transform="bucketize", buckets=4),), "y", "u")
    assert fit_of(schema, [1.0] * 9 + [5.0]).fitted()["a"].edges == ()
    assert fit_of(schema, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]).fitted()["a"].edges == (2.0,)


def test_a_constant_becomes_zero_and_not_noise():
    fit = fit_of(ONE, [0.1] * 1000).fitted()["a"]
    assert fit.scale == 1.0
    assert fit.centre == pytest.approx(0.1, rel=1e-6)


def test_a_field_without_a_value_cannot_be_fitted(tmp_path):
    (tmp_path / "log.csv").write_text("u,y,a\n" + "".join(f"{i},1,\n" for i in range(6)))
    field = gm.Field("a", "dense", transform="standardize", missing="mean")
    schema = gm.Schema((gm.Field("u"), field), "y", "u")
    with pytest.raises(ValueError, match=r"field 'a': expected a value in some training row"):
        prepare(files_source(tmp_path / "log.csv"), schema, tmp_path / "records")
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "abc", "1_0"])
def test_a_value_that_may_be_missing_may_not_be_wrong(value, tmp_path):
    rows = "".join(f"{i},1,{value if i == 3 else ''}\n" for i in range(6))
    (tmp_path / "log.csv").write_text("u,y,a\n" + rows)
    schema = gm.Schema((gm.Field("u"), gm.Field("a", "dense", missing=0.5)), "y", "u")
    with pytest.raises(ValueError, match=r"a 'a' \(column 'a'\) that is a finite number, or none"):
        prepare(files_source(tmp_path / "log.csv"), schema, tmp_path / "records")


def test_nan_and_null_of_parquet_are_missing(tmp_path):
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(
            "COPY (SELECT range AS u, 1 AS y, CASE range WHEN 1 THEN 'nan'::DOUBLE WHEN 2 THEN "
            f"-('nan'::DOUBLE) WHEN 3 THEN NULL ELSE range END AS a FROM range(8)) "
            f"TO '{tmp_path}/log.parquet' (FORMAT parquet)"
        )
    schema = gm.Schema((gm.Field("u"), gm.Field("a", "dense", missing="mean")), "y", "u")
    source = files_source(tmp_path / "log.parquet")
    records = prepare(source, schema, tmp_path / "records", split=Split(0.2))
    found = np.concatenate([dense_plane(records, "a", split) for split in records.splits])
    assert np.isnan(found).sum() == 3
    assert set(found[np.isnan(found)].view("<i4").tolist()) == {0x7FC00000}


def test_an_appended_log_is_transformed_by_the_first_ones_numbers(records, tmp_path):
    shutil.copytree(records.path, tmp_path / "records")
    later = write_dense_log(tmp_path / "later.csv", seed=1)
    found = prepare(files_source(later), SCHEMA, tmp_path / "records", append=True)
    assert found.schema.dense_fields == records.schema.dense_fields
    assert found.details["dense_values"] == records.details["dense_values"]
    gm.Records.open(found.path, SCHEMA)


def test_records_of_other_transforms_are_not_appended_to(records, tmp_path):
    shutil.copytree(records.path, tmp_path / "records")
    other = gm.Schema.from_json(SCHEMA.to_json() | {"fields": [{"name": "item"}]})
    later = files_source(write_dense_log(tmp_path / "later.csv", seed=1))
    with pytest.raises(ValueError, match="expected the schema to be"):
        prepare(later, other, tmp_path / "records", append=True)


def test_schemas_without_transforms_are_written_as_ever():
    schema = gm.Schema((gm.Field("item"), gm.Field("price", "dense")), "y", "u")
    assert list(schema.to_json()["fields"][1]) == [
        *("name", "kind", "table", "column", "separator", "max_values", "min_count"),
    ]
    fitted = SCHEMA.with_fitted({"hours": gm.schema.Fitted(mean=1.5, edges=(0.25, 3.0))})
    assert gm.Schema.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert not math.isnan(fitted.dense_fields[3].fitted.mean)
