"""How much a warm start saves, and whether bf16 or torch.compile help here: `python benchmarks/model_life.py --out FILE.json`.

A champion is trained on the first part of a log. Then the whole log is trained on twice, from scratch and from the champion, with
the same seed and schedule; what is compared is the held-back loss over the steps. Precision and compilation are timed on the
same data.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from data.actions.encoder import ActionSettings
from data.paths import Recordings

ROOT = Path(__file__).resolve().parent.parent


def losses(dataset: Path, options: list[str], **how: Any) -> tuple[str, list[tuple[int, float]]]:
    """Train; return the version and the held-back loss in nats over the steps."""
    import mlflow

    from data.paths import tracking_uri
    from training.train import train

    result = train(ROOT / "configs" / "train.yaml", dataset, options, **how)
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    history = client.get_metric_history(result.run_id, "held_back_nll")
    return result.version, [(point.step, point.value) for point in history]


def warm_start(log: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Held-back loss over the steps, from scratch and from a champion that knows the first part of the log."""
    from data.dataset.build import build
    from data.events.reader import open_lines

    lines = list(open_lines(log))
    first = folder / "first.jsonl"
    first.write_bytes(b"\n".join(lines[: int(len(lines) * 0.6)]) + b"\n")
    settings = ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS)
    build([first], folder / "first", settings=settings, progress=False)
    build([log], folder / "all", settings=settings, progress=False)
    options = [
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps // 10}",
        "--register.threads=1",
    ]
    champion, _ = losses(folder / "first", options)
    _, scratch = losses(folder / "all", options)
    _, warm = losses(folder / "all", options, warm_start=f"models:/kubehabit/{champion}")
    best = min(loss for _, loss in scratch)
    needed = next((step for step, loss in warm if loss <= best), None)
    return {
        "scratch": scratch,
        "warm": warm,
        "best_from_scratch": best,
        "steps_to_it_warm": needed,
        "steps": steps,
    }


def speed(dataset: Path, steps: int) -> list[dict[str, Any]]:
    """Actions a second while training, in float32, in bf16 and compiled; one thread. The first steps are not timed."""
    import lightning
    import torch

    from training.train import parse

    class Clock(lightning.Callback):
        began = 0.0
        seconds = 0.0

        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == steps // 5:
                self.began = time.monotonic()

        def on_train_end(self, *_: Any) -> None:
            self.seconds = time.monotonic() - self.began

    torch.set_num_threads(1)
    rows = []
    for precision, compiled in (("32-true", False), ("bf16-mixed", False), ("32-true", True)):
        cli = parse(
            ROOT / "configs" / "train.yaml",
            dataset,
            [
                f"--trainer.max_steps={steps}",
                f"--trainer.val_check_interval={steps}",
                f"--trainer.precision={precision}",
                "--trainer.enable_checkpointing=false",
            ],
        )
        clock = Clock()
        cli.trainer.callbacks.append(clock)
        row: dict[str, Any] = {"precision": precision, "compiled": compiled}
        try:
            if compiled:
                cli.model.model.compile()
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        except Exception as error:  # a compiler may be missing; that is an answer, too
            rows.append(row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
            continue
        timed = (steps - steps // 5) * cli.datamodule.batch_size
        rows.append(
            row
            | {
                "actions_per_second": timed / clock.seconds,
                "held_back_nll": float(cli.trainer.callback_metrics["held_back_nll"]),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, default=ROOT / "data" / "recordings" / "normal.jsonl.zst")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "home")
        found = {"warm_start": warm_start(chosen.log, Path(folder), chosen.steps)}
        found |= {"speed": speed(Path(folder) / "all", chosen.steps // 2)}
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
