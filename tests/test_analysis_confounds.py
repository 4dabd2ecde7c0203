"""Each confound has its sentence, and arms that agree in everything have none."""

from dataclasses import replace

import pytest

from bsexp.analysis.confounds import Facts, apart, confounds

SAME = Facts(
    total_shrink=0.0100,
    warmup_samples=400,
    norm="group",
    last_updates=(16, 16),
    batch_size=16,
    phase_updates=(1000, 500, 500),
    lr_place=(2, 4),
    word_flips=False,
    last=0.84,
    best=0.843,
)


def told(**changes: object) -> list[str]:
    return confounds(["grow", "decay"], {"grow": replace(SAME, **changes), "decay": SAME})  # type: ignore[arg-type]


def test_arms_that_agree_need_no_sentence() -> None:
    assert told() == []
    assert told(total_shrink=0.0110) == []  # 9.1 %: as matched arms do


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"total_shrink": 0.0200}, "differs by 50 %: grow 0.02, decay 0.01"),
        ({"total_shrink": None}, "is not known"),
        ({"warmup_samples": 1000}, "grow 1,000 samples, decay 400"),
        ({"norm": "batch"}, "Normalisation differs: grow batch, decay group"),
        ({"last_updates": (7, 8), "batch_size": 128}, "last two updates hold 7 and 8 samples, its batch is 128"),
        ({"phase_updates": (1000, 30)}, "phase 2 has 30 updates; below 50"),
        ({"phase_updates": (1000, 19), "momentum": 0.0}, "phase 2 has 19 updates; below 20"),
        ({"lr_place": None}, "grow: untuned"),
        ({"lr_place": (1, 1)}, "one learning rate was tried"),
        ({"lr_place": (4, 4)}, "number 4 of 4, at the edge"),
        ({"word_flips": True}, "tuning-sensitive"),
        ({"best": 0.86}, "2.0 points above the last"),
    ],
)
def test_each_confound_has_its_sentence(changes: dict[str, object], sentence: str) -> None:
    found = told(**changes)
    assert len(found) == 1
    assert sentence in found[0]


def test_batch_statistics_over_other_sizes_are_told() -> None:
    first, second = replace(SAME, norm="batch", norm_batch=(16, 819)), replace(SAME, norm="batch", norm_batch=(16, 16))
    found = confounds(["grow", "decay"], {"grow": first, "decay": second})
    assert len(found) == 1
    assert "over 16 to 819 samples in grow and 16 in decay" in found[0]


def test_what_is_known_of_nothing_still_has_words() -> None:
    found = confounds(["a", "b"], {"a": Facts(), "b": Facts()})
    assert found == [
        "Total shrink (sum of lr x weight decay) of a and b is not known.",
        "a: untuned; a difference may be one of learning rates.",
        "b: untuned; a difference may be one of learning rates.",
    ]
    with pytest.raises(KeyError):
        confounds(["a"], {})


def test_amounts_of_nothing_are_not_apart() -> None:
    assert apart(0.0, 0.0) == 0.0
    assert apart(0.0, 1.0) == 1.0
    assert apart(None, 1.0) is None
