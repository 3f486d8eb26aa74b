"""The rows of studies: which networks, and what each changes. Nothing is trained."""

from pathlib import Path
from typing import Any

import pytest

from experiments import bits, recipe
from experiments.study.options import StudyOptions
from experiments.study.rows import changed
from experiments.study.runs import Run, described
from experiments.study.scales import SCALES, chosen_scale
from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.masking import mask_cheapest, nonzero_cost
from mbu_jax.train.config import PRESETS, TrainConfig
from tests.experiments.study.planning import NAMES, masked_layers, planned, study_of


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_one_change_of_the_recipe(name: str, scale: Any) -> None:
    assert study_of(name).name == name  # which the report's command states
    runs = planned(name, scale=scale)
    base = SCALES[scale].config
    seeds = {run.config.seed for run in runs}
    assert seeds == set(range(SCALES[scale].seeds))
    assert len(runs) == len(seeds) * len({run.row.name for run in runs})
    # One directory for each set of options; smoke's best ones are no better than others.
    shared = 0 if (name, scale) != ("recipe", "smoke") else 4
    assert len({run.directory.path for run in runs}) == len(runs) - shared
    allowed = {"seed", "model.network", "model.activation_bits", "model.masked_layers",
               "model.masking_cost", "model.layer_precision", "model.ternarizer",
               "model.density", "optimizer.optimizer", "optimizer.latent_l1",
               "initial", "epochs"}  # fmt: skip
    steps = {"model.activation_gradient", "data.augment", "ema_decay", "recalibrate",
             "eval_every"}  # fmt: skip
    brought = {"optimizer.learning_rate", "optimizer.latent_rate", "optimizer.schedule",
               "optimizer.weight_decay", "optimizer.warmup_steps", "loss.teacher",
               "batch_size", "recalibrate", "recalibrate_varied"}  # fmt: skip
    there = described(base)
    for run in runs:
        here = described(run.config)
        options = {option for option in here if here[option] != there[option]}
        options -= brought if run.needs or run.row.name.startswith("random") else set()
        if run.row.name == "full_precision":
            options -= set(SCALES[scale].float_options)
        assert options <= (allowed | steps if name == "recipe" else allowed)
        assert run.config.keep_checkpoints == 1
        assert run.row.label


def test_scales_are_the_presets() -> None:
    small, paper = SCALES["small"].config, SCALES["paper"].config
    # Scored at the end alone, all rows with the same statistics.
    once = {"eval_every": 28, "recalibrate": 58, "recalibrate_varied": False}
    assert described(small) == described(changed(PRESETS["small"], once))
    assert described(paper) == described(PRESETS["paper"])
    assert SCALES["smoke"].config.dataset == "synthetic"
    sizes = {
        name: chosen_scale(StudyOptions(scale="paper", dataset=name)).config.data.image_size
        for name in ("nuclei", "carvana", "isic")
    }
    assert sizes == {"nuclei": (512, 512), "carvana": (640, 959), "isic": (480, 640)}


def test_rows_of_table_1() -> None:
    runs = {run.row.name: run for run in planned("table1", seeds=1, runs=Path("there"))}
    precisions = {name: set(run.config.model.build().precisions) for name, run in runs.items()}
    assert precisions == {
        **{name: {"float32"} for name in ("full_precision", "full_precision_further")},
        **{name: {name} for name in ("int8", "int4", "binary", "ttq")},
        "mbu6": {"masked", "binary"},
        **{n: {"masked"} for n in ("all_masked", "kept_10", "twn", "pruned", "pruned_tuned",
                                   "best_1bit", "best_2bit")},
    }  # fmt: skip
    assert masked_layers(runs["mbu6"]) == set(mask_cheapest(unet_layers(), 6))
    ternarizers = {name: run.config.model.ternarizer for name, run in runs.items()}
    assert (ternarizers["twn"], ternarizers["ttq"]) == ("twn", "max")
    for name, epochs in (("pruned", 0), ("pruned_tuned", 8)):
        run, kept = runs[name], runs["kept_10"]
        assert run.needs == (runs["binary"],)
        assert run.config.initial == runs["binary"].directory.path
        assert run.config.epochs == epochs
        assert run.config.model == kept.config.model
        assert (kept.config.model.ternarizer, kept.config.model.density) == ("density", 0.1)
    paper = {run.row.paper for run in runs.values()} - {None}
    assert paper == {"Full Precision", "INT8", "INT4", "MBU-Net", "Binary"}
    rules = {
        run.row.name: run.config.optimizer.optimizer
        for run in planned("table1", scale="paper", seeds=1)
    }
    assert rules.pop("full_precision") == rules.pop("full_precision_further") == "rmsprop"
    assert set(rules.values()) == {"adam"}


def test_networks_start_from_full_precision_where_the_scale_says_so() -> None:
    runs = planned("levels", seeds=2)
    runs = [run for run in runs if not run.row.name.endswith("_crops")]
    assert len(runs) == 2 * (6 + 1)
    for seed in range(2):
        first, *others = runs[7 * seed : 7 * seed + 7]
        assert first.row.name == "full_precision"
        assert (first.needs, first.config.initial, first.config.epochs) == ((), None, 28)
        for run in others:
            assert run.needs == (first,)
            assert run.config.initial == first.directory.path
            assert (run.config.epochs, run.config.seed) == (8, seed)
            assert run.config.optimizer == PRESETS["best"].optimizer
            assert run.config.model.density == 0.3
    for scale in ("smoke", "paper"):
        runs = planned("levels", scale=scale, seeds=1)
        assert len(runs) == 7
        assert {(run.needs, run.config.initial) for run in runs} == {((), None)}


@pytest.mark.parametrize("scale", SCALES)
def test_the_best_start_from_full_precision(scale: Any) -> None:
    runs = {run.row.name: run for run in planned("table1", scale=scale, seeds=1)}
    floating, further = runs["full_precision"], runs["full_precision_further"]
    for bits_of_activations in (1, 2):
        best = runs[f"best_{bits_of_activations}bit"]
        assert best.needs == (floating,)
        assert best.config.initial == floating.directory.path
        assert best.config.loss.teacher is None
        assert best.config.model.activation_bits == bits_of_activations
        assert best.config.epochs == further.config.epochs
    assert further.needs == (floating,)
    if scale == "small":
        for bits_of_activations in (1, 2):
            best = runs[f"best_{bits_of_activations}bit"].config
            preset = changed(
                PRESETS["best"],
                {
                    "initial": best.initial,
                    "eval_every": 28,
                    "model.activation_bits": bits_of_activations,
                },
            )
            assert same_training(best, preset)
        full_precision = changed(
            PRESETS["small"],
            {
                "model.network": "full_precision",
                "optimizer.learning_rate": 2e-3,
                "eval_every": 28,
            },
        )
        assert same_training(planned("table1", seeds=1)[0].config, full_precision)


def same_training(config: TrainConfig, preset: TrainConfig) -> bool:
    """Whether a row does what a preset does on nuclei, which has 58 batches of whole images."""
    here, there = described(config), described(preset)
    assert config.recalibrate == (200 if config.varied_statistics else 58)
    assert preset.recalibrate == 200
    assert config.varied_statistics == preset.varied_statistics
    statistics = {"recalibrate", "recalibrate_varied"}
    return {name for name in here if here[name] != there[name]} <= statistics


def test_steps_of_the_recipe_change_one_thing() -> None:
    runs = {run.row.name: run for run in planned("recipe", seeds=1)}
    for bits_of_activations in ("1bit", "2bit"):
        start = described(runs[f"start_{bits_of_activations}"].config)
        for name in (*recipe._STEPS, "taught"):
            step = described(runs[f"{name}_{bits_of_activations}"].config)
            different = {option for option in step if step[option] != start[option]}
            assert len(different) == (name != "start"), name
        random = runs[f"random_{bits_of_activations}"]
        assert random.needs == ()
        # As long as both trainings of the others, and scored once as they are.
        assert described(random.config) == start | {
            "initial": None,
            "epochs": 28 + 8,
            "eval_every": 28 + 8,
        }
    of_crops = {"recalibrate": 200, "recalibrate_varied": True}
    levels = {run.row.name: run for run in planned("levels", seeds=1)}
    found = 0
    for name, run in [*runs.items(), *levels.items()]:
        if not name.endswith("_crops"):
            continue
        (trained,) = run.needs
        assert trained.row.name == name.removesuffix("_crops")
        again = {"initial": trained.directory.path.name, "epochs": 0}
        assert described(run.config) == described(trained.config) | again | of_crops
        found += 1
    assert found == 3 + 3
    best, whole = runs["best_1bit"], runs["best_1bit_whole"]
    assert described(best.config) == described(whole.config) | of_crops
    paper = {run.row.name: run for run in planned("recipe", scale="paper", seeds=1)}
    assert "plain_1bit" not in paper  # nothing could vary less than not at all
    # Images are whole in training, too.
    assert not [name for name in paper if name.endswith(("_crops", "_whole"))]


def test_every_study_begins_with_full_precision() -> None:
    (path,) = {planned(name, seeds=1)[0].directory.path for name in NAMES}
    assert path.name.startswith("full_precision-seed0-")


def test_scores_that_were_chosen_say_so() -> None:
    assert "Scored once" in chosen_scale(StudyOptions(scale="small")).remarks[1]
    assert "after every epoch, on the images that chose it" in SCALES["paper"].remarks[1]


def test_pruned_networks_get_statistics_of_their_own() -> None:
    for scale in SCALES:
        runs = {run.row.name: run for run in planned("table1", scale=scale, seeds=1)}
        assert runs["pruned"].config.recalibrate > 0


def test_full_precision_keeps_its_step_size_when_it_is_trained_further() -> None:
    for scale in ("small", "paper"):
        runs = {run.row.name: run.config for run in planned("table1", scale=scale, seeds=1)}
        first, further = runs["full_precision"].optimizer, runs["full_precision_further"].optimizer
        assert first.learning_rate == further.learning_rate


def test_groups_of_layers_are_all_layers_once() -> None:
    assert sorted(sum(bits.GROUPS.values(), ())) == sorted(LAYER_NAMES)
    assert bits.GROUPS["decoder"] == ("up_c1", "up_c2", "up_c3", "up_c4")
    for run in planned("bits", scale="smoke", seeds=1)[1:]:
        precisions = dict(zip(LAYER_NAMES, run.config.model.build().precisions, strict=True))
        group, _, precision = run.row.name.rpartition("_")
        changed_layers = {name for name, p in precisions.items() if p != "binary"}
        assert changed_layers == set(bits.GROUPS.get(group, ()))
        assert {precisions[name] for name in changed_layers} <= {precision}


def test_levels_are_all_pairs() -> None:
    pairs = [
        (run.config.model.activation_bits, *set(run.config.model.build().precisions))
        for run in planned("levels", scale="smoke", seeds=1)[1:]
    ]
    assert pairs == [(b, weights) for b in (1, 2) for weights in ("binary", "masked", "pow2")]


@pytest.mark.parametrize("scale", SCALES)
def test_densities_are_set_in_three_ways(scale: Any) -> None:
    runs = planned("density", scale=scale, seeds=1)
    by_series: dict[str, list[Run]] = {}
    for run in runs:
        by_series.setdefault(run.row.series, []).append(run)
    targets = [run.config.model for run in by_series["target"]]
    assert {model.ternarizer for model in targets} == {"density"}
    assert [model.density for model in targets] == [0.02, 0.05, 0.1, 0.2, 0.5]
    starts = [run.config.model for run in by_series["threshold"]]
    assert {model.ternarizer for model in starts} == {"fixed"}
    assert [model.density for model in starts] == [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
    assert [run.row.x for run in by_series["threshold"]] == [2, 5, 10, 20, 30, 50]
    pulls = [run.config.optimizer.latent_l1 for run in by_series["l1"]]
    assert pulls == sorted(set(pulls))
    assert min(pulls) > 0
    assert {len(by_series[name]) for name in ("binary", "twn")} == {1}


@pytest.mark.parametrize("width", [32, 64])
def test_layers_are_masked_along_both_lists(width: int) -> None:
    runs = planned("pareto", scale={32: "small", 64: "paper"}[width], seeds=1)
    layers = unet_layers(width)
    for run in runs:
        if run.row.name == "full_precision":
            continue
        count = int(run.row.x or 0)
        cost = {"cost": nonzero_cost} if run.row.series == "nonzeros" else {}
        assert masked_layers(run) == set(mask_cheapest(layers, count, **cost))
    counts = range(1, 12) if width == 64 else range(2, 12, 2)
    for series in ("paper", "nonzeros"):
        assert [run.row.x for run in runs if run.row.series == series] == list(counts)
