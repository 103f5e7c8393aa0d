import pytest
import torch

from contrastive.eval.answers import NEAR_MISSES, gallery, near_misses, rows
from contrastive.eval.embed import Embeddings
from contrastive.eval.ranking import search
from contrastive.eval.retrieval import directions
from tests.eval.toys import paired, unit

CAPTIONS = [[i, 20 + i] for i in range(20)]


def asked(embeddings: Embeddings, way: int):
    direction = directions(embeddings)[way]
    return direction, search(direction.queries, direction.documents, direction.positives), embeddings.dataset


def noisy() -> Embeddings:
    return paired(unit(20, 8, 0), unit(45, 8, 1), CAPTIONS)


def test_an_image_is_shown_with_its_captions_and_texts_as_answers() -> None:
    entry = gallery(*asked(noisy(), 0))[0]
    assert (entry["direction"], entry["image_id"], entry["key"]) == ("image_to_text", 0, "0.tar: s0")
    assert entry["truth"] == "text 0 / text 20"
    assert entry["answers"][0]["text"] == f"text {entry['answers'][0]['id']}"


def test_a_text_is_shown_with_images_and_their_captions_as_answers() -> None:
    entry = gallery(*asked(noisy(), 1))[0]
    first = entry["answers"][0]
    assert (entry["direction"], entry["text"]) == ("text_to_image", "text 0")
    assert first["image_id"] == first["id"]
    assert first["text"] == f"text {first['id']} / text {20 + first['id']}"


@pytest.mark.parametrize("way", [0, 1])
def test_near_misses_are_the_queries_that_were_lost_by_the_least(way: int) -> None:
    direction, found, dataset = asked(noisy(), way)
    entries = near_misses(direction, found, dataset)
    margins = []
    for query, right in enumerate(direction.positives):
        scores = (direction.documents @ direction.queries[query]).tolist()
        best = max(scores[document] for document in right)
        margins.append(best - max(score for document, score in enumerate(scores) if document not in right))
    lost = sorted((margin for margin in margins if margin < 0), reverse=True)[:NEAR_MISSES]
    assert [entry["margin"] for entry in entries] == pytest.approx(lost, abs=1e-6)
    for entry in entries:
        wrong, right = entry["answers"]
        assert (wrong["correct"], right["correct"]) == (False, True)
        assert right["id"] in direction.positives[entry["query"]]
        assert right["score"] - wrong["score"] == pytest.approx(entry["margin"], abs=1e-6)


def test_a_text_that_looks_right_is_marked_and_no_near_miss() -> None:
    images, texts = torch.eye(3)[[1, 1, 2]], torch.eye(3)
    embeddings = paired(images, texts, [[0], [1], [2]], lookalikes={0: {1}, 1: {0}})
    direction, found, dataset = asked(embeddings, 0)
    answers = gallery(direction, found, dataset)[0]["answers"]
    assert [(answer["correct"], answer["lookalike"]) for answer in answers[:1]] == [(False, True)]
    assert near_misses(direction, found, dataset) == []


def test_rows_name_their_queries() -> None:
    direction, found, dataset = asked(noisy(), 0)
    table = rows(direction, found, dataset, (1, 5))
    assert list(table["image"][:2]) == ["0.tar: s0", "0.tar: s1"]
    direction, found, dataset = asked(noisy(), 1)
    table = rows(direction, found, dataset, (1, 5))
    assert list(table["document"]) == list(range(40))
    assert table["text"][25] == "text 25"
    assert {"hit@1", "hit@5", "rank", "score", "answers", "answer_scores"} < table.keys()
