"""`kubehabit tune`: a search for hyperparameters that sees held-back normal data only.

There are no attacks to tune on, so they are imitated: the newest action of a held-back window is swapped for an action of another
principal that its own principal never did in training. A good model finds most swaps surprising at a threshold that hardly any
untouched window reaches, and reconstructs untouched windows well. Optuna's Parzen estimator (TPE, Bergstra et al. 2011)
proposes the trials; they are stored in SQLite, so an interrupted search can be resumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data.actions.fields import FIELDS
from data.arrays import Floats, Ints
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from data.paths import home
from data.work_progress import WorkProgress
from detection.reconstruction import Model
from training import registry
from training.config_file import ConfigFile
from training.stretch import window_inputs
from training.train import parse, quieten_lightning, use_threads

_ACTION = tuple(FIELDS.index(name) for name in ("verb", "resource", "namespace"))


@dataclass(frozen=True, slots=True)
class TuneConfig(ConfigFile):
    """Search space, and weights of the objective; see `configs/tune.yaml`. A `space` replaces the shipped one."""

    file: ClassVar[str] = "tune.yaml"
    trials: int
    max_steps: int
    windows: int
    false_share: float
    nll_weight: float
    space: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        for name, choice in self.space.items():
            is_range = {"low", "high"} <= set(choice) <= {"low", "high", "log"}
            if set(choice) != {"choices"} and not is_range:
                raise ValueError(f"space.{name} needs either choices, or low and high")


@dataclass(frozen=True, slots=True)
class Swaps:
    """Held-back windows [B, W, F], the same with another principal's newest action, and lengths, principal and group [B]."""

    tokens: Ints
    swapped: Ints
    lengths: Ints
    principal: Ints
    group: Ints


def swaps(table: ActionTable, window: int, count: int, seed: int = 0) -> Swaps:
    """Draw held-back windows and swap their newest action for one of another principal that their own never did in training."""
    rng = np.random.default_rng(seed)
    held_back = table.windows["calibration"]
    chosen = held_back[np.sort(rng.choice(len(held_back), min(count, len(held_back)), replace=False))]
    deeds = table.tokens[:, _ACTION].astype(np.int64)
    code = (deeds[:, 0] << 32) | (deeds[:, 1] << 16) | deeds[:, 2]
    trained = table.windows["train"][:, 0]
    done: dict[str, set[int]] = defaultdict(set)
    for name, one in zip(table.name[trained].tolist(), code[trained].tolist(), strict=True):
        done[name].add(one)
    donors = held_back[:, 0]
    kept, taken = [], []
    for row, end in enumerate(chosen[:, 0].tolist()):
        mine = done[table.name[end]]
        for donor in donors[rng.integers(0, len(donors), 8)].tolist():
            if table.name[donor] != table.name[end] and int(code[donor]) not in mine:
                kept.append(row)
                taken.append(donor)
                break
    if not kept:
        raise KubehabitError(
            "No held-back window can be swapped: all principals do the same. Give a longer log."
        )
    chosen = chosen[kept]
    tokens, lengths, principal, group = window_inputs(table, chosen, window)
    swapped = tokens.copy()
    gap = len(FIELDS) - 1  # the time since the action before stays what it was
    swapped[np.arange(len(kept)), lengths - 1, :gap] = table.tokens[taken][:, :gap]
    return Swaps(tokens, swapped, lengths, principal, group)


def surprise(model: Model, tokens: Ints, drawn: Swaps, batch: int = 512) -> Floats:
    """Reconstruction NLL of the newest action of each window in nats, float64 [B]."""
    newest = np.zeros(1, np.int64)
    parts = []
    for begin in range(0, len(tokens), batch):
        part = slice(begin, begin + batch)
        nll, _ = model(tokens[part], drawn.lengths[part], drawn.principal[part], drawn.group[part], newest)
        parts.append(nll[:, 0].sum(axis=-1))
    return np.concatenate(parts).astype(np.float64)


def separability(untouched: Floats, swapped: Floats, share: float) -> float:
    """Share of the swapped windows above the threshold that a `share` of the untouched ones exceeds."""
    return float((swapped > np.quantile(untouched, 1 - share)).mean())


def tune(
    config: Path,
    data: Path,
    search: TuneConfig,
    *,
    study: str = "kubehabit",
    storage: str | None = None,
    overrides: list[str] | None = None,
    progress: bool = True,
) -> Any:
    """Search; trials already in the study count, so a search that was stopped goes on.

    Args:
        config, data: experiment that the trials vary, and folder written by `kubehabit data build`.
        storage: SQLAlchemy URL of the trials; `tune.db` in `home()` if not given.
        overrides: options of `kubehabit train` that hold for every trial.

    Returns:
        The `optuna.Study`. Each trial is a run nested in one MLflow run of the study.
    """
    import mlflow
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    quieten_lightning()
    home().mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        study_name=study,
        storage=storage or f"sqlite:///{home() / 'tune.db'}",
        direction="maximize",
        load_if_exists=True,
    )
    complete = optuna.trial.TrialState.COMPLETE
    done = len(found.get_trials(states=(complete,)))
    # Seeded by how far the search is: with one seed, a search that goes on would draw its first trials a second time.
    found.sampler = optuna.samplers.TPESampler(seed=done)
    bar = WorkProgress(
        TextColumn("tuning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not progress,
    )
    with registry.connected():
        experiment = registry.experiment_id("kubehabit-tune")
        parent = found.user_attrs.get("mlflow_run")
        new: dict[str, Any] = {} if parent else {"experiment_id": experiment, "run_name": study}
        with mlflow.start_run(run_id=parent, **new) as run, bar:
            found.set_user_attr("mlflow_run", run.info.run_id)
            task = bar.add_task("tuning", total=search.trials, completed=done, best="")
            for count in range(done, search.trials):
                trial = found.ask()
                options = [f"--{name}={_suggest(trial, name, how)}" for name, how in search.space.items()]
                name = f"trial {trial.number}"
                with mlflow.start_run(nested=True, experiment_id=experiment, run_name=name):
                    mlflow.log_params(trial.params)
                    figures = _score(config, data, search, [*options, *(overrides or [])])
                    mlflow.log_metrics(figures)
                for key, value in figures.items():
                    trial.set_user_attr(key, value)
                found.tell(trial, figures["objective"])
                bar.update(task, completed=count + 1, best=f"best {found.best_value:.3f}")
            mlflow.log_metric("best_objective", found.best_value)
            mlflow.log_dict(found.best_params, "best.json")
            mlflow.log_text(as_config(found.best_params), "best.yaml")
    return found


def _suggest(trial: Any, name: str, how: Mapping[str, Any]) -> Any:
    if "choices" in how:
        return trial.suggest_categorical(name, list(how["choices"]))
    low, high = how["low"], how["high"]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=bool(how.get("log")))
    return trial.suggest_float(name, low, high, log=bool(how.get("log")))


def _score(config: Path, data: Path, search: TuneConfig, options: list[str]) -> dict[str, float]:
    """Train one candidate and score it on held-back normal data."""

    from training.export import TorchModel

    steps = {
        "max_steps": search.max_steps,
        "val_check_interval": search.max_steps,
        "enable_checkpointing": "false",
    }
    cli = parse(config, data, [*(f"--trainer.{name}={value}" for name, value in steps.items()), *options])
    use_threads(cli.config.register.threads)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    drawn = swaps(cli.datamodule.table, cli.model.config.window, search.windows)
    trained = cli.model.model.eval().cpu()
    model = TorchModel(trained)
    untouched, swapped = surprise(model, drawn.tokens, drawn), surprise(model, drawn.swapped, drawn)
    caught = separability(untouched, swapped, search.false_share)
    nll = float(untouched.mean())
    return {
        "objective": caught - search.nll_weight * nll,
        "swaps_caught": caught,
        "held_back_surprise": nll,
        "parameters": float(sum(parameter.numel() for parameter in trained.parameters())),
    }


def as_config(params: Mapping[str, Any]) -> str:
    """Dotted options as YAML sections that can be put into an experiment."""
    import yaml

    tree: dict[str, dict[str, Any]] = {}
    for name, value in sorted(params.items()):
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    return yaml.safe_dump(tree, sort_keys=False)
