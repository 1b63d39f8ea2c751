"""Search: try activation functions of a space in a network, and report accuracy against time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.activation_search.candidate import Trainer
from recipes.activation_search.front import Front
from recipes.activation_search.small_network import MLP
from recipes.activation_search.space import Space, space_of
from recipes.format.settings import Finetune
from recipes.optional import check_optuna
from surgery.errors import BadValue
from surgery.progress import Say

if TYPE_CHECKING:
    from recipes.activation_search.engines import Engine
    from recipes.activation_search.plan import Plan, Stopping

# How candidates are trained in the small network: half a second on the digits.
SHORT = Finetune(epochs=5, batch_size=64, lr=0.05, crop=0, hflip=0.0)
_TRIALS = 100  # of an engine that does not end by itself
_DATABASE = "study.db"


def search(
    space: str | Path | Space,
    model: str = MLP,
    data: str = "digits",
    output: str | Path = "search",
    *,
    storage: str | None = None,
    study: str | None = None,
    engine: Engine = "exhaustive",
    trials: int | None = None,
    seeds: int = 1,
    stopping: Stopping = "median",
    finetune: Finetune | None = None,
    learn: bool = True,
    pretrained: bool | str | Path = False,
    data_dir: str | Path | None = None,
    img_size: int | None = None,
    train_num_samples: int | None = None,
    val_num_samples: int | None = None,
    workers: int = 1,
    device: str | None = None,
    seed: int = 0,
    heartbeat: int = 60,
    resume: bool = False,
    dry_run: bool = False,
    say: Say = print,
) -> Front:
    """Try the activation functions of a space in a network, and report accuracy against time. Needs the extra `search`.

    `space` is "one-core" or "two-core", the cores of the paper, or a TOML file with some of their functions. Every
    nonlinearity of `model` becomes the candidate, and the network is trained on `data` as `finetune` says (five epochs
    for the small network), with each of `seeds` seeds. `model` is "mlp", a small network, or as for `recipes.run`, and
    so are `pretrained`, `data` and the options of the data. Every second test image chooses, the others report.
    Parameters beta are learned per channel, unless `learn` is False, in which case they are 1.

    `engine` picks: "exhaustive" tries every distinct function once, in random order, "evolution" changes good ones, and
    "tpe" models what good ones have in common. It picks `trials` of them, by default all, or 100. Constants, and what
    is not finite or beyond 10,000 on inputs from -5 to 5, are rejected without training, and equal functions share a
    result. `stopping` ends a training that is behind others after as many epochs: "median" one that is below their
    median, "halving" all but the best third after 1, 3, 9, ... epochs.

    Results are in `storage`, a database such as `postgresql://USER@HOST/NAME` that many machines may share, by default
    SQLite in the folder `output`; `study` is the name of the search there. `workers` processes work at once. What a
    killed one had begun is begun again after two times `heartbeat` seconds, by another one or with `resume`, which goes
    on with a search, also on another machine at the same time. `trials` may then be more than before.

    It writes `candidates.csv` and `front.json`. A function is used by its name: `surgery.swap("mul(x, sigmoid(x))")`.
    With `dry_run`, everything is checked and nothing is trained or written.

    Raises:
        SurgeryError: an argument is invalid, or Optuna is not installed. Nothing has been trained.

    Source: Ramachandran, Zoph and Le 2017, "Searching for activation functions", arXiv 1710.05941.
    """
    check_optuna()
    from recipes.activation_search.bookkeeping import repeat_failed
    from recipes.activation_search.objective import REFERENCES, train_references
    from recipes.activation_search.results import front_of_study
    from recipes.activation_search.worker import about, progress_of, work, work_in_processes
    from surgery.activations.expressions.notation import parse

    folder = Path(output)
    for name, value in (("seeds", seeds), ("workers", workers), ("heartbeat", heartbeat)):
        _at_least_1(name, value)
    trainer = Trainer(
        model=str(model), data=data, options=finetune or training_for(model), learn=learn, device=device,
        data_dir=None if data_dir is None else str(data_dir), img_size=img_size,
        pretrained=pretrained if isinstance(pretrained, bool) else str(pretrained),
        train_num_samples=train_num_samples, val_num_samples=val_num_samples,
    )  # fmt: skip
    plan = _planned(space_of(space), trainer, folder, storage, study, engine, trials, seeds, stopping, seed, heartbeat)
    trainer.network(parse(REFERENCES[0]), seed)
    say(_in_words(plan))
    if dry_run:
        return Front()
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    with plan.opened() as kept:
        plan.begin(kept, resume)
        repeat_failed(kept)
        train_references(kept, plan)
        if workers > 1:
            work_in_processes(plan, workers, kept, say)
        else:
            progress = progress_of(plan, kept, say, set())
            work(plan, after=lambda trial: progress.step(about(trial)))
        front = front_of_study(kept)
    front.write(folder)
    return front


def training_for(model: str) -> Finetune:
    """How candidates are trained unless it is said."""
    return SHORT if model == MLP else Finetune()


def _planned(
    space: Space, trainer: Trainer, folder: Path, storage: str | None, study: str | None, engine: Engine,
    trials: int | None, seeds: int, stopping: Stopping, seed: int, heartbeat: int,
) -> Plan:  # fmt: skip
    from recipes.activation_search.engines import ENGINES
    from recipes.activation_search.plan import STOPPINGS, Plan

    for name, value, known in (("engine", engine, ENGINES), ("stopping", stopping, STOPPINGS)):
        if value not in known:
            raise BadValue(f"Unknown {name}.", asked=repr(value), there=", ".join(known))
    if trials is not None:
        _at_least_1("trials", trials)
    if engine == "exhaustive":
        there = len(space.distinct(trainer.learn))
        trials = there if trials is None else min(trials, there)
    url = storage or f"sqlite:///{folder.absolute() / _DATABASE}"
    name = study or f"{space.name} {trainer.model} {trainer.data}"
    return Plan(space, trainer, engine, trials or _TRIALS, seeds, stopping, seed, url, name, heartbeat)


def _in_words(plan: Plan) -> str:
    train, test = plan.trainer.opened.counts
    images = ", ".join(
        f"{count:,} {kind}" for count, kind in ((train, "training"), (test, "test")) if count is not None
    )
    epochs = plan.trainer.options.epochs
    return (
        f"{plan.space.name}: {plan.space.size:,} expressions, {plan.trials:,} candidates by {plan.engine}, "
        f"{plan.seeds} seed{'s' * (plan.seeds > 1)} of {epochs} epochs each\n"
        f"{plan.trainer.model} on {plan.trainer.data}: {images} images"
    )


def _at_least_1(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise BadValue(f"`{name}` must be 1 or more.", asked=f"{name}={value!r}")
