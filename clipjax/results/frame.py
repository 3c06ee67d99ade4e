"""Result rows as a data frame. Imports no JAX.

frame = clipjax.load_results("results")
frame[frame.metric == "top1"].pivot(index="model", columns="dataset", values="value")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.errors import UsageError
from clipjax.results.published.references import with_imported
from clipjax.results.store import ResultStore
from clipjax.results.tables import flat

if TYPE_CHECKING:
    import pandas


def load_results(folder: str | Path = "results", *, every: bool = False) -> pandas.DataFrame:
    """The rows in a folder of results, one line each; the columns are those of `clipjax results export`.

    Several data sets of one name are named with their folders, as by `with_distinct_names`.

    Args:
        every: all runs; default: the newest of each recipe.

    Raises:
        UsageError: pandas is not installed.
        DataError: the folder is missing, or a run in it is damaged.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("a data frame needs pandas: pip install pandas") from None
    store = ResultStore(folder)
    store.check_root(exists=True)
    return pandas.DataFrame(map(flat, with_imported(store.rows(every=every))))
