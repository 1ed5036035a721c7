"""The audit of arrays: verdicts that are right for any number of rows, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import t as student

from grassmann_ssl.audit import CollapseError, Rule, audit_embeddings
from grassmann_ssl.audit.moments import blocks_of
from grassmann_ssl.audit.rows import distinct_rows
from grassmann_ssl.metrics import alignment, uniformity
from tests.profiles import examples


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.data(), st.integers(2, 512))
@examples(60)
def test_isotropic_rows_are_never_called_collapsed(data, d):
    n = data.draw(st.integers(3, 4 * d))
    assert audit_embeddings(normal(data.draw(st.integers(0, 2**31)), n, d)).kind in ("none", "undecided")


@given(st.integers(0, 2**31), st.integers(3, 40), st.integers(2, 6))
@examples(200)
def test_few_isotropic_rows_of_few_dimensions_are_never_called_collapsed(seed, n, d):
    assert audit_embeddings(normal(seed, n, d)).kind in ("none", "undecided")


@pytest.mark.parametrize(
    ("z", "kind", "hard", "soft"),
    [
        (normal(0, 256, 512), "none", False, False),  # was "dimensional, 255 live"
        (normal(0, 300, 3) @ normal(1, 3, 64), "dimensional", True, True),
        (normal(0, 32, 3) @ normal(1, 3, 64), "dimensional", True, True),  # fewer rows than dimensions
        (normal(0, 500, 64) * torch.cat([torch.ones(1), torch.full((63,), 0.02)]), "dimensional", False, True),
        (normal(0, 256, 64) * (torch.arange(64) < 32), "dimensional", True, False),
        (torch.full((100, 16), 1.7), "complete", None, None),
        (torch.zeros(100, 16), "complete", None, None),
        (normal(0, 300, 32) + 50, "none", False, False),  # a mean is no collapse of z
        (normal(0, 100, 1), "none", False, False),
    ],
)
def test_kinds(z, kind, hard, soft):
    audit = audit_embeddings(z)
    assert (audit.kind, audit.verdict.hard, audit.verdict.soft) == (kind, hard, soft)


def test_directions_that_are_nearly_constant():
    cone = normal(0, 300, 32) + 50
    audit = audit_embeddings(cone, directions=True)
    assert audit.kinds == ("directional",) and audit["spread"].value < 1e-3
    assert audit_embeddings(normal(0, 300, 32), directions=True).kind == "none"


def test_a_class_that_is_one_point():
    z, labels = normal(0, 400, 16), np.array(["cat", "dog", "eel", "fox"]).repeat(100)
    z[300:] = z[300]
    audit = audit_embeddings(z, labels=labels)
    assert audit.kinds == ("class",) and audit.verdict.classes == ("fox",)
    assert audit.classes[0].share_of_variance > 0.5 and audit.classes[3].share_of_variance == 0


@pytest.mark.parametrize("change", ["turned", "scaled", "shifted", "permuted", "float64", "float16", "numpy", "pandas"])
@pytest.mark.parametrize("case", ["healthy", "half", "soft"])
def test_the_verdict_does_not_see(change, case):
    z = normal(0, 200, 24)
    z = {
        "healthy": z,
        "half": z * (torch.arange(24) < 12),
        "soft": z * torch.cat([torch.ones(1), torch.full((23,), 0.02)]),
    }[case]
    same = {
        "turned": lambda: z @ torch.linalg.qr(normal(1, 24, 24))[0],
        "scaled": lambda: 3 * z,
        "shifted": lambda: z + 10,
        "permuted": lambda: z[torch.randperm(200, generator=torch.Generator().manual_seed(5))],
        "float64": z.double,
        "float16": z.half,
        "numpy": z.numpy,
        "pandas": lambda: pd.DataFrame(z.numpy()),
    }[change]()  # fmt: skip
    one, other = audit_embeddings(z), audit_embeddings(same)
    assert one.verdict == other.verdict and one.kind == ("none" if case == "healthy" else "dimensional")
    assert other["dimensions_used"].value == pytest.approx(one["dimensions_used"].value, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-10, 1e10, 1e30])
def test_any_scale_of_floating_point(scale):
    audit, same = audit_embeddings(normal(0, 200, 8)), audit_embeddings(normal(0, 200, 8) * scale)
    assert same.kind == "none"
    assert same["dimensions_used"].value == pytest.approx(audit["dimensions_used"].value, rel=1e-2)
    assert same["total_variance"].value == pytest.approx(audit["total_variance"].value * scale**2, rel=1e-2)


def test_tokens_are_pooled_or_rows_in_groups():
    z = normal(0, 50, 7, 8)
    pooled, grouped = audit_embeddings(z, tokens="mean"), audit_embeddings(z, tokens="rows")
    assert (pooled.rows, pooled.units) == (50, 50) and (grouped.rows, grouped.units) == (350, 50)
    repeated = normal(0, 50, 1, 8).repeat(1, 7, 1)
    one, same = audit_embeddings(repeated[:, 0]), audit_embeddings(repeated, tokens="rows")
    assert same["dimensions_used"].value == pytest.approx(one["dimensions_used"].value, rel=1e-6)
    assert same["dimensions_used"].low == pytest.approx(one["dimensions_used"].low, rel=1e-6)
    # Taken for independent they would claim to know more than there is to know.
    flat = audit_embeddings(repeated.flatten(0, 1))["dimensions_used"]
    assert flat.high - flat.low < same["dimensions_used"].high - same["dimensions_used"].low


def test_positive_pairs_and_labels_add_their_numbers():
    z, labels = normal(0, 200, 8), torch.arange(200) % 4
    z = z + 4 * torch.eye(4, 8)[labels]
    audit = audit_embeddings(z, z_positive=z + 0.1 * normal(1, 200, 8), labels=labels)
    frame = audit.frame()
    assert {"alignment", "uniformity", "lidar", "nc1", "knn", "linear_probe"} <= set(frame.index)
    assert (frame["low"].fillna(-np.inf) <= frame["value"].fillna(0)).all()
    assert audit["alignment"].value < 0.01 and audit["knn"].value > 0.9
    assert list(frame.columns) == ["value", "low", "high", "sample", "convention", "meaning"]


@pytest.mark.parametrize("name", ["alignment", "uniformity"])
def test_intervals_of_pairs_are_those_of_leaving_blocks_out(name):
    z, positive = normal(0, 60, 5), normal(1, 60, 5)
    function = {
        "alignment": lambda kept: alignment(z[kept], positive[kept]),
        "uniformity": lambda kept: uniformity(z[kept]),
    }[name]
    number = audit_embeddings(z, z_positive=positive)[name]
    place = blocks_of(60, 20)
    without = np.array([float(function(place != block)) for block in range(20)])
    deviation = np.sqrt(19 / 20 * ((without - without.mean()) ** 2).sum())
    assert number.value == pytest.approx(float(function(place >= 0)), rel=1e-6)
    assert number.high - number.low == pytest.approx(2 * deviation * student.ppf(0.975, 19), rel=1e-4)


def test_rows_that_are_not_finite_are_refused_or_counted():
    z = normal(0, 100, 4)
    z[[7, 50]] = torch.tensor([[float("nan")], [float("inf")]])
    with pytest.raises(ValueError, match=r"z has 2 of 100 rows that are not finite \(rows 7, 50\): .*nonfinite='drop'"):
        audit_embeddings(z)
    whole = normal(1, 100, 4)
    with pytest.raises(ValueError, match=r"^z_positive has 2 of 100 rows that are not finite \(rows 7, 50\)"):
        audit_embeddings(whole, z_positive=z)
    whole[9] = float("nan")
    with pytest.raises(ValueError, match=r"^z or z_positive has 3 of 100 rows"):
        audit_embeddings(whole, z_positive=z)
    audit = audit_embeddings(z, nonfinite="drop", labels=np.arange(100) % 2, groups=np.arange(100))
    assert (audit.rows, audit.left_out) == (98, 2)


@pytest.mark.parametrize("d", [2, 12])
def test_neural_collapse_is_that_of_its_definition(d):
    z, labels = normal(0, 60, d).double() + 100, np.arange(60) % 4
    z = z + 3 * normal(1, 4, d).double()[labels]
    means = np.stack([z[labels == k].mean(0) for k in range(4)])
    away, apart = z.numpy() - means[labels], means - means.mean(0)
    exact = np.trace(away.T @ away / 60 @ np.linalg.pinv(apart.T @ apart / 4, rcond=1e-9)) / 4
    assert audit_embeddings(z, labels=labels)["nc1"].value == pytest.approx(exact, rel=1e-6)


def test_a_class_whose_rows_are_all_left_out_is_none_of_those_that_are_told_apart():
    z, labels = normal(0, 90, 4), np.arange(90) % 3
    z = z + 5 * torch.eye(3, 4)[labels]
    z[labels == 1] = float("nan")
    found = audit_embeddings(z, labels=labels, nonfinite="drop")
    alone = audit_embeddings(z[labels != 1], labels=labels[labels != 1])
    assert [one.rows for one in found.classes] == [30, 0, 30]
    assert [found[name].value for name in ("nc1", "knn", "linear_probe")] == [
        alone[name].value for name in ("nc1", "knn", "linear_probe")
    ]


@pytest.mark.parametrize(
    ("z", "settings", "message"),
    [
        (pd.Series([1.0, 2.0]), {}, r"z must have shape \(N, D\).*, got \(2,\)"),
        (torch.zeros(5), {}, r"z must have shape \(N, D\).*, got \(5,\)"),
        (torch.zeros(0, 3), {}, r"z must have at least one row and one dimension, got shape \(0, 3\)"),
        (torch.zeros(3, 0), {}, r"at least one row and one dimension"),
        (torch.zeros(1, 3), {}, r"z must have at least 2 rows, got 1: one row has no variance"),
        (torch.zeros(4, 2, 3), {}, r"say tokens='mean' .* or tokens='rows'"),
        (torch.zeros(4, 3), {"tokens": "mean"}, r"z must have shape \(N, T, D\) where tokens is given"),
        (torch.zeros(4, 3, dtype=torch.int64), {}, r"z must be of float16, .*, got torch.int64: convert it with .float\(\)"),
        (torch.zeros(4, 3).to(torch.float8_e4m3fn), {}, r"z must be of float16, .*, got torch.float8_e4m3fn"),
        (torch.zeros(4, 3, dtype=torch.complex64), {}, r"z must hold real numbers alone, got dtype torch.complex64$"),
        (torch.zeros(4, 3).to_sparse(), {}, r"z must be dense, got layout torch.sparse_coo: convert it with .to_dense\(\)"),
        (np.zeros((4, 3), dtype=object), {}, r"z must hold real numbers alone, got dtype object$"),
        (np.zeros((4, 3), dtype=complex), {}, r"z must hold real numbers alone, got dtype complex128$"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), {}, r"z must hold real numbers alone, and column 'b' holds (object|str)$"),
        (pd.DataFrame({"a": [1, 2]}, dtype="Int64"), {}, r"z must be floating, got dtype int64: convert it with .astype"),
        (pd.DataFrame({0: [1, 2, None, 4]}, dtype="Float32"), {}, r"z has 1 of 4 rows that are not finite \(rows 2\)"),
        (np.ma.masked_equal(np.arange(12.0).reshape(4, 3), 7), {}, r"z has 1 of 4 rows that are not finite \(rows 2\)"),
        (1e300 * normal(0, 9, 3).double(), {}, r"z has entries of up to 2\.\d+e\+300, whose squares are outside the range"),
        (1e-300 * normal(0, 9, 3).double(), {}, r"z has entries of up to 2\.\d+e-300, whose squares .* multiply z by a constant"),
        (np.zeros((4, 3), dtype=np.int32), {}, r"z must be floating, got dtype int32"),
        ([[1.0, 2.0]], {}, r"z must be an array of numpy or torch or a frame of pandas, got list: convert it with np.asarray$"),
        ([torch.zeros(3)], {}, r"got list of tensors: convert it with torch.cat or torch.stack$"),
        ("z.npy", {}, r"got str: for a file there is `grassmann-ssl audit FILE`, and grassmann_ssl.data.load_array$"),
        (csr_matrix(np.eye(3)), {}, r"got csr_matrix: convert it with .toarray\(\)$"),
        (torch.zeros(4, 3, device="meta"), {}, r"z must have a number in every place, got a meta tensor$"),
        (pd.DataFrame({"id": [1, 2], "a": [0.5, 1.5]}), {}, r"z has a column 'id' of int64 among floating ones: leave it out"),
        (pd.DataFrame({"e": [[0.5, 1.5], [2.5, 3.5]]}), {}, r"column 'e' holds lists: make an array of it with np.stack$"),
        (torch.zeros(4, 3), {"labels": [0.5, 1.0, 1.0, 2.0]}, r"labels must be integers or texts, and 1 are fractions$"),
        (torch.zeros(4, 3), {"labels": [0, 1]}, r"labels must have one entry for each of the 4 rows, got shape \(2,\)"),
        (torch.zeros(4, 3), {"labels": [0, 1, None, 2]}, r"labels must be integers or texts"),
        (torch.zeros(4, 3), {"labels": [0, 1, np.nan, 2]}, r"labels must not be missing, and 1 are not finite"),
        (torch.zeros(4, 3), {"groups": [0, 0, 0, 0]}, r"groups must hold at least 2 different groups, got 1"),
        (torch.zeros(4, 3), {"z_positive": torch.zeros(4, 2)}, r"z_positive must have the shape \(4, 3\) of z"),
        (torch.zeros(4, 3), {"confidence": 95}, r"confidence must be between 0 and 1, got 95"),
        (torch.zeros(4, 3), {"nonfinite": "skip"}, r"nonfinite must be one of 'refuse', 'drop', got 'skip'"),
        (torch.zeros(4, 3), {"input_variance": 0.0}, r"input_variance must be positive, got 0.0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(z, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        audit_embeddings(z, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_rows_say_what_is_missing(n):
    audit = audit_embeddings(normal(0, n, 4))
    assert audit.kind == "undecided" and "independent rows" in audit.judgement
    assert audit["total_variance"].value > 0 and audit["dimensions_used"].value is None


@pytest.mark.slow
@given(st.integers(2, 40), st.integers(1, 8), st.integers(0, 3), st.integers(0, 2**31))
@examples(20)
def test_constant_columns_duplicates_and_denormals_are_stated_results(n, d, constant, seed):
    z = normal(seed, n, d)
    z[:, :constant] = 0.1
    for rows in (z, z.repeat(2, 1), z * 1e-39, z.half()):
        audit = audit_embeddings(rows, labels=np.arange(len(rows)) // 3)
        assert audit.kind in ("none", "undecided", "dimensional", "complete", "class")
        assert all(one.value is None or np.isfinite(one.value) for one in audit.numbers)
        repr(audit), audit.frame(), audit._repr_html_()


def test_two_rows_say_nothing_of_the_width_of_their_variance():
    """Both are as far from their mean: leaving one out changes nothing."""
    assert audit_embeddings(normal(0, 2, 64))["total_variance"].high is None
    narrow = torch.ones(2, 8) + 0.1 * normal(0, 2, 8)
    assert "directional" in audit_embeddings(narrow, directions=True).verdict.open


def test_without_any_variance_the_sample_has_no_share_of_dimensions():
    audit = audit_embeddings(torch.ones(50, 8))
    assert audit["share_used"].sample is None and audit["dimensions_used"].sample is None
    for constant in (torch.ones(50, 8), torch.zeros(50, 8), torch.full((500, 8), 1.7)):
        assert audit_embeddings(constant)["live_dimensions"].value == 0


def test_directions_of_any_magnitude_are_judged():
    assert audit_embeddings(1e300 * normal(0, 300, 8).double(), directions=True).kind == "none"


@pytest.mark.parametrize("copies", [2, 4, 100])
def test_copies_of_few_rows_are_no_dead_dimensions(copies):
    """50 rows of 64 dimensions span 49 of them, however often they come."""
    audit = audit_embeddings(normal(0, 50, 64).repeat(copies, 1))
    assert (audit.kind, audit.distinct) == ("undecided", 50)
    assert f"since only 50 of {50 * copies:,} rows are different" in audit.judgement
    assert audit.judged.endswith("; only 50 of them are different: if the same inputs come again, they need groups")
    grouped = audit_embeddings(normal(0, 50, 64).repeat(copies, 1), groups=torch.arange(50).repeat(copies))
    assert grouped.judged.endswith(" in 50 independent groups; only 50 of them are different")


@pytest.mark.parametrize("n", [30, 200, 600])
def test_one_row_far_away_decides_nothing(n):
    """Beside its variance all other dimensions would be dead; with 20 rows per dimension, too."""
    z = torch.cat([normal(0, n, 16), torch.full((1, 16), 1e6)])
    audit = audit_embeddings(z)
    assert audit.kind == "undecided" and audit.verdict.open["dimensional"].startswith("one row alone has 9")
    assert audit_embeddings(z[:-1]).kind != "dimensional"
    grouped = audit_embeddings(z, groups=torch.arange(n + 1))
    assert grouped.verdict == audit.verdict
    assert audit_embeddings(torch.cat([normal(0, n, 3) @ normal(1, 3, 16), z[-1:]])).kind == "undecided"


def test_many_rows_are_judged_though_some_are_copies():
    z = normal(0, 2000, 16) * (torch.arange(16) < 8)
    z[1000:] = z[:1000]
    assert audit_embeddings(z).kind == "dimensional" and audit_embeddings(z + normal(1, 16)).distinct == 1000


@given(
    st.integers(0, 2**31),
    st.integers(2, 60),
    st.integers(1, 5),
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
)
@examples(60)
def test_rows_that_differ_are_counted(seed, n, d, dtype):
    z = normal(seed, n, d).round(decimals=seed % 2).to(getattr(torch, dtype)) * 2.0 ** (seed % 9)
    assert distinct_rows(z) == len(torch.unique(z.double(), dim=0))


def test_the_gate_names_what_falls_short():
    audit = audit_embeddings(normal(0, 300, 3) @ normal(1, 3, 64))
    audit.require(kind=("dimensional", "none"), dimensions_used=2)
    with pytest.raises(CollapseError, match=r"kind is dimensional .*, not none; dimensions_used is 2.* below 20"):
        audit.require(kind="none", dimensions_used=20)
    with pytest.raises(ValueError, match="nonsense: the numbers of this audit are dimensions_used"):
        audit.require(nonsense=1)
    with pytest.raises(ValueError, match="kind must be of none, complete"):
        audit.require(kind="fine")


def test_thresholds_can_be_chosen():
    z = normal(0, 2000, 16) * torch.arange(1, 17) ** -1.0
    assert audit_embeddings(z).kind == "none" and audit_embeddings(z, rule=Rule(used=0.5)).kind == "dimensional"
