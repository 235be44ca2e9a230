"""Dense values that are too large are told of, with the remedy; others are not."""

import dataclasses

import pytest
from made_dense import write_dense_log

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import prepare
from gmeta_tf.meta_io.records.dense_scale import unscaled_fields
from gmeta_tf.meta_io.sources.sources import files_source


def records_of(folder, *fields):
    source = files_source(write_dense_log(folder / "log.csv"))
    schema = gm.Schema((gm.Field("item"), *fields), "liked", "user")
    return prepare(source, schema, folder / "records", num_files=2)


@pytest.mark.parametrize("told", [True, False])
def test_a_plain_year_is_told_of(told, tmp_path):
    fields = [gm.Field(name, "dense", missing=0.0) for name in ("year", "price", "plain")]
    records = records_of(tmp_path, *fields)
    if not told:  # as an earlier version prepared them
        records = dataclasses.replace(records, details={})
    year, price = unscaled_fields(records)
    assert year.startswith("the dense field 'year' has values from 1933 to 2019 (mean 197")
    assert "State `transform: standardize`" in year
    assert "'price'" in price
    assert "State `transform: log1p`" in price


def test_transformed_and_small_ones_are_not(tmp_path):
    year = gm.Field("year", "dense", transform="standardize", missing="mean")
    plain = gm.Field("plain", "dense", missing="indicator")
    assert unscaled_fields(records_of(tmp_path, year, plain)) == []


def test_a_field_without_a_value_is_not(tmp_path):
    (tmp_path / "log.csv").write_text("u,y,a\n" + "".join(f"{i},1,\n" for i in range(6)))
    schema = gm.Schema((gm.Field("u"), gm.Field("a", "dense", missing=1e6)), "y", "u")
    records = prepare(files_source(tmp_path / "log.csv"), schema, tmp_path / "records")
    assert unscaled_fields(records) == []
    assert unscaled_fields(dataclasses.replace(records, details={})) == []
