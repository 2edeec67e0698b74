"""What a policy wrote and what it got for it: a table in a file, and curves of the run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlm import picture
from jaxlm.files import write_file

ROWS = 16  # of a round
CURVES = (("reward", "mean reward"), ("completions/mean_length", "tokens a completion"))


class Table:
    """JSON lines of a step, prompt, completion, rewards by name and advantage. A run that repeats a step writes it
    anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(
        self,
        step: int,
        prompts: Sequence[str],
        texts: Sequence[str],
        each_RK: np.ndarray,
        names: Sequence[str],
        advantage_R: np.ndarray,
    ) -> None:
        kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in kept if json.loads(line)["step"] < step]
        for prompt, text, each, advantage in list(zip(prompts, texts, each_RK, advantage_R.tolist()))[:ROWS]:
            rewards = {name: None if np.isnan(x) else float(x) for name, x in zip(names, each)}
            line = {"step": step, "prompt": prompt, "completion": text, "rewards": rewards, "advantage": advantage}
            kept.append(json.dumps(line, ensure_ascii=False))
        write_file(self.path, ("\n".join(kept) + "\n").encode())

    def draw(self, folder: Path) -> None:
        """rewards.png: reward and length over steps, in training and held out."""
        path = folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
        figure, axes = picture.blank(8, 6, rows=2)
        for panel, (key, title) in zip(axes, CURVES):
            for kind, colour in (("train", picture.BLUE), ("eval", picture.ORANGE)):
                points = [
                    (line["step"], line[f"{kind}/{key}"]) for line in lines if line.get(f"{kind}/{key}") is not None
                ]
                if points:
                    mark = "o-" if kind == "eval" else "-"
                    panel.plot(*zip(*points), mark, color=colour, label="held out" if kind == "eval" else "training")
            picture.dress(panel, title, "optimizer steps", title)
            if panel.has_data():
                panel.legend(frameon=False)
        picture.save(figure, folder / "rewards.png")
