"""Results as tables of Arrow and pandas, for notebooks; pandas is there only if the user has it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.provenance import clean


class Tabular:
    """Whatever has columns of equal length."""

    __slots__ = ()

    def columns(self) -> Mapping[str, Any]:
        """Columns by name, with the unit in the name; None or NaN where there is no value."""
        raise NotImplementedError

    def to_arrow(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """The columns as a `pyarrow.Table`; what is not finite is null."""
        import pyarrow as pa

        return pa.table({name: _column(values) for name, values in self.columns().items()})

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is not needed otherwise
        """The columns as a `pandas.DataFrame`.

        Raises
        ------
        ConfigError
            If pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise ConfigError(
                Fault("needs pandas, which is not installed", "to_pandas", allowed="pip install pandas")
            )
        return self.to_arrow().to_pandas()


def rows_to_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows that may lack some names, by column.

    >>> rows_to_columns([{"a": 1}, {"a": 2, "b": 3.0}])
    {'a': [1, 2], 'b': [None, 3.0]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _column(values: Any) -> Any:  # noqa: ANN401 - arrays and lists
    import numpy as np
    import pyarrow as pa

    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        return pa.array(values)
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values, mask=~np.isfinite(values))
    return pa.array(clean(values))
