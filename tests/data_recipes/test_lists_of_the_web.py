"""The published forms of lists, each a few rows of it: what img2dataset is given, and which rows are not."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.data_recipes.stand_ins import asked, recipe, url, web

UIDS = [f"{number:032x}" for number in (7, 2**127 + 5, 3, 2**100)]


def listed(name: str, source: Path, out: Path, *more: str) -> list[dict]:
    words = ["--source", str(source), "--out", str(out), "--step", "list", *more]
    assert recipe(name).main(words) == 0
    return parquet.read_table(out / "list" / "00000.parquet").to_pylist()


def test_cc12m_has_the_address_first_and_may_have_a_header_and_be_packed(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "cc12m.tsv.gz"
    path.write_bytes(gzip.compress(f"\ufeffurl\tcaption\n{url(0)}\ta cat\nnowhere\ta dog\n".encode()))
    assert listed("cc12m", path, tmp_path / "out") == [{"url": url(0), "caption": "a cat", "id": 2}]
    assert "is no http address" in (tmp_path / "out" / "list" / "rejected.jsonl").read_text()


def test_sbu_is_read_from_its_json_and_from_the_two_lists_of_2011(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    rows = {"image_urls": [url(0), url(1)], "captions": ["a", "b"], "user_ids": ["x", None]}
    (new / "sbu-captions-all.json").write_text(json.dumps(rows))
    found = listed("sbu", new, tmp_path / "a")
    assert [(row["id"], row["caption"], row["user_id"]) for row in found] == [(0, "a", "x"), (1, "b", None)]
    old.mkdir()
    module = recipe("sbu")
    (old / module.URLS).write_text(f"{url(0)}\n{url(1)}\n")
    (old / module.CAPTIONS).write_bytes(b"a\r\n\xff\n")
    assert [row["caption"] for row in listed("sbu", old, tmp_path / "b")] == ["a"]
    (old / module.CAPTIONS).write_text("a\n")
    assert module.main(["--source", str(old), "--out", str(tmp_path / "c"), "--step", "list"]) == 2


def test_redcaps_is_read_from_a_json_a_subreddit(tmp_path: Path) -> None:
    source = tmp_path / "annotations"
    source.mkdir()
    good = {"image_id": "x1", "url": url(0), "caption": "my cat", "raw_caption": "MY CAT", "subreddit": 9, "score": 4}
    rows = [good, {"caption": "no id"}, {**good, "image_id": "x2", "caption": ""}]
    (source / "cats_and_dogs_2019.json").write_text(json.dumps({"info": {}, "annotations": rows}))
    wanted = {"url": url(0), "caption": "my cat", "id": "x1", "subreddit": "cats_and_dogs", "score": 4}
    assert listed("redcaps", source, tmp_path / "out") == [wanted]


def test_coyo_keeps_its_scores_and_ids_and_can_be_cut_by_them(tmp_path: Path) -> None:
    rows = {"id": [11, 12, 13], "url": [url(0), url(1), url(2)], "text": ["a", "b", "c"], "width": [9, 9, 9],
            "clip_similarity_vitb32": [0.3, 0.1, None], "image_phash": ["0", "1", "2"]}  # fmt: skip
    (tmp_path / "source").mkdir()
    parquet.write_table(pa.table(rows), tmp_path / "source" / "part-00000-x.snappy.parquet")
    found = listed("coyo", tmp_path / "source", tmp_path / "out", "--where", "clip_similarity_vitb32>=0.2")
    assert found == [
        {"url": url(0), "caption": "a", "id": 11, "clip_similarity_vitb32": 0.3, "source_width": 9}
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption")])
def test_relaion_is_read_in_either_spelling_with_or_without_ids(names: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for part in (1, 0):
        table = pa.table({names[0]: [url(part), None], names[1]: ["a", "b"], "punsafe": [0.1, 0.2]})
        parquet.write_table(table, tmp_path / "source" / f"part-{part}.parquet")
    found = listed("relaion", tmp_path / "source", tmp_path / "out")
    assert [(row["url"], row["id"], row["punsafe"]) for row in found] == [
        (url(0), "part-0:0", 0.1), (url(1), "part-1:0", 0.1)
    ]  # fmt: skip


def pool(folder: Path) -> Path:
    folder.mkdir()
    count = len(UIDS)
    rows = {"uid": UIDS, "url": [url(number) for number in range(count)], "text": [f"text {n}" for n in range(count)],
            "original_width": [1] * count, "clip_l14_similarity_score": [0.1, 0.2, 0.3, 0.4],
            "face_bboxes": [[[0.1, 0.1, 0.2, 0.2]]] * count, "sha256": ["0" * 64] * count}  # fmt: skip
    parquet.write_table(pa.table(rows), folder / "a.parquet")
    return folder


def test_a_subset_of_datacomp_is_chosen_by_its_uids_before_the_download(tmp_path: Path) -> None:
    chosen = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in (UIDS[3], UIDS[1], "f" * 32)], "u8,u8")
    chosen.sort()
    np.save(tmp_path / "subset.npy", chosen)
    found = listed("datacomp", pool(tmp_path / "source"), tmp_path / "out", "--uids", str(tmp_path / "subset.npy"))
    assert [row["uid"] for row in found] == [UIDS[1], UIDS[3]]


def test_datacomp_is_downloaded_as_its_own_tool_does(tmp_path: Path, capsys) -> None:
    program = web(tmp_path / "web", 4)
    words = ["--source", str(pool(tmp_path / "source")), "--out", str(tmp_path / "out"), "--img2dataset", program]
    module = recipe("datacomp")
    assert module.main([*words, "--step", "list", "--step", "download"]) == 0
    options = asked(tmp_path / "web")
    wanted = {"image_size": "512", "resize_mode": "keep_ratio_largest", "bbox_col": "face_bboxes",
              "oom_shard_count": "8", "save_additional_columns": '["uid","clip_l14_similarity_score"]'}  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "verify_hash" not in options
    assert (tmp_path / "out" / "download" / "00000000.tar").exists()
    capsys.readouterr()
    words[3] = str(tmp_path / "checked")
    assert module.main([*words, "--verify-hash", "--step", "list", "--step", "download"]) == 2
    assert "nothing came (0 of 4 images downloaded (0.0%), 1 shards; not: 4 hash mismatch)" in capsys.readouterr().err
    assert json.loads(asked(tmp_path / "web")["verify_hash"]) == ["source_sha256", "sha256"]


def test_a_list_without_a_column_is_refused_with_those_it_has(tmp_path: Path, capsys) -> None:
    (tmp_path / "source").mkdir()
    parquet.write_table(pa.table({"link": ["x"], "text": ["y"]}), tmp_path / "source" / "part-0.parquet")
    words = ["--source", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--step", "list"]
    assert recipe("relaion").main(words) == 2
    assert "part-0.parquet: has no column url; it has link, text" in capsys.readouterr().err
    (tmp_path / "source" / "part-0.parquet").write_bytes(b"<html>")
    assert recipe("relaion").main(words) == 2
    assert "cannot be read as Parquet" in capsys.readouterr().err
