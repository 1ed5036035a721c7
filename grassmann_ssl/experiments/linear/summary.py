"""The table and the findings of a comparison, from its record alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from grassmann_ssl.runs import Finding, Table

Record = dict[str, Any]
HEADER = ("objective", "arm", "collapse", "eff. rank", "angle [rad]", "against theory")
NOTE = (
    "collapse: kinds over seeds, judged on the exact eigenvalues of the covariance of z at the end of the run. {rule}. {guarantee}"
    "eff. rank: exponential of the entropy of the same eigenvalues, median over seeds. angle: largest principal angle between the final "
    "weights' column space and the subspace that theory predicts for infinite time (trace losses, free: between the leading left singular "
    "vector and the bottom eigenvector of C), largest over seeds. "
    "collapse slope: d log(σ₂/σ₁)/dt of free weights."
)
UNFINISHED = (
    " unfinished: theory puts further steps after the end of the run, and the dimensions whose steps were due have not collapsed; "
    "a step is learned when its eigenvalue of C passes ½."
)


def table(record: Record) -> Table:
    """One row per trained arm."""
    rows = []
    for objective, arms in record["arms"].items():
        for arm, end in arms.items():
            agreement = record["agreement"][objective]
            angle = agreement["subspace"].get(arm, {}).get("max_principal_angle")
            rank = _number(end["effective_rank"])
            rows.append((objective, arm, _verdict(end), rank, _number(angle, 2), _theory(agreement, arm, angle)))
    note = NOTE.format(rule=record["collapse_rule"], guarantee=_guarantee(record))
    if any("unfinished" in row[2] for row in rows):
        note += UNFINISHED
    return Table("Verdicts", HEADER, tuple(rows), note)


def _guarantee(record: Record) -> str:
    """What a constraint guarantees, where the weights at the end are those that it speaks of: below 1 the norm keeps W from losing rank."""
    errors = [end["orthonormality_error"] for arms in record["arms"].values() for end in arms.values()]
    largest = max((error for error in errors if error is not None), default=None)
    if largest is None:
        return ""
    if not largest < 1:
        return f"The constraint guarantees nothing: ‖WᵀW − I‖ is {largest:.2g} at the end. "
    return (
        f"What the constraint guarantees is the rank of W (‖WᵀW − I‖ at most {largest:.2g} at the end); that the embedding keeps its "
        "variance is observed, not guaranteed. "
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _verdict(end: Record) -> str:
    """The kinds of collapse and their counts over seeds, and how far those came that are unfinished."""
    if end["collapsed"] is None:
        return "diverged"
    text = ", ".join(f"{kind} {count}/{end['seeds']}" for kind, count in end["kinds"].items() if count)
    return text + (f": {_steps(end)}" if end["kinds"]["unfinished"] else "")


def _steps(end: Record) -> str:
    """Learned and predicted steps of the unfinished seeds."""
    own = [k for k, kind in enumerate(end["kind_of_seed"]) if kind == "unfinished"]
    learned, predicted = ([end[name][k] for k in own] for name in ("steps_learned", "steps_predicted"))
    return f"{_range(learned)} of {_range(predicted)} steps"


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _theory(agreement: Record, arm: str, angle: float | None) -> str:
    """The agreement of this arm with theory."""
    parts = []
    if arm == "free" and "step_times" in agreement:
        times = agreement["step_times"]
        error = times["max_relative_error"]
        parts.append("step times: " + (times["reason"] if error is None else f"within {100 * error:.2g} %"))
    if arm == "free" and "collapse_slope" in agreement:
        error = agreement["collapse_slope"]["relative_error"]
        within = "not reached in this horizon" if error is None else f"within {100 * error:.2g} %"
        parts.append(f"collapse slope: {within}")
    if arm == "grassmann" and "flow" in agreement:
        parts.append(f"exact flow: projector within {agreement['flow']['max_projector_error']:.2g}")
    if parts:
        return "; ".join(parts)
    if angle is None:
        return "no closed form of the end point"
    return f"subspace: within {angle:.2g} rad" if angle < 0.1 else f"subspace: still {angle:.2g} rad away"


def findings(record: Record) -> list[Finding]:
    """Step times, slopes, flows, end points and divergences, objective by objective; the law of the initialisation last."""
    found = [f for name, arms in record["arms"].items() for f in _of(name, arms, record["agreement"][name])]
    law = record["agreement"].get("barlow_twins", {}).get("initialisation_law")
    if law:
        predicted, measured = law["predicted_exponent"], law["measured_exponent"]
        found.append(
            Finding(
                "barlow_twins, free: law of the final angle",
                f"∝ α^{predicted:.3f}",
                None if measured is None else f"∝ α^{measured:.3f}",
                None
                if measured is None
                else f"{abs(measured - predicted):.2g} apart, over {len(law['fitted_scales'])} initialisation scales α",
            )
        )
    return found


def _of(name: str, arms: Record, agreement: Record) -> Iterator[Finding]:
    if "step_times" in agreement:
        yield _step_times(name, agreement["step_times"])
    if "collapse_slope" in agreement:
        yield _slope(name, agreement["collapse_slope"])
    if "flow" in agreement:
        flow = agreement["flow"]
        yield Finding(
            f"{name}, grassmann: flow",
            "the exact flow",
            None,
            f"projector within {flow['max_projector_error']:.2g} at all times",
        )
    for arm, end in arms.items():
        if end["collapsed"] is None:
            yield Finding(f"{name}, {arm}", measured=end["reason"])
        elif agreement["subspace"][arm]["max_principal_angle"] is not None:
            yield _angle(f"{name}, {arm}: final angle", agreement["subspace"][arm])


def _step_times(name: str, times: Record) -> Finding:
    """Medians over seeds of the first and the last step time, and the errors over all seeds and modes."""
    error, missing = times["max_relative_error"], times["beyond_horizon"]
    said = (
        times["reason"]
        if error is None
        else f"worst {100 * error:.2g} %, median {100 * times['median_relative_error']:.2g} %"
    )
    if missing:
        said += f"; {missing} predicted after the end"
    return Finding(f"{name}, free: step times", _span(times["predicted"]), _span(times["measured"]), said)


def _span(times: list[list[float | None]] | None) -> str | None:
    """The first and the last of the step times (S, d), medians over seeds; a missing step counts as infinitely late."""
    if times is None:
        return None
    late = np.array([[np.inf if t is None else t for t in seed] for seed in times])
    first, last = np.median(late, axis=0)[[0, -1]]
    if not np.isfinite(first):
        return None
    return f"t = {first:.3g} to {last:.3g}" if np.isfinite(last) else f"t from {first:.3g}"


def _slope(name: str, slope: Record) -> Finding:
    quantity, error = f"{name}, free: collapse slope", slope["relative_error"]
    if error is None:
        return Finding(
            quantity, None if slope["predicted"] is None else f"{slope['predicted']:.4g}", None, slope["reason"]
        )
    return Finding(
        quantity,
        f"{slope['predicted']:.4g}; at this learning rate {slope['at_learning_rate']:.4g}",
        f"{slope['measured']:.4g} (median)",
        f"worst seed off the flow by {100 * error:.2g} %",
    )


def _angle(quantity: str, subspace: Record) -> Finding:
    expected = subspace.get("expected_max_principal_angle")
    return Finding(
        quantity,
        "0 at infinite time" if expected is None else f"0 at infinite time; {expected:.2g} at the end",
        f"median {subspace['median_principal_angle']:.2g}, worst {subspace['max_principal_angle']:.2g} rad",
    )
