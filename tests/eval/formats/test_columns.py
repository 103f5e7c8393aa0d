import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.columns import ColumnNames, Rows, grouped, kinds_of
from contrastive.eval.samples import Caption, Content, FileImage, Kind

DEFAULT = ColumnNames()


def rows_of(**columns: Sequence[Any]) -> Rows:
    length = len(next(iter(columns.values())))
    return Rows("a.csv", "line", range(2, 2 + length), columns, tuple(columns))


def gather(
    names: ColumnNames = DEFAULT, kinds: Sequence[Kind] = (), classes: tuple[str, ...] = (), **columns: Any
) -> Content:
    rows = rows_of(**columns)
    roles = names.found(rows.present, rows.where)
    return grouped(
        rows,
        roles,
        kinds_of(roles, kinds, rows),
        lambda row: FileImage("", str(columns[roles["image"]][row]), 0),
        classes=classes,
        separator="|",
    )


def refused(error: type[Exception] = DataError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        gather(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns_have_their_own_names_unless_others_are_given() -> None:
    names = ColumnNames(image="file", caption="title")
    assert names.found(("file", "title", "label"), "x") == {"image": "file", "caption": "title", "label": "label"}


def test_a_column_called_id_groups_nothing_unless_it_is_named() -> None:
    assert "id" not in ColumnNames().found(("image", "id"), "x")
    assert ColumnNames(id="id").found(("image", "id"), "x") == {"image": "image", "id": "id"}


@pytest.mark.parametrize(
    ("names", "column"), [(ColumnNames(), "image"), (ColumnNames(image="file", label="class"), "class")]
)
def test_a_missing_column_is_named_with_those_that_are_there(names: ColumnNames, column: str) -> None:
    with pytest.raises(DataError, match=f"^x: has no column '{column}'; it has file, caption"):
        names.found(("file", "caption"), "x")


@pytest.mark.parametrize(
    ("columns", "kinds"),
    [
        (("caption",), ("retrieval",)),
        (("label",), ("classification",)),
        (("label", "labels", "caption"), ("classification", "multilabel", "retrieval")),
    ],
)
def test_what_there_are_columns_for_is_read(columns: Sequence[str], kinds: Sequence[Kind]) -> None:
    rows = rows_of(image=["a"], **{column: ["b"] for column in columns})
    assert kinds_of(ColumnNames().found(rows.present, "x"), (), rows) == kinds


def test_a_task_without_its_column_is_refused() -> None:
    rule = "no column is known for classification; name it with format.label (columns: image, caption)"
    assert rule in refused(ConfigError, image=["a"], caption=["b"], kinds=("classification",))
    assert "this layout holds classification, multilabel" in refused(
        ConfigError, image=["a"], caption=["b"], kinds=("choice",)
    )
    assert "no column of captions or classes is known" in refused(ConfigError, image=["a"], title=["b"])


def test_rows_of_one_path_are_one_image() -> None:
    content = gather(image=["a", "b", "a"], caption=["a cat", "a dog", "one cat"])
    assert [(sample.image.name, [caption.text for caption in sample.captions]) for sample in content.samples] == [
        ("a", ["a cat", "one cat"]),
        ("b", ["a dog"]),
    ]


def test_rows_of_one_id_are_one_image() -> None:
    content = gather(ColumnNames(id="key"), key=[7, 8, 7], image=["a", "b", "a"], caption=["1", "2", "3"])
    assert [len(sample.captions) for sample in content.samples] == [2, 1]


def test_one_id_of_two_images_is_refused() -> None:
    found = refused(names=ColumnNames(id="key"), key=[7, 7], image=["a", "b"], caption=["1", "2"])
    assert "a.csv: line 3: image is 'b', and 'a' in line 2 of the same image" in found


def test_a_cell_may_hold_several_captions() -> None:
    content = gather(image=["a"], caption=[["a cat", "one cat"]], caption_id=[[1, 2]])
    assert content.samples[0].captions == (Caption("a cat", "1"), Caption("one cat", "2"))


def test_a_caption_id_joins_captions_of_several_images() -> None:
    content = gather(image=["a", "b"], caption=["a cat", "a cat"], caption_id=["c1", "c1"])
    assert [sample.captions for sample in content.samples] == [(Caption("a cat", "c1"),)] * 2


@pytest.mark.parametrize(("kinds", "labels"), [(("classification",), (1, 0)), ((), (1, 0))])
def test_class_names_are_sorted_where_nobody_gives_them(kinds: Sequence[Kind], labels: tuple[int, ...]) -> None:
    content = gather(kinds=kinds, image=["a", "b"], label=["dog", "cat"])
    assert content.classnames == ("cat", "dog")
    assert tuple(sample.label for sample in content.samples) == labels


def test_given_classes_number_the_labels() -> None:
    content = gather(classes=("dog", "cat"), image=["a", "b"], label=["dog", "cat"])
    assert ([sample.label for sample in content.samples], content.classnames) == ([0, 1], ("dog", "cat"))


@pytest.mark.parametrize("labels", [[3, 0], ["3", " 0 "]])
def test_whole_numbers_are_the_indices(labels: list[Any]) -> None:
    content = gather(image=["a", "b"], label=labels)
    assert ([sample.label for sample in content.samples], content.classnames) == ([3, 0], ())


def test_a_number_among_names_is_a_name() -> None:
    content = gather(image=["a", "b"], label=[7, "7up"])
    assert (content.classnames, [sample.label for sample in content.samples]) == (("7", "7up"), [0, 1])


def test_several_labels_stand_in_a_list_a_text_or_several_rows() -> None:
    content = gather(image=["a", "b", "c", "d", "d"], labels=[["x", "z"], "z | x", "", "y", "x"])
    assert content.classnames == ("x", "y", "z")
    assert [sample.labels for sample in content.samples] == [(0, 2), (0, 2), (), (0, 1)]


def test_labels_that_contradict_each_other_are_refused() -> None:
    found = refused(image=["a", "a"], label=["cat", "dog"], caption=["1", "2"])
    assert "line 3: label is 'dog', and 'cat' in line 2 of the same image" in found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a", "a"], "caption": ["1", "1"]}, "line 3: repeats line 2 in all columns that are read"),
        ({"image": ["a", None], "caption": ["1", "2"]}, "line 3: image is empty"),
        ({"image": ["a", ""], "caption": ["1", "2"]}, "line 3: image is empty"),
        ({"image": [{"bytes": 1}], "caption": ["1"]}, "line 2: image: \"{'bytes': 1}\" must be a text"),
        ({"image": ["a"], "caption": [" "]}, "line 2: the caption is empty"),
        ({"image": ["a"], "caption": [[]]}, "line 2: the caption is empty"),
        ({"image": ["a"], "caption": [None]}, "line 2: the caption is empty"),
        ({"image": ["a"], "caption": [3]}, "line 2: the caption '3' must be a text or a list of texts"),
        ({"image": ["a"], "caption": [["x", "y"]], "caption_id": [1]}, "line 2: has 2 captions and [1] as ids"),
        ({"image": ["a"], "label": [None]}, "line 2: the label is empty"),
        ({"image": ["a"], "label": [1.5]}, "line 2: label '1.5' must be a whole number or the name"),
        ({"image": ["a"], "label": [True]}, "line 2: label 'True' must be"),
        ({"image": ["a"], "labels": ["x||y"]}, "line 2: the label is empty"),
    ],
)
def test_a_bad_row_is_refused_by_line(columns: Mapping[str, Any], message: str) -> None:
    assert message in refused(**columns)


def test_a_label_of_no_known_class_is_refused_by_line() -> None:
    found = refused(classes=("cat", "dog"), image=["a", "b"], label=["cat", "cow"])
    assert re.fullmatch(r"a\.csv: line 3: label 'cow' is none of the 2 classes \(cat, dog\); mend it", found)
