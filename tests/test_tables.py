"""Tables of results: what the README of a recipe says is what the numbers beside it say."""

import json
import re
from pathlib import Path

import pytest
import results
import table
from scipy.stats import ttest_rel

from sightline.errors import SightlineError

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for folder in ("recipes", "docs") for page in (ROOT / folder).rglob("*.md"))
PLAIN, GUIDED, CEILING = [0.20, 0.10, 0.15, 0.30], [0.70, 0.85, 0.60, 0.80], [0.90, 0.95, 0.92, 0.96]


def runs(accuracies, **others):
    return {str(seed): {"minutes": 2.0, "test": {"accuracy": value, **others}} for seed, value in enumerate(accuracies)}


def asked(*words):
    return table.parser().parse_args(["numbers.json", *words])


def cells(found, *words):
    """row -> what its cells say, without minutes and seeds."""
    lines = [line.strip("| ").split(" | ") for line in table.table(found, asked(*words)).split("\n")]
    return {name: rest[:-2] for name, *rest in lines}


@pytest.fixture
def found():
    return {"plain": runs(PLAIN), "guided": runs(GUIDED), "ceiling": runs(CEILING)}


def ends(text):
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_marked_table_is_what_its_numbers_say(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- table:") == text.count("<!-- /table") == len(table.MARKED.findall(text))
    assert table.updated(page) == text, f"run: python benchmarks/table.py --update {page.parent.relative_to(ROOT)}"


@pytest.mark.parametrize("numbers", sorted(ROOT.glob("recipes/**/results.json")), ids=lambda file: file.parent.name)
def test_no_table_of_runs_beside_its_numbers_goes_unmarked(numbers):
    for page in numbers.parent.glob("*.md"):
        unmarked = table.MARKED.sub("", page.read_text(encoding="utf-8"))
        assert not re.findall(r"^\|.*\| *seeds *\|$", unmarked, re.MULTILINE)


def test_differences_are_paired_by_seed_with_students_interval(found):
    text = cells(found, "test/accuracy", "--against", "plain")["guided"][1]
    expected = ttest_rel(GUIDED, PLAIN).confidence_interval()
    assert ends(text) == pytest.approx([0.55, expected.low, expected.high], abs=5e-4)
    assert text.startswith("+0.550 [")
    del found["plain"]["1"]
    assert cells(found, "test/accuracy", "--against", "plain")["guided"][1].startswith("+0.483 [")


def test_the_gap_closed_is_a_mean_over_seeds_of_shares(found):
    said = cells(found, "--gap", "plain", "ceiling", "test/accuracy")
    shares = [(g - p) / (c - p) for p, g, c in zip(PLAIN, GUIDED, CEILING, strict=True)]
    expected = ttest_rel(shares, [0] * 4).confidence_interval()
    assert ends(said["guided"][0]) == pytest.approx([sum(shares) / 4, expected.low, expected.high], abs=5e-3)
    assert (said["plain"], said["ceiling"]) == (["0.00"], ["1.00"])


def test_one_seed_has_a_difference_and_no_interval(found):
    found["guided"] = runs(GUIDED[:1])
    assert cells(found, "test/accuracy", "--against", "plain")["guided"] == ["0.700", "+0.500"]


def test_differences_are_of_accuracies_unless_columns_are_named():
    found = {"plain": runs([0.5], ch=0.25, top5=0.75), "guided": runs([0.75], ch=0.5, top5=1.0)}
    columns = ["test/accuracy", "test/ch", "test/top5"]
    assert cells(found, *columns, "--against", "plain")["guided"] == ["0.750", "0.500", "1.000", "+0.250"]
    assert cells(found, *columns, "--against", "plain", "test/ch")["guided"][3:] == ["+0.250"]


def test_rows_are_chosen_ordered_and_called_as_asked(found):
    words = ["test/accuracy", "--rows", "guided", "plain=CE", "--against", "plain"]
    assert list(cells(found, *words))[2:] == ["guided", "CE"]
    assert "| Accuracy, test, above CE |" in table.table(found, asked(*words))
    with pytest.raises(SightlineError, match=r"no runs of 'giuded'\. Did you mean 'guided'"):
        cells(found, "test/accuracy", "--rows", "giuded")


def test_what_a_row_lacks_is_a_dash(found):
    found["unaudited"] = {"0": {"minutes": 1.0}}
    said = cells(found, "test/accuracy", "test/empty_maps", "--against", "plain")
    assert said["unaudited"] == ["-", "-", "-"]


def test_runs_add_up_in_a_file_and_new_ones_replace_old_ones(tmp_path):
    file = tmp_path / "results.json"
    results.merge(file, {"b": runs([0.1, 0.2]), "a": runs([0.3])})
    merged = results.merge(file, {"c": runs([0.6]), "b": {"1": {"minutes": 5.0}, "2": {"minutes": 6.0}}})
    assert merged == json.loads(file.read_text())
    assert list(merged) == ["b", "a", "c"]
    assert merged["b"] == {**runs([0.1]), "1": {"minutes": 5.0}, "2": {"minutes": 6.0}}
    assert merged["a"] == runs([0.3])


def test_a_folder_of_audited_runs_is_read(tmp_path):
    audit = tmp_path / "my-method-0" / "audit" / "test"
    audit.mkdir(parents=True)
    (audit.parents[1] / "run.json").write_text('{"minutes": 1.5}')
    (audit / "summary.json").write_text('{"metrics": {"accuracy": {"value": 0.5}, "pg": null}, "empty_maps": 2}')
    expected = {"accuracy": 0.5, "pg": None, "empty_maps": 2}
    assert results.collect(tmp_path) == {"my-method": {"0": {"minutes": 1.5, "test": expected}}}
    with pytest.raises(SightlineError, match="holds no audited runs"):
        results.collect(audit)


def test_marked_tables_are_made_anew_and_the_rest_is_left(tmp_path, found):
    (tmp_path / "numbers.json").write_text(json.dumps(found))
    page = tmp_path / "README.md"
    page.write_text(
        "Before.\n\n<!-- table: numbers.json test/accuracy\n--rows plain -->\n| old |\n<!-- /table -->\n\nAfter.\n"
    )
    text = table.updated(page)
    assert text.startswith("Before.\n\n<!-- table: numbers.json test/accuracy\n--rows plain -->\n|  | Accuracy, test |")
    assert text.endswith("| plain | 0.188 ± 0.085 | 2.000 ± 0.000 | 4 |\n<!-- /table -->\n\nAfter.\n")
