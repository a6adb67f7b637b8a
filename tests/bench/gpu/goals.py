"""What was aimed at on a GPU, and whether the rows are there. A goal that is missed is reported, and fails nothing."""

from typing import Any

PACKED_VS_GRAPHED, PACKED_VS_EAGER = 3.0, 8.0
STEP_VS_NANOGPT, STEP_SHARE_OF_BOUND = 1.0, 0.75


def goals(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A goal for every row that has one: what it is, at least, is, met. `is` is None where it was not measured."""
    found = []
    for size, row in rows.get("packing", {}).items():
        found.append(
            _goal(f"packing {size}: tokens/s over the serial CUDA-graph step", PACKED_VS_GRAPHED, row, "vs_graphed")
        )
        found.append(_goal(f"packing {size}: tokens/s over the eager step", PACKED_VS_EAGER, row, "vs_eager"))
    for size, row in rows.get("step", {}).items():
        found.append(_goal(f"step {size}: speed over compiled nanoGPT", STEP_VS_NANOGPT, row, "ratio"))
        found.append(_goal(f"step {size}: share of the roofline bound", STEP_SHARE_OF_BOUND, row, "share_of_bound"))
    return found


def _goal(what: str, least: float, row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return {"goal": what, "at_least": least, "is": value, "met": None if value is None else value >= least}
