"""Classes of the data are found in the model by name, or are not found; they are never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aradals.data import Examples, match_classes
from aradals.data.classes import in_order, read_names, real_names
from aradals.errors import InputError

PETS = ("ant", "bee", "cat", "dog")


def named(names: list[str], labels: list[int] | None = None) -> Examples:
    numbers = torch.arange(len(names)) if labels is None else torch.tensor(labels)
    return Examples(torch.rand(len(numbers), 2), numbers, num_classes=len(names), class_names=names, name="mine")


@pytest.mark.parametrize(
    ("names", "labels"),
    [(["cat", "bee"], [2, 1]), (["Dog", "ANT"], [3, 0]), ([*PETS], [0, 1, 2, 3]), (["dog", "cat", "bee"], [3, 2, 1])],
)
def test_a_class_has_the_number_that_the_model_gives_to_its_name(names: list[str], labels: list[int]) -> None:
    found, doubt = match_classes(named(names), PETS, 4)
    assert (found.labels.tolist(), found.class_names, found.num_classes, doubt) == (labels, PETS, 4, "")


def test_spaces_dashes_and_zeros_do_not_matter() -> None:
    found, _ = match_classes(named(["sports-car", "07"]), ("sports_car", "x", "7"), 3)
    assert found.labels.tolist() == [0, 2]


def test_classes_that_the_model_lacks_are_refused_if_they_occur() -> None:
    with pytest.raises(InputError, match=r"got owl; try the model's spelling.*--class-names"):
        match_classes(named(["cat", "owl"]), PETS, 4)
    found, _ = match_classes(named(["cat", "owl"], [0, 0]), PETS, 4)
    assert found.labels.tolist() == [2, 2]
    twice = ("crane", "owl", "crane")  # ImageNet has such names
    assert match_classes(named(["owl"]), twice, 3)[0].labels.tolist() == [1]
    with pytest.raises(InputError, match="got crane"):
        match_classes(named(["crane"]), twice, 3)


def test_fewer_classes_than_logits_need_names_of_the_model() -> None:
    with pytest.raises(InputError, match=r"the 10 classes of the model in mine, got 2: cat, dog; try --class-names"):
        match_classes(named(["cat", "dog"]), (), 10)
    found, doubt = match_classes(named(["cat", "dog"]), (), 2)
    assert found.labels.tolist() == [0, 1]
    assert "their order in the data counts" in doubt


@pytest.mark.parametrize(("names", "labels"), [(["0", "3", "7"], [0, 3, 7]), (["00", "02"], [0, 2])])
def test_numbers_from_0_are_the_numbers_of_the_model(names: list[str], labels: list[int]) -> None:
    assert match_classes(named(names), (), 10)[0].labels.tolist() == labels


@pytest.mark.parametrize("names", [["3", "5"], ["0", "10"], ["0", "cat"]])
def test_other_numbers_may_start_at_1(names: list[str]) -> None:
    with pytest.raises(InputError, match="--class-names"):
        match_classes(named(names), (), 10)


def test_labels_without_names_are_numbers_of_the_model() -> None:
    few = Examples(torch.rand(3, 2), torch.tensor([0, 2, 2]), num_classes=3)
    for names in ((), PETS):
        found, doubt = match_classes(few, names, 4)
        assert found.labels.tolist() == [0, 2, 2]
        assert "only 2 of the model's 4 classes occur" in doubt
        assert found.class_names == (names or ("0", "1", "2"))
    assert match_classes(Examples(torch.rand(2, 2), torch.tensor([0, 1]), num_classes=2), (), 2)[1] == ""
    with pytest.raises(InputError, match="labels from 0 to 2"):
        match_classes(few, (), 2)


def test_as_many_names_as_logits() -> None:
    with pytest.raises(InputError, match=r"expected 5 names of classes, .* got 4 names"):
        match_classes(named(["cat"]), PETS, 5)


def test_order_of_names() -> None:
    assert in_order(str(number) for number in (14, 5, 10, 9)) == ["5", "9", "10", "14"]
    assert in_order(["10", "b", "9"]) == ["10", "9", "b"]
    assert real_names(["LABEL_0", "LABEL_1"]) == ()
    assert real_names(["LABEL_0", "cat"]) == ("LABEL_0", "cat")


def test_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("ant\nbee, the\n\n")
    assert read_names([str(path)]) == ("ant", "bee, the")
    assert read_names(["ant", "bee"]) == ("ant", "bee")
