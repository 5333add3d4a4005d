"""`moesim validate published`: predictions beside figures that others published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moesim.cli.common import Json, print_json, print_table


def published(
    path: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Published figures, one to a line.")],
    json: Json = False,
) -> None:
    """Predict every published figure that moesim can, and say why not for the others.

    Only grade P (primary text) counts in the summary. Exit code 2 for a file that cannot be read.
    """
    from moesim.validate import compare_published, published_document, read_published

    document = published_document(compare_published(read_published(path)))
    if json:
        print_json(document, kind="validation-published", inputs=[path])
        return
    _rows([row for row in document["rows"] if row["status"] == "predicted"])
    typer.echo()
    _summary(document["summary"])


def _rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        ["line", "system", "phase", "parallelism", "batch", "metric", "published", "ours", "ratio", "grade"],
        [
            [
                row["line"],
                row["system"],
                row["phase"],
                row["parallelism"][:24],
                row["batch"][:16],
                f"{row['metric']}, {row['unit']}",
                f"{row['published']:.5g}",
                f"{row['ours']:.5g}",
                f"{row['ratio']:.3f}" + ("*" if row["fitted"] else ""),
                row["grade"],
            ]
            for row in rows
        ],
        title="Published and predicted; * is a figure that moesim's numbers were fitted to",
    )


def _summary(summary: dict[str, Any]) -> None:
    named = {"all of grade P": summary, "not fitted to": summary["judged"]}
    named |= {f"  {name}": part for name, part in summary["judged_by_system"].items()}
    named |= {f"grade {name} (not counted)": part for name, part in summary["other_grades"].items()}
    print_table(
        ["figures", "n", "median", "mean", "90 %", "signed"],
        [
            [
                name,
                part["n"],
                *(
                    f"{part[key]:.1%}"
                    for key in ("median_abs_error", "mean_abs_error", "p90_abs_error", "median_signed_error")
                ),
            ]
            for name, part in named.items()
        ],
        title="|ours / published - 1|",
    )
    missing = summary["unsupported"]
    typer.echo()
    print_table(
        ["rows", "why not"],
        [[count, reason] for reason, count in missing["reasons"].items()],
        title=f"{missing['n']} of {summary['rows']} figures are not predicted",
    )
