"""Earlier names of modules work for one release, and say where to look."""

import importlib
import sys

import pytest

import gmeta_tf as gm
from gmeta_tf._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_earlier_name_is_todays_module(old, monkeypatch):
    for name in [name for name in sys.modules if name in MOVED]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match=r"the earlier name goes") as warned:
        module = importlib.import_module(old)
    assert f"{old} is {MOVED[old]} now" in str(warned[-1].message)  # a parent may warn first
    today = importlib.import_module(MOVED[old])
    assert today.__spec__.name == MOVED[old]
    for name in getattr(today, "__all__", ()):
        assert getattr(module, name) is getattr(today, name)


def test_what_were_modules_and_are_rooms_now():
    with pytest.warns(DeprecationWarning, match=r"sources\.files_source is .*sources\.sources\."):
        from gmeta_tf.meta_io.sources import files_source
    with pytest.warns(DeprecationWarning, match=r"records\.Records is .*records\.records\.Records"):
        from gmeta_tf.meta_io.records import Records
    assert (files_source, Records) == (gm.files_source, gm.Records)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = importlib.import_module("gmeta_tf.meta_io.sources").nothing_of_that_name


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"gmeta_tf\.parcel"):
        importlib.import_module("gmeta_tf.parcel")


def test_attributes_by_their_earlier_names():
    schema = gm.Schema((gm.Field("item"),), "label", "user", tables=(gm.Table("item", num_rows=5),))
    tables = gm.ShardedEmbedding(schema, 2, world=gm.World())
    with pytest.warns(DeprecationWarning, match=r"ShardedEmbedding\.copied is .*\.replicated now"):
        assert tables.copied == tables.replicated
    model = gm.MetaModel(gm.models.MeLU((3,)), tables)
    for old, new in (
        ("adapted_outputs", "outputs"),
        ("adapted_lane", "outputs_in_one_lane"),
        ("unadapted_outputs", "unadapted_outputs"),
    ):
        with pytest.warns(DeprecationWarning, match=rf"MetaModel\.{old} is .*\.adapter\.{new} now"):
            assert getattr(model, old) == getattr(model.adapter, new)
