"""Plan: everything that a search is to do, as data that its workers share, and the study it is kept in."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import optuna
from optuna import Study
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from recipes.activation_search.candidate import Trainer
from recipes.activation_search.engines import Engine, sampler_of
from recipes.activation_search.space import Space
from recipes.optional import missing
from surgery.errors import BadFile, SurgeryError, WrongModel

Stopping = Literal["median", "halving", "none"]
STOPPINGS = get_args(Stopping)

_ASKED = "asked"  # attribute of a study
_ADDRESSES = "sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE"
_PATIENCE = 60  # seconds that SQLite waits for another worker to write


@dataclass(frozen=True, slots=True)
class Plan:
    """A space, how its candidates are picked and trained, and the database with the results.

    `trials` candidates are tried, each with `seeds` seeds. A worker gives a sign of life every `heartbeat` seconds, and
    is taken for dead after `grace` seconds without one.
    """

    space: Space
    trainer: Trainer
    engine: Engine
    trials: int
    seeds: int
    stopping: Stopping
    seed: int
    url: str
    study: str
    heartbeat: int = 60

    @property
    def grace(self) -> int:
        return 2 * self.heartbeat

    def fresh(self) -> Plan:
        """The same without the images that were opened, to be sent to another process."""
        return replace(self, trainer=replace(self.trainer))

    @contextmanager
    def opened(self, worker: int = 0) -> Iterator[Study]:
        """The study, made if it does not exist yet, for a worker of this number.

        Raises:
            SurgeryError: the database cannot be opened.
        """
        storage = self._storage()
        sampler = sampler_of(self.engine, self.space, self.trainer.learn, self.seed, worker)
        try:
            yield optuna.create_study(
                storage=storage, study_name=self.study, direction="maximize", load_if_exists=True, sampler=sampler,
                pruner=_pruner(self.stopping),
            )  # fmt: skip
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def begin(self, study: Study, resume: bool) -> None:
        """Note in a new study which search it is, or check that an old one is the same.

        Raises:
            BadFile: there is a search already, and `resume` is False.
            WrongModel: it is another search.
        """
        known, asked = study.user_attrs.get(_ASKED), self._asked()
        if known is None:
            study.set_user_attr(_ASKED, asked)
            return
        if not resume:
            raise BadFile(f"There is a search named {self.study!r} already.", try_="--resume to go on with it")
        changed = [f"{name} = {known.get(name)!r}" for name, value in asked.items() if known.get(name) != value]
        if changed:
            raise WrongModel(f"The search {self.study!r} is another one.", there=", ".join(changed),
                             try_="the same arguments, or another name")  # fmt: skip

    def _asked(self) -> dict[str, Any]:
        """What makes a search the same: all but the number of trials, and where it is kept."""
        given = {"engine": self.engine, "seeds": self.seeds, "stopping": self.stopping, "seed": self.seed}
        trained = asdict(self.trainer)
        del trained["device"], trained["data_dir"]  # other machines keep their images elsewhere
        return dict(json.loads(json.dumps({"slots": self.space.slots, **trained, **given})))

    def _storage(self) -> RDBStorage:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the progress is told by the workers
        waits = {"connect_args": {"timeout": _PATIENCE}} if self.url.startswith("sqlite") else {}
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            url = _with_driver(self.url)
            try:
                _let_readers_in(self.url)
                return RDBStorage(
                    url, engine_kwargs=waits, heartbeat_interval=self.heartbeat,
                    grace_period=self.grace, heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
                )  # fmt: skip
            except Exception as error:  # those of the driver, whichever it is
                cause = str(error).strip().partition("\n")[0]
                raise SurgeryError(f"The database cannot be used: {cause}", try_=_ADDRESSES) from error


def _let_readers_in(url: str) -> None:
    """Let SQLite write ahead, where one worker writes while others read, and in half the time."""
    scheme, _, file = url.partition(":///")
    if scheme == "sqlite":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _with_driver(url: str) -> str:
    """An address with the driver that the extra installs, where it names none."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return url
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise missing("PostgreSQL needs", "psycopg", "search") from error
    return f"postgresql+psycopg://{rest}"


def _pruner(stopping: Stopping) -> BasePruner:
    if stopping == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=5, n_warmup_steps=1) if stopping == "median" else SuccessiveHalvingPruner(1, 3)
