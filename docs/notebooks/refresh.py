"""Run the notebooks in this folder and keep what they print: ``python docs/notebooks/refresh.py [NAME...]``.

Kept are outputs alone, without times, paths or numbers of executions: the same answers make the same files.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.ipynb"))


def executed(name: str, folder: Path) -> Any:
    """A notebook after a run in a folder, cleared of what differs from run to run.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails, with its traceback.
    """
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
                if "data" in output:
                    output.data = _portable(output.data)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _portable(data: dict[str, str]) -> dict[str, str]:
    """What every viewer shows: figures as images, since many drop pictures from HTML, and no long texts."""
    shown = data.get("text/html")
    if shown is None:
        return data
    figure = re.fullmatch(r"<figure>(<svg.*</svg>)<figcaption>(.*)</figcaption></figure>", shown, re.DOTALL)
    if figure is None:
        return {"text/html": shown}
    return {"image/svg+xml": figure[1], "text/plain": html.unescape(figure[2])}


def main() -> None:
    """Run those that are named, or all."""
    import tempfile

    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, Path(folder))
        with (HERE / f"{name}.ipynb").open("w", encoding="utf-8", newline="\n") as stream:
            nbformat.write(notebook, stream)


if __name__ == "__main__":
    main()
