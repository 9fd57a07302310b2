"""docs/figures/choose.svg: which method, as questions from top to bottom.

``python docs/decision_figure.py`` writes it. Boxes have their own colours and lines are grey, so that it can be read on
a light and on a dark page; it is narrow, so that it can be read on a phone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, MARGIN, LINE, PAD = 380, 6, 18, 10
QUESTION, ANSWER = ("#1d4e89", "#ffffff"), ("#d8ecd9", "#10301a")
GREY = "#7a7a7a"
# (question, the answer that ends it, what to do then); the last one is no question
STEPS = (
    (
        ["Counts, in which a zero may be missing?", "(single-cell data)"],
        "no",
        ["Empty, NA or NaN is missing:", "“Real values”, below"],
    ),
    (
        ["Do you want to test genes between", "groups, or add up totals?"],
        "yes",
        ["Do not impute.", "imputome.de on the counts"],
    ),
    (
        ["Do you have seconds, or no torch?"],
        "yes",
        ["count_factors, with a check"],
    ),
    (["Are you unsure which method?"], "yes", ["--method auto: a race against", "simple controls, 5 minutes"]),
    (["Counts: the default,", "count_autoencoder, with --check"], "", ["Read the verdict before use"]),
)
REAL = (
    (["Real values:", "fewer than 6 samples?"], "yes", ["mean (the default then):", "too few to learn from"]),
    (
        ["Do you know that values are", "missing because they are low?"],
        "yes",
        ["beta_vae", "--shift-correction auto"],
    ),
    (
        ["Are blocks missing that no", "sample links to the rest?"],
        "yes",
        ["Nothing can be learnt:", "the verdict is “withheld”"],
    ),
    (["Real values: the default,", "gaussian_copula, with --check"], "", ["Read the verdict before use"]),
)


def box(lines: list[str], y: int, x: int, width: int, colours: tuple[str, str]) -> tuple[str, int]:
    """A box with lines of text, and its height."""
    height = 2 * PAD + LINE * len(lines) - 4
    fill, ink = colours
    text = "".join(
        f'<text x="{x + PAD}" y="{y + PAD + 10 + LINE * k}" fill="{ink}">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}"/>{text}', height


def line(path: str, tip: str) -> str:
    """A grey line that ends in a triangle."""
    return f'<path d="{path}" stroke="{GREY}" stroke-width="2"/><path d="{tip}" fill="{GREY}"/>'


def label(text: str, x: int, y: int) -> str:
    """A word beside a line."""
    return f'<text x="{x}" y="{y}" fill="{GREY}">{text}</text>'


def steps(parts: list[str], y: int, chain: tuple[tuple[list[str], str, list[str]], ...]) -> int:
    """Draw a chain of questions; the y below it."""
    down, aside, indent = MARGIN + 10, MARGIN + 48, 74
    for question, answer, then in chain:
        drawn, height = box(question, y, MARGIN, WIDTH - 2 * MARGIN, QUESTION)
        parts.append(drawn)
        below = y + height + 12
        drawn, tall = box(then, below, indent, WIDTH - MARGIN - indent, ANSWER)
        middle = below + tall // 2
        parts += [line(f"M{aside} {y + height}V{middle}H{indent - 5}", f"M{indent - 7} {middle - 5}v10l7 -5z"), drawn]
        if not answer:  # the last one
            return below + tall
        end = below + tall + 14
        parts += [
            label(answer, aside - 26, middle - 6),
            line(f"M{down} {y + height}V{end - 5}", f"M{down - 5} {end - 7}h10l-5 7z"),
            label("yes" if answer == "no" else "no", down + 8, end - 3),
        ]
        y = end
    return y


def figure() -> str:
    """The whole picture."""
    parts: list[str] = []
    y = steps(parts, MARGIN, STEPS)
    y = steps(parts, y + 40, REAL)
    height = y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="14" fill="none" role="img">'
        f"<title>How to choose a method</title>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("figures").joinpath("choose.svg").write_text(figure(), encoding="utf-8")
