"""The bundle's own documentation."""

import dataclasses
import shlex

import pytest

from unet_bundle.planning.docs import NOT_TRAINED, NOTICE, bundle_readme, data_license
from unet_bundle.planning.plan import make_plan

SCORES = {
    "mean": 0.88, "classes": {"organ": 0.88, "vessel": None}, "cases": {"a": {}, "b": {}}, "remarks": {"seed": "0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(make_fingerprint, make_card):
    def plan(**changes):
        fingerprint, card = make_fingerprint([36, 50, 35], [1.0, 1.0, 1.0]), make_card(**changes)
        return make_plan(fingerprint, card), fingerprint, card

    return plan


def test_every_choice_stands_there_with_value_and_reason(planned):
    plan, fingerprint, card = planned()
    text = bundle_readme(plan, fingerprint, card)
    for name, reason in plan.reasons.items():
        assert f"| {reason} |" in text
        assert name == "memory_bytes" or f"| `{name}` |" in text
    assert "`[40, 56, 40]`" in text


def test_the_commands_are_those_of_the_monai_cli(planned):
    text = bundle_readme(*planned())
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    python -m monai.bundle")]
    verbs = [command[3] for command in commands]
    assert {"run", "ckpt_export", "onnx_export", "verify_metadata", "verify_net_in_out"} == set(verbs)
    evaluate = "['configs/inference.json','configs/evaluate.json']"
    assert any(evaluate in command for command in commands)
    # Options come in pairs: a name and its value.
    for command in commands:
        assert all(option.startswith("--") for option in command[4::2])
        assert len(command[4:]) % 2 == 0


def test_says_that_it_is_not_a_medical_device(planned):
    assert NOTICE in bundle_readme(*planned())


def test_scores_or_that_there_are_none(planned):
    untrained = bundle_readme(*planned())
    trained = bundle_readme(*planned(), SCORES)
    assert NOT_TRAINED in untrained
    assert NOT_TRAINED not in trained
    assert "| organ | 0.8800 |" in trained
    assert "| vessel | - |" in trained
    assert "mean over 2 cases" in trained
    assert "- seed: 0" in trained


def test_a_label_with_a_bar_keeps_the_table_whole(make_fingerprint, make_card):
    labels = {"background": 0, "organ|left": 1}
    fingerprint, card = make_fingerprint([36, 50, 35], [1.0] * 3, labels=tuple(labels)), make_card(labels)
    row = next(line for line in bundle_readme(make_plan(fingerprint, card), fingerprint, card).splitlines()
               if line.startswith("| 1 |"))  # fmt: skip
    assert r"organ\|left" in row


def test_the_same_text_every_time(planned):
    plan, fingerprint, card = planned()
    again = dataclasses.replace(plan)
    assert bundle_readme(plan, fingerprint, card) == bundle_readme(again, dict(fingerprint), card)


def test_terms_of_the_data_stand_in_the_licence_file(planned):
    *_, card = planned(data_license="CC BY 4.0", data_source="A hospital, 2024")
    text = data_license(card)
    assert "A hospital, 2024" in text
    assert "CC BY 4.0" in text
    assert text.endswith("\n")
