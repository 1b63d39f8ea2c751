"""The demo, small: it trains, cuts, repairs, and says what it measured."""

import json

import pytest

from recipes.demo import Outcome, demo


@pytest.fixture(scope="module")
def watched() -> tuple[Outcome, list[str]]:
    said: list[str] = []
    return demo(model="timm/test_resnet", epochs=4, finetune_epochs=2, pixels=16, say=said.append), said


def test_it_trains_erases_and_repairs(watched: tuple[Outcome, list[str]]) -> None:
    outcome, _ = watched
    assert outcome.trained > 0.95
    assert outcome.erased < outcome.trained - 0.05, "erasing trained activations must hurt, or nothing was erased"
    assert outcome.finetuned > 0.95
    assert (len(outcome.report.before), len(outcome.report.after)) == (12, 8)


def test_it_says_what_it_does(watched: tuple[Outcome, list[str]]) -> None:
    outcome, said = watched
    assert said[0] == "training timm/test_resnet on 1438 images of digits"
    assert [line[:9] for line in said if "epoch" in line] == [f"  epoch {n}" for n in (1, 2, 3, 4, 1, 2)]
    assert f"\n{outcome.report}\n" in said
    assert f"with its last ReLUs erased  {outcome.erased:.1%}" in str(outcome)


def test_its_outcome_is_plain_data(watched: tuple[Outcome, list[str]]) -> None:
    outcome, _ = watched
    facts = json.loads(json.dumps(outcome.facts()))
    assert facts["accuracy"] == {
        "trained": outcome.trained, "erased": outcome.erased, "finetuned": outcome.finetuned,
    }  # fmt: skip
    assert len(facts["report"]["edits"]) == 4


def test_the_seed_decides() -> None:
    said: list[str] = []

    def small(seed: int) -> Outcome:
        return demo("timm/test_resnet", 1, 0, pixels=16, pictures=128, seed=seed, say=said.append)

    assert small(0).facts() == small(0).facts()
    assert small(0).facts() != small(1).facts()
