import base64
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from contrastive.eval.datasets import EvalDataset
from contrastive.eval.formats.clip_benchmark import ImageMember
from contrastive.eval.gallery import ANSWERS, QUERIES, THUMBNAIL_PIXELS, top_answers, with_pictures
from contrastive.eval.ranking import Ranks, rank
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import unit


def ranked(better: list[int], score: list[float]) -> Ranks:
    ties, level = torch.zeros(len(better), dtype=torch.int64), torch.ones(len(better), dtype=torch.int64)
    return Ranks(torch.tensor(better), ties, level, torch.tensor(score))


def picked(ranks: Ranks, pick: str) -> list[int]:
    count = len(ranks.better)
    entries = top_answers(unit(count, 4, 0), unit(9, 4, 1), [[0]] * count, ranks, "image_to_text")
    return [entry["query"] for entry in entries if entry["pick"] == pick]


def test_answers_are_the_highest_scores_with_the_right_ones_marked() -> None:
    queries, documents = unit(12, 8, 0), unit(30, 8, 1)
    positives = [[q, (q * 5 + 1) % 30] for q in range(12)]
    for entry in top_answers(queries, documents, positives, rank(queries, documents, positives), "image_to_text"):
        query = entry["query"]
        scores = [sum(a * b for a, b in zip(queries[query].tolist(), row, strict=True)) for row in documents.tolist()]
        order = sorted(range(30), key=lambda d: -scores[d])
        assert [answer["id"] for answer in entry["answers"]] == order[:ANSWERS]
        assert [answer["score"] for answer in entry["answers"]] == pytest.approx([scores[d] for d in order[:ANSWERS]])
        assert [answer["correct"] for answer in entry["answers"]] == [d in positives[query] for d in order[:ANSWERS]]
        assert entry["rank"] == 1 + min(order.index(d) for d in positives[query])


def test_the_first_queries_come_in_their_order() -> None:
    assert picked(ranked([5, 0, 3, 1, 0, 2], [0.0] * 6), "first") == [0, 1, 2, 3]


def test_the_best_are_ranked_first_and_surest() -> None:
    assert picked(ranked([0, 0, 8, 0, 1, 0], [0.2, 0.9, 1.0, 0.5, 0.99, 0.7]), "best") == [1, 5, 3, 0]


def test_the_worst_are_ranked_last_and_among_equals_the_lowest_score_comes_first() -> None:
    assert picked(ranked([0, 7, 8, 7, 1, 6], [0.9, 0.3, 0.5, 0.2, 0.1, 0.4]), "worst") == [2, 3, 1, 5]


def test_ties_count_in_the_rank_that_picks() -> None:
    better, ties, level = torch.tensor([1, 0, 0]), torch.tensor([0, 6, 1]), torch.ones(3, dtype=torch.int64)
    ranks = Ranks(better, ties, level, torch.zeros(3))
    entries = top_answers(unit(3, 4, 0), unit(9, 4, 1), [[0]] * 3, ranks, "image_to_text")
    assert [(entry["query"], entry["rank"]) for entry in entries if entry["pick"] == "worst"] == [
        (1, 4.0), (0, 2.0), (2, 1.5),
    ]  # fmt: skip


@pytest.mark.parametrize("queries", [1, QUERIES - 1, QUERIES, QUERIES + 3])
def test_every_pick_has_as_many_queries_as_there_are_up_to_a_few(queries: int) -> None:
    ranks = ranked(list(range(queries)), [0.0] * queries)
    for pick in ("first", "best", "worst"):
        assert len(picked(ranks, pick)) == min(queries, QUERIES)


def test_fewer_documents_than_answers_are_all_shown() -> None:
    (entry, *_) = top_answers(unit(2, 4, 0), unit(3, 4, 1), [[0], [1]], ranked([0, 1], [0.5, 0.5]), "text_to_image")
    assert sorted(answer["id"] for answer in entry["answers"]) == [0, 1, 2]


def test_entries_are_json_and_carry_their_direction() -> None:
    entries = top_answers(unit(2, 4, 0), unit(9, 4, 1), [[0], [1]], ranked([0, 1], [0.5, 0.5]), "text_to_image")
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries
    assert {entry["direction"] for entry in entries} == {"text_to_image"}


def pictures(folder: Path, *images: Image.Image) -> EvalDataset:
    members = []
    for index, image in enumerate(images):
        path = folder / f"{index}.png"
        image.save(path)
        members.append(ImageMember(str(path), f"s{index}", 0, path.stat().st_size))
    return EvalDataset(spec=DatasetSpec("toy", "toy"), images=tuple(members), texts=())


def decoded(entry: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["image"], validate=True)))


def colour(entry: dict[str, str]) -> str:
    """The name of the strongest channel: WebP keeps a colour only nearly."""
    pixel = decoded(entry).getpixel((0, 0))
    return ("red", "lime", "blue")[pixel.index(max(pixel))]


def test_each_picture_is_the_image_of_its_id(tmp_path: Path) -> None:
    dataset = pictures(tmp_path, *(Image.new("RGB", (4, 4), name) for name in ("red", "lime", "blue")))
    by_image = {"image_id": 2, "answers": [{"id": 0, "text": "a"}]}
    by_text = {"text": "a", "answers": [{"image_id": 1}, {"image_id": 0}]}
    first, second = with_pictures([by_image, by_text], dataset)
    assert colour(first) == "blue"
    assert [colour(answer) for answer in second["answers"]] == ["lime", "red"]


def test_entries_without_an_image_id_stay_as_they_are(tmp_path: Path) -> None:
    gallery = [{"text": "a", "rank": 1.0, "answers": [{"id": 0, "text": "b"}]}]
    assert with_pictures(gallery, pictures(tmp_path)) == gallery


def test_the_gallery_that_was_given_is_not_changed(tmp_path: Path) -> None:
    gallery = [{"image_id": 0, "answers": [{"image_id": 0}]}]
    with_pictures(gallery, pictures(tmp_path, Image.new("RGB", (4, 4))))
    assert gallery == [{"image_id": 0, "answers": [{"image_id": 0}]}]


@pytest.mark.parametrize(("size", "shown"), [((400, 200), (160, 80)), ((90, 320), (45, 160)), ((6, 6), (6, 6))])
def test_pictures_keep_their_shape_within_the_limit(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    (entry,) = with_pictures([{"image_id": 0, "answers": []}], pictures(tmp_path, Image.new("RGB", size)))
    assert decoded(entry).size == shown
    assert max(shown) <= THUMBNAIL_PIXELS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_images_of_every_mode_become_webp_in_colour(tmp_path: Path, mode: str) -> None:
    (entry,) = with_pictures([{"image_id": 0, "answers": []}], pictures(tmp_path, Image.new(mode, (4, 4))))
    assert (decoded(entry).format, decoded(entry).mode) == ("WEBP", "RGB")
