"""Rule files: what is wrong is named, and keeps no other rule from working."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detection.rules.rule import RuleFormError, rule_from
from detection.rules.rule_files import MAX_FILE_BYTES, parse_rule_text, read_rules
from tests.detection.rules.rules_for_tests import document


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_broken_file_is_named_and_the_others_work(tmp_path: Path) -> None:
    write(tmp_path, "a", yaml.safe_dump(document("good")))
    write(tmp_path, "b", "apiVersion: [")
    write(tmp_path, "c", yaml.safe_dump(document("bad", expression="event.vreb == 'get'")))
    (tmp_path / "notes.txt").write_text("no rule")
    found = read_rules([tmp_path])
    assert list(found.rules) == ["good"]
    assert [(one.path.name, one.reason.partition(":")[0]) for one in found.broken] == [
        ("b.yaml", "it is not valid YAML (line 2)"),
        ("c.yaml", "spec.expression"),
    ]
    assert "did you mean 'verb'" in found.broken[1].reason


def test_a_rule_of_ones_own_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path / "shipped", "x", yaml.safe_dump(document("x", severity="low")))
    write(tmp_path / "own", "x", yaml.safe_dump(document("x", severity="high")))
    found = read_rules([tmp_path / "shipped", tmp_path / "own", tmp_path / "none"])
    assert found.rules["x"].spec.severity == "high"
    assert not found.without(["x"]).rules


def test_a_name_given_twice_in_one_folder_is_named(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, name, yaml.safe_dump(document("same")))
    found = read_rules([tmp_path])
    assert (len(found.rules), found.broken[0].path.name) == (1, "b.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("[" * 100 + "]" * 100, "nested"),
        ("a: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(RuleFormError, match=words):
        parse_rule_text(text)


def test_a_time_in_a_test_stays_the_text_that_it_is() -> None:
    assert parse_rule_text("at: 2026-01-05T09:30:00Z\n") == {"at": "2026-01-05T09:30:00Z"}


def test_files_that_are_too_large_or_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    reasons = [one.reason for one in read_rules([tmp_path]).broken]
    assert reasons == ["it is larger than 256 KiB", "it is not UTF-8"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text", "it holds a str"),
        ({"apiVersion": "v1"}, "a rule begins with"),
        (document("Not A Name"), "metadata.name"),
        (document(severity="worst"), "spec.severity"),
        (document(verbs=["get"]), "spec: .*unknown field `verbs`"),
        (document(expression="event.verb"), None),
        (document(expression="'text'"), "must give true or false"),
        (document(expression="size(history) > 1"), "spec.history does not say how far back"),
        (document(techniques=["attack"]), r"spec.techniques\[0\]"),
        (document(references=["javascript:alert(1)"]), r"spec.references\[0\]"),
        (document(reason="{{ event.nothing }}"), "spec.reason"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_with_its_place(content: object, words: str | None) -> None:
    if words is None:
        rule_from(content)
        return
    with pytest.raises(RuleFormError, match=words):
        rule_from(content)
