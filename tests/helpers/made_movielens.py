"""MovieLens in its three layouts, three ratings each."""

from __future__ import annotations

import pathlib

RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "2\t10\t3\t881\n1\t20\t5\t870\n3\t10\t4\t860\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\tT8H1N\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '10\tLes Misérables\t1995\tAnimation Children\'s Comedy\n20\t"unknown"\t\t\n',
}
FLAGS = {"unknown": "1" + "|0" * 18, "three": "0|0|0|1|1|1" + "|0" * 13}
GROUPLENS_100K = {
    "u.data": "2\t10\t3\t881\n1\t20\t5\t870\n3\t10\t4\t860\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
    "u.item": f"10|Les Misérables (1998)|01-Jan-1995||http://x|{FLAGS['three']}\n"
    f'20|"unknown"||||{"0" + "|0" * 18}\n',
}
GROUPLENS_1M = {
    "ratings.dat": "2::10::3::881\n1::20::5::870\n3::10::4::860\n",
    "users.dat": "1::M::24::technician::85711\n2::F::53::other::T8H1N\n",
    "movies.dat": "10::Misérables, Les (1862) (1995)::Animation|Children's|Comedy\n"
    '20::"Unknown"::\n',
}


def write_files(folder: pathlib.Path, files: dict[str, str], encoding: str) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode(encoding))
    return folder
