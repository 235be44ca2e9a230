"""Published data sets by name, on small made files of their form: every cell that comes out."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import math
import pathlib
import re

import duckdb
import pytest

from gmeta_tf.allowed import LAYOUTS
from gmeta_tf.cli.data_options import CheckOptions, PrepareOptions
from gmeta_tf.cli.main import main
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sources.published import _LAYOUTS, _WITH_A_READER, read_layout
from gmeta_tf.meta_io.sources.side_tables import joined
from gmeta_tf.schema import Field, Schema


def json_lines(*rows: dict[str, object]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


BEAUTY = {"overall": 5.0, "asin": "B1", "style": {"Size:": " 1 oz"}, "image": ["http://x"]}
BUSINESS = {"attributes": {"WiFi": "u'free'"}, "hours": None, "stars": 3.5}

SHA1 = [letter * 40 for letter in "abc"]
# A label, 13 integers, 26 hashes: some missing, a negative one, and what would be a quote.
CRITEO = [
    ["1", "1", "-2", "", *"0123456789", *(f"{n:08x}" for n in range(26))],
    ["0", *[""] * 13, "68fd1e64", '"', *[""] * 24],
]

FILES: dict[str, dict[str, str]] = {
    "movielens-10m": {
        "ratings.dat": "1::122::5::838985046\n1::185::4.5::838983525\n2::122::0.5::838983392\n",
        "movies.dat": "122::Boomerang (1992)::Comedy|Romance\n"
        '185::"Great Performances" Cats; Misérables, Les (1998)::(no genres listed)\n',
        "tags.dat": "1::122::a::1\n",
    },
    "movielens-csv": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n"
        "1,8,3.5,1147868817\n",
        "movies.csv": 'movieId,title,genres\n296,"Net, The (1995)",Crime|Drama\n'
        "8,Tom (2020),(no genres listed)\n",
        "links.csv": "movieId,imdbId,tmdbId\n296,1,2\n",
    },
    "amazon-2023": {
        "All_Beauty.csv": "user_id,parent_asin,rating,timestamp\nAG,B08,4.0,1588615855070\n",
        "Books.csv.gz": "user_id,parent_asin,rating,timestamp\nAH,007,1.0,1588615855071\n",
    },
    "amazon-json": {
        "Beauty_5.json": json_lines(
            {**BEAUTY, "reviewerID": "A1", "unixReviewTime": 1405036800, "vote": "1,200"},
            {"overall": 1.0, "asin": "B2", "reviewerID": "A2", "unixReviewTime": 1405036801},
        ),
        "reviews_Books_5.json.gz": json_lines(
            {"overall": 3.0, "asin": "B3", "reviewerID": "A1", "unixReviewTime": 7, "helpful": [0]}
        ),
        "meta_Beauty.json": "{'not': 'JSON'}\n",
    },
    "book-crossing": {
        "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n'
        '"276726";"0155061224";"5"\n"276726";"0446520802";"10"\n',
        "BX-Users.csv": '"User-ID";"Location";"Age"\n"276725";"tyler, texas, usa";NULL\n'
        '"276726";"málaga; \\"centro\\", spain";"18"\n',
        "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";'
        '"Image-URL-S"\n"0155061224";"Rites; \\"of\\" Passage";"Judith Rae";"2001";"Heinle";"u"\n',
    },
    "yelp": {
        "yelp_academic_dataset_review.json": json_lines(
            {"review_id": "r1", "user_id": "u1", "business_id": "b1", "stars": 3.0}
            | {"date": "2018-07-07 22:09:11", "text": 'a "b"\n'},
            {"review_id": "r2", "user_id": "u1", "business_id": "b2", "stars": 5.0}
            | {"date": "2012-01-03 15:28:18", "text": ""},
        ),
        "yelp_academic_dataset_business.json": json_lines(
            {"business_id": "b1", "city": "Reno", "state": "NV", "categories": "Sushi Bars, Food"}
            | BUSINESS,
            {"business_id": "b2", "city": "Affton", "state": "MO", "categories": None} | BUSINESS,
        ),
    },
    "kuairand": {
        "log_standard_4_22_to_5_08_pure.csv": "user_id,video_id,date,hourmin,time_ms,is_click,tab\n"
        "0,7,20220422,700,1650584000000,0,1\n",
        "log_standard_4_08_to_4_21_pure.csv": "user_id,video_id,date,hourmin,time_ms,is_click,tab\n"
        "0,3,20220408,700,1649374000000,1,4\n",
        "log_random_4_22_to_5_08_pure.csv": "user_id,video_id,date,hourmin,time_ms,is_click,tab\n"
        "0,5,20220422,700,1650584000001,1,1\n",
        "user_features_pure.csv": "user_id,user_active_degree,follow_user_num_range,"
        'fans_user_num_range,onehot_feat0\n0,full_active,500+,"[1,10)",1\n',
        "video_features_basic_pure.csv": "video_id,author_id,video_type,upload_dt,music_id,tag\n"
        '3,31,NORMAL,2022-04-08,9,"12,65"\n7,32,AD,2022-04-09,9,\n',
        "video_features_statistic_pure.csv": "video_id,counts\n3,1\n",
    },
    "mind": {
        "behaviors.tsv": "1\tU1\t11/13/2019 8:36:57 AM\tN5 N6\tN55-1 N-3-0\n"
        "2\tU2\t11/9/2019 12:00:01 PM\t\tN55-0\n",
        "news.tsv": 'N55\tsports\tgolf\tThe "old\tAbout\thttps://x\t[]\t[]\n'
        "N-3\tnews\tworld\tNew\t\thttps://y\t[]\t[]\n",
        "entity_embedding.vec": "Q1\t0.1\n",
    },
    "avazu": {
        "train.gz": "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,"
        "app_domain,app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
        "C14,C15,C16,C17,C18,C19,C20,C21\n"
        "10000169349117863715,0,14102100,1005,0,1fbe01fe,f384,2819,ecad,7801,07d7,a99f,96809ac8,"
        "711ee120,1,0,15704,320,50,1722,0,35,-1,79\n",
        "test.gz": "id,hour\n1,14103100\n",
    },
    "criteo": {
        "train.txt": "".join("\t".join(row) + "\n" for row in CRITEO),
        "test.txt": "\t".join(CRITEO[0][1:]) + "\n",
        "readme.txt": "Format:\n",
    },
    "tenrec": {
        "QK-video.csv": "user_id,item_id,click,follow,like,share,video_category,watching_times,"
        "gender,age\n1,4,0,0,0,0,1,0,1,4\n1,1201,1,0,1,0,\\N,3,1,4\n",
        "QB-video.csv": "user_id,item_id\n1,2\n",
        "ctr_data_1M.csv": "user_id,item_id\n1,2\n",
    },
    "lastfm-2k": {
        "user_artists.dat": "userID\tartistID\tweight\r\n2\t51\t13883\r\n3\t52\t1\r\n",
        "artists.dat": "id\tname\turl\tpictureURL\n51\tDuran Duran\thttp://x\thttp://y\n",
    },
    "lastfm-360k": {
        "usersha1-artmbid-artname-plays.tsv": f"{SHA1[0]}\t8bfac288\tu2\t31\n"
        f'{SHA1[1]}\t\tthe "quoted\t2137\nsep 20, 2008\t7ffd711a\tturbostaat\t12\n'
        f"{SHA1[2]}\t8bfac288\tu2\t0\n",
        "usersha1-profile.tsv": f"{SHA1[0]}\tm\t19\tMexico\tApr 28, 2008\n"
        f"{SHA1[1]}\t\t\tGermany\tFeb 1, 2007\n",
        "README.txt": "",
    },
    "lastfm-1k": {
        "userid-timestamp-artid-artname-traid-traname.tsv": (
            "user_000002\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck\tMe (Live)\n"
            'user_000002\t2009-05-04T13:54:10Z\t\t坂本龍一\t\t"Composition\n'
            "user_000001\t2008-01-01T00:00:00Z\tf1b1cf71\tDeep Dish\tx\tA\n"
            "user_000002\t2008-05-04T13:52:04Z\tf1b1cf71\tDeep Dish\tx\tA\n"
        ),
        "userid-profile.tsv": "#id\tgender\tage\tcountry\tregistered\n"
        "user_000001\tm\t\tJapan\tAug 13, 2006\nuser_000002\tf\t24\tPeru\tFeb 24, 2006\n",
    },
    "douban": {
        "douban_movie.tsv": "UserId\tItemId\tRating\tTimestamp\n630157\t0\t5\t1182009600.0\n"
        "630157\t1\t-1\t1182009601.0\n704\t0\t3\t1182009602.0\n",
        "socialnet.tsv": "Follower\tFollowee\tWeight\n1\t2\t1\n",
    },
    "user-item-rating": {"ratings.dat": "1 17 4.5\n1 18 3\n2 17 0.5\n", "trust.dat": "1 2 1\n"},
}
TASKS = {"criteo": "C2"}

# The rows, in the order of the schema's columns: the fields, the label, the task and the time.
ROWS: dict[str, list[dict[str, object]]] = {
    "movielens-10m": [
        {"userId": "1", "movieId": "122", "rating": "5", "genres": "Comedy|Romance"},
        {"userId": "1", "movieId": "185", "rating": "4.5", "genres": None},
        {"userId": "2", "movieId": "122", "rating": "0.5", "timestamp": "838983392"},
    ],
    "movielens-csv": [
        {"userId": "1", "movieId": "296", "rating": "5.0", "genres": "Crime|Drama"},
        {"movieId": "8", "rating": "3.5", "timestamp": "1147868817", "genres": None},
    ],
    "amazon-2023": [
        {"user_id": "AG", "parent_asin": "B08", "rating": "4.0", "timestamp": "1588615855070"},
        {"user_id": "AH", "parent_asin": "007", "rating": "1.0", "timestamp": "1588615855071"},
    ],
    "amazon-json": [
        {"reviewerID": "A1", "asin": "B1", "overall": "5.0", "unixReviewTime": "1405036800"},
        {"reviewerID": "A2", "asin": "B2", "overall": "1.0"},
        {"reviewerID": "A1", "asin": "B3", "overall": "3.0", "unixReviewTime": "7"},
    ],
    "book-crossing": [
        {"User-ID": "276726", "ISBN": "0155061224", "Book-Rating": "5", "Age": "18"}
        | {"Book-Author": "Judith Rae", "Publisher": "Heinle", "Year-Of-Publication": "2001"},
        {"ISBN": "0446520802", "Book-Rating": "10", "Age": "18", "Book-Author": None},
    ],
    "yelp": [
        {"user_id": "u1", "business_id": "b1", "stars": "3.0", "city": "Reno", "state": "NV"}
        | {"categories": "Sushi Bars, Food", "date": "2018-07-07 22:09:11"},
        {"business_id": "b2", "stars": "5.0", "city": "Affton", "categories": None},
    ],
    "kuairand": [
        {"user_id": "0", "video_id": "3", "is_click": "1", "author_id": "31", "tag": "12,65"}
        | {"user_active_degree": "full_active", "fans_user_num_range": "[1,10)", "tab": "4"},
        {"video_id": "7", "is_click": "0", "tag": None, "time_ms": "1650584000000"},
    ],
    "mind": [
        {"user_id": "U1", "news_id": "N55", "click": "1", "category": "sports"}
        | {"time": datetime.datetime(2019, 11, 13, 8, 36, 57)},
        {"user_id": "U1", "news_id": "N-3", "click": "0", "subcategory": "world"},
        {"user_id": "U2", "news_id": "N55", "click": "0"}
        | {"time": datetime.datetime(2019, 11, 9, 12, 0, 1)},
    ],
    "avazu": [
        {"device_ip": "96809ac8", "click": "0", "hour": "14102100", "site_id": "1fbe01fe"}
        | {"C14": "15704", "C20": "-1", "C21": "79"},
    ],
    "criteo": [
        {"label": "1", "I1": "1", "I2": "-2", "I3": None, "I4": "0", "I13": "9"}
        | {"C1": "00000000", "C2": "00000001", "C26": "00000019"},
        {"label": "0", "I1": None, "I13": None, "C1": "68fd1e64", "C2": '"', "C26": None},
    ],
    "tenrec": [
        {"user_id": "1", "item_id": "4", "click": "0", "video_category": "1", "gender": "1"},
        {"item_id": "1201", "click": "1", "video_category": None, "age": "4"},
    ],
    "lastfm-2k": [
        {"user": "2", "artist": "51", "log_plays": math.log1p(13883)},
        {"user": "3", "artist": "52", "log_plays": math.log1p(1)},
    ],
    "lastfm-360k": [
        {"user": SHA1[0], "artist": "8bfac288", "log_plays": math.log1p(31), "age": "19"}
        | {"gender": "m", "country": "Mexico"},
        {"user": SHA1[1], "artist": 'the "quoted', "gender": None, "country": "Germany"},
        {"user": SHA1[2], "artist": "8bfac288", "log_plays": 0.0, "country": None},
    ],
    "lastfm-1k": [
        {"user": "user_000001", "artist": "f1b1cf71", "log_plays": math.log1p(1), "age": None}
        | {"gender": "m", "first_played": "2008-01-01T00:00:00Z"},
        {"user": "user_000002", "artist": "f1b1cf71", "log_plays": math.log1p(2), "age": "24"}
        | {"first_played": "2008-05-04T13:52:04Z"},
        {"user": "user_000002", "artist": "坂本龍一", "first_played": "2009-05-04T13:54:10Z"},
    ],
    "douban": [
        {"UserId": "630157", "ItemId": "0", "Rating": "5", "Timestamp": "1182009600.0"},
        {"UserId": "704", "ItemId": "0", "Rating": "3"},
    ],
    "user-item-rating": [
        {"user": "1", "item": "17", "rating": "4.5"},
        {"user": "1", "item": "18", "rating": "3"},
        {"user": "2", "item": "17", "rating": "0.5"},
    ],
}


def write(folder: pathlib.Path, name: str) -> pathlib.Path:
    encoding = "latin-1" if name == "book-crossing" else "utf-8"
    for file, text in FILES[name].items():
        content = text.encode(encoding)
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_cell(name, tmp_path):
    folder = tmp_path / "it's [data]"
    folder.mkdir()
    source, schema = read_layout(name, write(folder, name), task=TASKS.get(name))
    with contextlib.closing(duckdb.connect()) as database:
        if schema.tables_to_join:
            source = joined(source, schema, schema.columns, tmp_path, database)
        order = "" if source.row is None else f'ORDER BY "{source.row}"'
        columns = ", ".join(f'"{column}"' for column in schema.columns)
        found = database.execute(f"SELECT {columns} FROM ({source.query}) {order}").fetchall()
    rows = [dict(zip(schema.columns, row, strict=True)) for row in found]
    assert len(rows) == len(ROWS[name])
    for row, expected in zip(rows, ROWS[name], strict=True):
        told = {
            column: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for column, value in expected.items()
        }
        assert row | told == row
    assert {column for row in ROWS[name] for column in row} <= set(schema.columns)


@pytest.mark.parametrize("name", FILES)
def test_they_prepare(name, tmp_path):
    source, schema = read_layout(name, write(tmp_path, name), task=TASKS.get(name))
    records = prepare(source, schema, tmp_path / "records", split=Split(0.0))
    assert records.details["rows"] == len(ROWS[name])
    assert not records.details["dropped_rows"]


def test_on_the_command_line(tmp_path, capsys):
    data = ["--layout", "mind", "--input", str(write(tmp_path, "mind"))]
    main(["check", *data])
    assert "3 rows of 2 tasks" in capsys.readouterr().out
    # Of a schema of one's own instead.
    own = tmp_path / "own.yaml"
    own.write_text("task: news_id\nlabel: click\nfields:\n  - {name: user_id}\n")
    out = str(tmp_path / "records")
    main(["prepare", *data, "--schema", str(own), "--output", out, "--test-fraction", "0"])
    assert Records.open(out).schema.task == "news_id"


class TestTasks:
    def test_of_criteo_is_no_field_and_the_others_are(self, tmp_path):
        source, schema = read_layout("criteo", write(tmp_path, "criteo"), task="C5")
        assert schema.task == "C5"
        keys = {field.name for field in schema.fields if field.kind == "categorical"}
        assert keys == {f"C{n}" for n in range(1, 27)} - {"C5"}
        dense = [field for field in schema.fields if field.kind == "dense"]
        assert [field.name for field in dense] == [f"I{n}" for n in range(1, 14)]
        assert {(field.transform, field.missing) for field in dense} == {("log1p", "indicator")}
        # Rows without a value in the task's column are bad rows.
        with pytest.raises(ValueError, match=r"a task \(column 'C5'\) in every row, but 1 row"):
            prepare(source, schema, tmp_path / "records", split=Split(0.0))

    def test_of_criteo_is_nobodys_guess(self, tmp_path):
        with pytest.raises(ValueError, match=r"'criteo' names no user .*task with a column of C1"):
            read_layout("criteo", write(tmp_path, "criteo"))

    def test_of_avazu_may_be_another(self, tmp_path):
        _, usual = read_layout("avazu", write(tmp_path, "avazu"))
        _, schema = read_layout("avazu", tmp_path, task="site_id")
        assert (usual.task, schema.task) == ("device_ip", "site_id")
        names = {field.name for field in usual.fields}
        assert {field.name for field in schema.fields} == names - {"site_id"} | {"device_ip"}

    def test_of_a_schema_of_ones_own(self, tmp_path):
        own = Schema((Field("C1"),), "label", "C9")
        assert read_layout("criteo", write(tmp_path, "criteo"), schema=own)[1] is own

    def test_on_the_command_line(self, tmp_path, capsys):
        data = ["--layout", "criteo", "--input", str(write(tmp_path, "criteo")), "--task", "C1"]
        main(["check", *data])
        assert "2 rows of 2 tasks" in capsys.readouterr().out
        out = str(tmp_path / "records")
        main(["prepare", *data, "--output", out, "--test-fraction", "0"])
        assert Records.open(out).schema.task == "C1"


def test_help_names_every_layout(capsys):
    for command in ("prepare", "check"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = re.sub(r"\s+", "", capsys.readouterr().out)
        if command == "prepare":
            assert ",".join(LAYOUTS) in told
        assert "--task" in told


def test_a_remote_folder():
    with pytest.raises(ValueError, match=r"'mind': expected a local folder, got s3://bucket/mind"):
        read_layout("mind", "s3://bucket/mind")


def test_plays_that_are_no_number_are_bad_rows(tmp_path):
    (tmp_path / "user_artists.dat").write_text(
        "userID\tartistID\tweight\n1\t2\t3\n1\t3\tmany\n1\t4\t-1\n1\t5\t\n"
    )
    source, schema = read_layout("lastfm-2k", tmp_path)
    with pytest.raises(ValueError, match=r"a label .*but 3 row\(s\) .*the first is row 2 "):
        prepare(source, schema, tmp_path / "records")


def test_labels_that_a_test_lacks_are_bad_rows(tmp_path):
    write(tmp_path, "mind")
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/13/2019 8:36:57 AM\tN5\tN55 N7\n")
    source, schema = read_layout("mind", tmp_path)
    with pytest.raises(ValueError, match=r"label .*the first is row 1 "):
        prepare(source, schema, tmp_path / "records")


@pytest.mark.parametrize("name", [*FILES, *_WITH_A_READER])
def test_another_folder(name, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"found notes\.txt"):
        read_layout(name, tmp_path, task=TASKS.get(name))


def test_a_table_is_missing(tmp_path):
    (write(tmp_path, "yelp") / "yelp_academic_dataset_business.json").unlink()
    with pytest.raises(
        ValueError, match=r"has no yelp_academic_dataset_business\.json, which the "
    ):
        read_layout("yelp", tmp_path)


def test_every_name_is_one():
    assert set(LAYOUTS) == {*_LAYOUTS, *_WITH_A_READER}
    assert {*_LAYOUTS, "user-item-rating"} == set(FILES) == set(ROWS)
    with pytest.raises(ValueError, match="movielens-csv"):
        read_layout("movielens-20m", "x")


@pytest.mark.parametrize("options", [PrepareOptions, CheckOptions])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "expected either --movielens or --input"),
        ({"input": ["a", "b"]}, "--layout mind needs one --input, the folder of the data set, got"),
        ({"input": ["a"], "separator": ";"}, "--separator says how .* and --layout knows"),
        ({"input": ["a"], "task": "C1"}, "--task is for the layouts avazu, criteo, got 'C1' with"),
        ({"input": ["a"], "layout": "criteo"}, "'criteo' names no user .* column of C1 to C26"),
        ({"input": ["a"], "layout": "criteo", "task": "I1"}, "--task to be one of C1, .* got 'I1'"),
        (
            {"input": ["a"], "layout": "criteo", "task": "C1", "schema": "b"},
            "--task C1 chooses the task .* the schema that is given names its task",
        ),
        ({"input": ["a"], "layout": None, "task": "C1", "schema": "b"}, "--task C1 .* got none"),
        ({"input": ["a"], "layout": "criteo-1tb"}, "--layout to be one of movielens, .*criteo,"),
    ],
)
def test_wrong_options(options, given, match):
    output = {"output": "x"} if options is PrepareOptions else {}
    with pytest.raises(ValueError, match=match):
        options(**{"layout": "mind"} | output | given)
