"""Published layouts on small made files: every cell that comes out, and prepare from end to end."""

from __future__ import annotations

import contextlib
import gzip
import math
import pathlib
from collections.abc import Sequence

import duckdb
import numpy as np
import pytest

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.ali_ccp import ali_ccp_schema, ali_ccp_source
from gmeta_tf.meta_io.sources.criteo import criteo_schema, criteo_source
from gmeta_tf.meta_io.sources.sources import Source, check_unchanged, reading_error
from gmeta_tf.meta_io.sources.taobao import taobao_ads_schema, taobao_ads_source


def rows_of(source: Source, columns: Sequence[str]) -> list[dict[str, object]]:
    """The rows in the order of the source, with the columns that are asked for."""
    names = ", ".join(f'"{column}"' for column in columns)
    order = "" if source.row is None else f" ORDER BY {source.row}"
    with contextlib.closing(duckdb.connect()) as database:
        try:
            found = database.execute(f"SELECT {names} FROM ({source.query}){order}").fetchall()
        except duckdb.Error as error:
            raise reading_error(source.description, error) from error
    return [dict(zip(columns, row, strict=True)) for row in found]


def write_files(folder: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        packed = gzip.compress if name.endswith(".gz") else bytes
        (folder / name).write_bytes(packed(content.encode()))
    return folder


class TestAliCcp:
    COLUMNS = (
        *("part", "sample_id", "click", "conversion", "user_id", "user_profile", "user_group"),
        *("user_gender", "user_age", "user_consumption_1", "user_consumption_2"),
        *("user_occupation", "user_geography", "item", "category", "shop", "brand"),
        *("user_category", "user_shop", "user_brand", "position"),
        *("seen_categories", "seen_shops", "seen_brands", "seen_intentions"),
        *("intention", "user_intention"),
    )

    @staticmethod
    def features(*features: tuple[str, str, str]) -> str:
        return "\x01".join(f"{field}\x02{value}\x03{weight}" for field, value, weight in features)

    def files(self) -> dict[str, str]:
        single = ("121", "122", "124", "125", "126", "127", "128", "129")
        user = self.features(
            ("109_14", "c1", "0.69315"),
            ("109_14", "c2", "2.3"),
            ("109_14", "c3", "0.69315"),
            ("109_14", "c4", "1.5"),
            ("110_14", "s1", "1"),
            # 127 is not 127_14, and neither 9127_14 nor 9101 ends in another field.
            ("9127_14", "no", "9"),
            ("127_14", "b1", "1e-3"),
            ("127_14", "b2", "0.5"),
            ("9101", "no", "1"),
            ("101", "u7", "1.0"),
            *((field, f"v{field}", "1.0") for field in single),
            ("150_14", "n1", "odd"),
            ("150_14", "n2", "1"),
        )
        other_user = self.features(("101", "u8", "1.0"), ("150_14", "n9", "3"))
        impression = self.features(
            *(("205", "i1", "1.0"), ("206", "c2", "1.0"), ("207", "s1", "1.0")),
            *(("210", "n1", "1.0"), ("210", "n2", "1.0"), ("210", "n3", "1.0")),
            *(("216", "b1", "1.0"), ("508", "x", "2.3"), ("509", "y", "1.1")),
            *(("702", "z", "0.7"), ("853", "w1", "0.7"), ("853", "w2", "1.4"), ("301", "p", "1")),
        )
        short = self.features(("205", "i2", "1.0"))
        skeletons = [
            f"1,0,0,bacff91692951881,13,{impression}",
            f"2,1,1,other,1,{short}",
            f"3,1,0,bacff91692951881,1,{short}",
            "4,0,1,nobody,0,",
        ]
        commons = [f"other,2,{other_user}", f"bacff91692951881,21,{user}"]
        return {
            "sample_skeleton_train.csv": "\n".join(skeletons) + "\n",
            "common_features_train.csv": "\n".join(commons) + "\n",
        }

    def test_every_cell(self, tmp_path):
        source = ali_ccp_source(write_files(tmp_path / "it's", self.files()), max_values=3)
        names = (*("user_profile", "user_group", "user_gender", "user_age"), *self.COLUMNS[11:13])
        user = {"user_id": "u7", "seen_categories": ["c2", "c4", "c1"], "seen_shops": ["s1"]}
        user |= {"seen_brands": ["b2", "b1"], "seen_intentions": ["n2", "n1"]}
        user |= dict(zip(names, ("v121", "v122", "v124", "v125", "v128", "v129"), strict=True))
        user |= {"user_consumption_1": "v126", "user_consumption_2": "v127"}
        none = dict.fromkeys(self.COLUMNS) | {"part": "train"}
        empty = {"intention": [], "user_intention": []}
        no_history = {"seen_categories": [], "seen_shops": [], "seen_brands": []}
        item = {"item": "i1", "category": "c2", "shop": "s1", "brand": "b1", "position": "p"}
        item |= {"user_category": "x", "user_shop": "y", "user_brand": "z"}
        item |= {"intention": ["n1", "n2", "n3"], "user_intention": ["w2", "w1"]}
        assert rows_of(source, self.COLUMNS) == [
            none | user | item | {"sample_id": "1", "click": "0", "conversion": "0"},
            none
            | no_history
            | {"sample_id": "2", "click": "1", "conversion": "1", "user_id": "u8", "item": "i2"}
            | {"seen_intentions": ["n9"]}
            | empty,
            none | user | empty | {"sample_id": "3", "click": "1", "conversion": "0", "item": "i2"},
            # Whose common features are not there, and which has no features of its own.
            none
            | {"sample_id": "4", "click": "0", "conversion": "1"}
            | dict.fromkeys(("intention", "user_intention")),
        ]
        assert source.description == f"Ali-CCP train in {tmp_path}/it's"
        assert [pathlib.Path(file.path).name for file in source.files] == [
            *("sample_skeleton_train.csv", "common_features_train.csv")
        ]
        check_unchanged(source)

    def test_both_parts_in_the_folders_of_the_archives(self, tmp_path):
        files = self.files()
        write_files(tmp_path / "sample_train", files)
        # The same index of common features means another user in the other part.
        common = f"other,1,{self.features(('101', 'u9', '1.0'))}\n"
        skeleton = files["sample_skeleton_train.csv"].splitlines()[1] + "\n"
        names = ("sample_skeleton_test.csv", "common_features_test.csv")
        write_files(tmp_path / "sample_test", dict(zip(names, (skeleton, common), strict=True)))
        source = ali_ccp_source(tmp_path, ("train", "test"))
        found = rows_of(source, ("part", "sample_id", "user_id", source.row))
        assert [tuple(row.values()) for row in found] == [
            *[("train", "1", "u7", 1), ("train", "2", "u8", 2), ("train", "3", "u7", 3)],
            *[("train", "4", None, 4), ("test", "2", "u9", 5)],
        ]
        assert source.description.startswith("Ali-CCP train and test in ")

    def test_prepares_by_the_schema(self, tmp_path):
        source = ali_ccp_source(write_files(tmp_path / "data", self.files()))
        with pytest.raises(ValueError, match=r"a task \(column 'user_id'\) .*row 4"):
            prepare(source, ali_ccp_schema(), tmp_path / "out", split=Split(0.0))
        records = prepare(
            source,
            ali_ccp_schema(),
            tmp_path / "out",
            split=Split(0.0),
            on_bad_row="drop",
            max_bad_share=1.0,
        )
        assert (records.details["rows"], records.details["tasks"]) == (3, 2)
        assert records.details["dropped_rows"] == {"task": 1}
        assert read_vocabulary(records.path, "item").tolist() == ["i2", "i1"]
        assert read_vocabulary(records.path, "seen_categories").tolist() == ["c1", "c2", "c3", "c4"]
        assert read_vocabulary(records.path, "intention").tolist() == ["n1", "n2", "n3"]
        conversions = ali_ccp_schema("conversion", max_values=2)
        assert conversions.label == "conversion"
        fields = {field.name: field for field in conversions.fields}
        assert "user_id" not in fields
        assert (fields["seen_shops"].kind, fields["seen_shops"].max_values) == ("multi", 2)
        expected = {"user_id", *self.COLUMNS[13:], *self.COLUMNS[5:13]}
        assert {conversions.task, *fields} == expected

    @pytest.mark.parametrize("name", ["sample_skeleton_train.csv", "common_features_train.csv"])
    def test_a_missing_file_is_named(self, name, tmp_path):
        files = self.files()
        del files[name]
        message = (
            rf"is not a folder of Ali-CCP: expected .*{name}.*; found {next(iter(files))}\. Name"
        )
        with pytest.raises(ValueError, match=message):
            ali_ccp_source(write_files(tmp_path, files))

    @pytest.mark.parametrize("parts", [(), ("train", "valid")])
    def test_other_parts(self, parts, tmp_path):
        with pytest.raises(ValueError, match=r"parts of train, test, got \["):
            ali_ccp_source(tmp_path, parts)

    def test_arguments_out_of_range(self, tmp_path):
        with pytest.raises(ValueError, match="max_values of at least 1, got 0"):
            ali_ccp_source(tmp_path, max_values=0)
        with pytest.raises(ValueError, match="'click' or 'conversion', got 'buy'"):
            ali_ccp_schema("buy")

    def test_a_line_with_other_columns(self, tmp_path):
        files = self.files()
        files["sample_skeleton_train.csv"] += "5,0,0,other\n"
        source = ali_ccp_source(write_files(tmp_path, files))
        with pytest.raises(ValueError, match=r"skeleton_train\.csv, line 5: expected 6 cells, got"):
            rows_of(source, ("item",))


INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))


class TestCriteo:
    @staticmethod
    def line(label: str, integers: dict[str, str], categories: dict[str, str]) -> str:
        values = integers | categories
        return "\t".join([label, *(values.get(name, "") for name in (*INTEGERS, *CATEGORIES))])

    def rows(self) -> list[str]:
        every = dict(zip(INTEGERS, map(str, range(0, 130, 10)), strict=True))
        hashed = {name: f"{number:08x}" for number, name in enumerate(CATEGORIES)}
        return [
            self.line("1", every | {"I2": "-2"}, hashed),
            self.line("0", {}, {"C9": "a73ee510", "C26": '"x'}),
            self.line("0", {"I13": "5"}, {"C9": "a73ee510"}),
        ]

    @pytest.mark.parametrize("name", ["train.txt", "day_0.gz", "day [0]"])
    def test_every_cell(self, name, tmp_path):
        files = {name: "\n".join(self.rows()) + "\n", "day 0": "another file\n"}
        folder = write_files(tmp_path, files)
        source = criteo_source(folder / name)
        first, second, third = rows_of(source, ("label", *INTEGERS, *CATEGORIES))
        logs = [math.log(1 + 10 * number) for number in range(13)]
        logs[1] = -math.log(3)
        np.testing.assert_allclose([first[name] for name in INTEGERS], logs, rtol=1e-12)
        assert [first[name] for name in CATEGORIES] == [f"{number:08x}" for number in range(26)]
        missing = dict.fromkeys(INTEGERS, 0) | dict.fromkeys(CATEGORIES)
        assert second == missing | {"label": "0", "C9": "a73ee510", "C26": '"x'}
        assert third == missing | {
            "label": "0",
            "C9": "a73ee510",
            "I13": pytest.approx(math.log(6)),
        }
        check_unchanged(source)

    def test_files_in_their_order(self, tmp_path):
        names = ("day_0.gz", "day_1", "day_2")
        files = {
            name: "".join(self.line(f"{day}", {}, {"C1": str(n)}) + "\n" for n in range(1000))
            for day, name in enumerate(names)
        }
        write_files(tmp_path, files)
        found = rows_of(criteo_source(tmp_path / "day_*"), ("label", "C1"))
        assert [(row["label"], row["C1"]) for row in found] == [
            (str(day), str(n)) for day in range(3) for n in range(1000)
        ]

    def test_prepares_by_the_schema(self, tmp_path):
        bad = self.line("0", {"I3": "many"}, {"C9": "a73ee510"})
        no_task = self.line("0", {}, {})
        lines = [*self.rows(), bad, no_task]
        source = criteo_source(write_files(tmp_path, {"t.txt": "\n".join(lines)}) / "t.txt")
        with pytest.raises(ValueError, match=r"a task \(column 'C9'\) .*row 5"):
            prepare(source, criteo_schema("C9"), tmp_path / "out", split=Split(0.0))
        records = prepare(
            source,
            criteo_schema("C9"),
            tmp_path / "out",
            split=Split(0.0),
            on_bad_row="drop",
            max_bad_share=1.0,
        )
        assert (records.details["rows"], records.details["tasks"]) == (3, 2)
        assert records.details["dropped_rows"] == {"task": 1, "field I3": 1}
        assert read_vocabulary(records.path, "C26").tolist() == ['"x', "00000019"]
        schema = criteo_schema("C9", min_count=2)
        assert [field.name for field in schema.dense_fields] == list(INTEGERS)
        assert [field.name for field in schema.key_fields] == [
            name for name in CATEGORIES if name != "C9"
        ]
        assert {field.min_count for field in schema.key_fields} == {2}

    @pytest.mark.parametrize("task", ["C27", "I1", "label"])
    def test_another_task(self, task):
        with pytest.raises(ValueError, match=f"a task of C1 to C26, got '{task}'"):
            criteo_schema(task)

    def test_without_a_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file .*train\.txt: expected"):
            criteo_source(tmp_path / "train.txt")

    def test_the_file_without_labels(self, tmp_path):
        line = "\t".join(["1"] * 39)
        source = criteo_source(write_files(tmp_path, {"test.txt": f"{line}\n"}) / "test.txt")
        with pytest.raises(ValueError, match=r"test\.txt, line 1: expected 40 cells, got 39"):
            rows_of(source, ("label",))


TAOBAO = {
    "raw_sample.csv": "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
    "581738,1494137644,1,430548_1007,1,0\n"
    "449818,1494638778,3,430548_1007,0,1\n"
    "7,1494650879,4,430539_1007,1,0\n"
    "581738,1494000000,9,430539_1007,1,0\n",
    "ad_feature.csv": "adgroup_id,cate_id,campaign_id,customer,brand,price\n"
    "4,6406,83237,1,95471,0\n1,9025,108570,2,NULL,170.0\n3,6423,3,5,87331,NULL\n",
    "user_profile.csv": "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,"
    "shopping_level,occupation,new_user_class_level \n581738,0,5,2,5,,3,0,3\n"
    "449818,5,2,1,2,1,3,1,\n",
}


class TestTaobao:
    COLUMNS = (
        *("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"),
        *("cate_id", "campaign_id", "customer", "brand", "price"),
        *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level"),
        *("shopping_level", "occupation", "new_user_class_level"),
    )

    def test_every_cell(self, tmp_path):
        source = taobao_ads_source(write_files(tmp_path / "it's", TAOBAO))
        rows = rows_of(source, self.COLUMNS)
        profile = ("0", "5", "2", "5", None, "3", "0", "3")
        sample = ("581738", "1494137644", "1", "430548_1007", "1", "0")
        assert [tuple(row.values()) for row in rows] == [
            (*sample, "9025", "108570", "2", None, "170.0", *profile),
            (
                *("449818", "1494638778", "3", "430548_1007", "0", "1"),
                *("6423", "3", "5", "87331", None, "5", "2", "1", "2", "1", "3", "1", None),
            ),
            (
                *("7", "1494650879", "4", "430539_1007", "1", "0"),
                *("6406", "83237", "1", "95471", "0", *[None] * 8),
            ),
            (*("581738", "1494000000", "9", "430539_1007", "1", "0"), *[None] * 5, *profile),
        ]
        prices = [row["log_price"] for row in rows_of(source, ("log_price",))]
        assert prices == pytest.approx([math.log(171), 0, 0, 0])
        assert source.description == f"Taobao ads in {tmp_path}/it's"
        assert [pathlib.Path(file.path).name for file in source.files] == list(TAOBAO)
        check_unchanged(source)

    def test_prepares_by_the_schema(self, tmp_path):
        source = taobao_ads_source(write_files(tmp_path / "data", TAOBAO))
        records = prepare(source, taobao_ads_schema(), tmp_path / "out", split=Split(0.0))
        assert (records.details["rows"], records.details["tasks"]) == (4, 3)
        assert read_vocabulary(records.path, "brand").tolist() == ["87331", "95471"]
        assert read_vocabulary(records.path, "new_user_class_level").tolist() == ["3"]
        assert read_vocabulary(records.path, "adgroup_id").tolist() == ["1", "3", "4", "9"]
        schema = taobao_ads_schema(min_count=3)
        assert (schema.task, schema.label, schema.time) == ("user", "clk", "time_stamp")
        names = {*self.COLUMNS} - {"user", "time_stamp", "nonclk", "clk", "price"}
        assert {field.name for field in schema.key_fields} == names
        assert {field.min_count for field in schema.key_fields} == {3}

    @pytest.mark.parametrize("price", ["cheap", "-5"])
    def test_a_bad_price_is_a_bad_row(self, price, tmp_path):
        ads = TAOBAO["ad_feature.csv"].replace("170.0", price)
        source = taobao_ads_source(write_files(tmp_path / "data", TAOBAO | {"ad_feature.csv": ads}))
        with pytest.raises(ValueError, match=r"a 'log_price' .* row 1 "):
            prepare(source, taobao_ads_schema(), tmp_path / "out", split=Split(0.0))

    @pytest.mark.parametrize("name", list(TAOBAO))
    def test_a_missing_file_is_named(self, name, tmp_path):
        files = {other: content for other, content in TAOBAO.items() if other != name}
        message = (
            rf"not a folder of Taobao ads: expected .*{name}.*found {min(files)}, {max(files)}\."
        )
        with pytest.raises(ValueError, match=message):
            taobao_ads_source(write_files(tmp_path, files))

    def test_other_columns(self, tmp_path):
        users = TAOBAO["user_profile.csv"].replace("age_level", "age")
        folder = write_files(tmp_path, TAOBAO | {"user_profile.csv": users})
        message = r"user_profile\.csv: expected the columns userid, .*got userid, .*without age_lev"
        with pytest.raises(ValueError, match=message):
            taobao_ads_source(folder)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"nowhere is not a folder of Taobao ads: .*found nothing"
        ):
            taobao_ads_source(tmp_path / "nowhere")
