from typing import Any

import numpy as np

from underpaint.compiled import compiled


def test_runs_where_there_is_nowhere_to_keep_the_machine_code() -> None:
    # numba knows no file for such a function, and answers as it does where no folder can be written to.
    namespace: dict[str, Any] = {}
    exec("def total(values):\n    return values[0] + values[1]", namespace)
    assert compiled(namespace["total"])(np.array([1.5, 2.25])) == 3.75
