"""The tables of the robot-user study, as Markdown: what is printed is what goes into the docs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation.benchmarks.interactive_study import curve_of
from evaluation.benchmarks.robot_user import METHODS

Row = dict[str, Any]
SHOWN_CLICKS = (1, 3, 5, 10)


def encoding_table(rows: Sequence[Row]) -> str:
    """Show Dice of the first contour by encoding, mean and spread over the networks' seeds."""
    first = [r for r in rows if r["method"] == "if-gc" and r["network"] != "shipped"]
    encodings = _ordered(r["network"] for r in first)
    head = ["set", "targets", *encodings]
    body = []
    for axes in _ordered(r["dimensions"] for r in first):
        inside = [r for r in first if r["dimensions"] == axes]
        for name in _ordered(r["set"] for r in inside):
            of_set = [r for r in inside if r["set"] == name]
            label = f"{axes}-D {name} ({'seen' if of_set[0]['seen'] else 'unseen'})"
            body.append([label, str(_targets(of_set)), *_by_seed(of_set, encodings)])
        body.append([f"**{axes}-D, mean of sets**", "", *_by_seed(inside, encodings, by_set=True)])
    return _markdown(head, body)


def click_table(rows: Sequence[Row], network: str, *, limit: int) -> str:
    """Show how Dice rises with each correction, how many it takes, and how long one takes.

    The least step is the smallest change of the mean from one correction to the next.
    """
    head = ["set", "method", "first contour"]
    if limit:
        head += [f"after {k}" for k in SHOWN_CLICKS if k <= limit]
        head += ["least step of the mean", "clicks to 85 %", "clicks to 90 %", "seconds per click"]
    body = []
    of_network = [r for r in rows if r["network"] == network]
    for axes in _ordered(r["dimensions"] for r in of_network):
        inside = [r for r in of_network if r["dimensions"] == axes]
        groups: list[tuple[str, Callable[[Row], bool]]] = [
            (f"{axes}-D {name}", lambda r, name=name: r["set"] == name)  # type: ignore[misc]
            for name in _ordered(r["set"] for r in inside)
        ]
        groups.append((f"**{axes}-D, all unseen**", lambda r: not r["seen"]))
        for label, belongs in groups:
            for method in METHODS:
                chosen = [r for r in inside if r["method"] == method and belongs(r)]
                if chosen:
                    body.append([label, method, *_click_cells(chosen, limit)])
    return _markdown(head, body)


def _click_cells(rows: Sequence[Row], limit: int) -> list[str]:
    curves = [curve_of(r) for r in rows]
    means = [100 * np.mean([c.dice_after(k) for c in curves]) for k in range(limit + 1)]
    if not limit:
        return [f"{means[0]:.1f}"]
    cells = [f"{means[k]:.1f}" for k in (0, *SHOWN_CLICKS) if k <= limit]
    cells.append(f"{np.diff(means).min():+.2f}")
    for dsc in (0.85, 0.90):
        counts = [c.clicks_to_reach(dsc, limit=limit) for c in curves]
        cells.append(f"{np.mean(counts):.2f}")
    clicks = [s for c in curves for s in c.seconds[1:]]
    return [*cells, f"{np.median(clicks):.3f}" if clicks else "-"]


def _by_seed(rows: Sequence[Row], networks: Sequence[str], *, by_set: bool = False) -> list[str]:
    """Mean over targets (of sets, alike) per seed; then mean and deviation over seeds."""
    cells = []
    for network in networks:
        means = []
        chosen = [r for r in rows if r["network"] == network]
        for seed in _ordered(r["seed"] for r in chosen):
            of_seed = [r for r in chosen if r["seed"] == seed]
            parts = _ordered(r["set"] for r in of_seed) if by_set else [None]
            means.append(
                np.mean(
                    [
                        np.mean([r["dice"][0] for r in of_seed if part in (None, r["set"])])
                        for part in parts
                    ]
                )
            )
        spread = f" ± {100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
        cells.append(f"{100 * np.mean(means):.1f}{spread}")
    return cells


def _targets(rows: Sequence[Row]) -> int:
    return len({r["case"] for r in rows})


def _ordered(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
