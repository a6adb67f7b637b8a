"""The paired difference over windows, against a bootstrap of documents."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.windows import paired_windows
from lmcore.measure.window_difference import clustered_difference


def windows(n=480, documents=60, document_sd=0.05, window_sd=0.1, seed=0):
    """Two models on the windows of documents of unequal lengths: what is common, and what a document likes."""
    rng = np.random.default_rng(seed)
    document = np.sort(rng.choice(documents, n, p=rng.dirichlet(np.full(documents, 2.0))))
    common = 4 + 0.6 * rng.standard_normal(n) + 0.3 * rng.standard_normal(documents)[document]
    taste = document_sd * rng.standard_normal(documents)[document] + window_sd * rng.standard_normal(n)
    return common, common + 0.02 + taste, document


def bootstrap_error(a, b, document, resamples=4000):
    """Standard deviation of the mean difference when whole documents are drawn with replacement."""
    rng = np.random.default_rng(1)
    _, cluster = np.unique(document, return_inverse=True)
    sums, sizes = np.bincount(cluster, b - a), np.bincount(cluster)
    drawn = rng.integers(0, len(sums), (resamples, len(sums)))
    return (sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)).std()


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_that_of_a_bootstrap_over_documents(seed):
    a, b, document = windows(seed=seed)
    found = clustered_difference(a, b, document)
    assert found.mean == pytest.approx((b - a).mean())
    assert found.se == pytest.approx(bootstrap_error(a, b, document), rel=0.1)
    assert found.df == len(set(document)) - 1


def test_windows_that_are_their_own_documents_give_the_textbook_error():
    a, b, _ = windows()
    found = clustered_difference(a, b, np.arange(len(a)))
    assert found.se == pytest.approx((b - a).std(ddof=1) / np.sqrt(len(a)))


def test_what_windows_add_to_both_losses_changes_nothing():
    a, b, document = windows()
    shift = 5 * np.random.default_rng(2).standard_normal(len(a))
    assert clustered_difference(a + shift, b + shift, document) == pytest.approx(clustered_difference(a, b, document))


def test_the_error_is_far_below_that_of_two_independent_means():
    a, b, document = windows()
    independent = np.hypot(a.std(), b.std()) / np.sqrt(len(a))
    assert clustered_difference(a, b, document).se < independent / 3


def test_without_documents_the_clusters_are_blocks_of_neighbours():
    a, b, _ = windows(n=480)
    blocks = np.repeat(np.arange(60), 8)  # ceil(480^(1/3)) = 8
    assert clustered_difference(a, b, None) == clustered_difference(a, b, blocks)


def test_the_interval_contains_the_truth_in_95_percent_of_simulated_pairs():
    inside = 0
    for seed in range(400):
        a, b, document = windows(n=240, documents=40, seed=seed)
        trials = pd.DataFrame({"trial": ["a", "b"]}).assign(
            window_losses=pd.Series([a, b]), window_documents=pd.Series([document, document])
        )
        found = paired_windows(trials, "a", "b")
        assert isinstance(found, Estimate)
        inside += found.low <= 0.02 <= found.high
    assert 0.91 <= inside / 400 <= 0.985


def rows(**changes):
    """Trials a and b, which differ in one column."""
    base = {"window_losses": np.arange(4.0), "params.model.context_length": 128, "params.data.source": "stdlib"}
    return pd.DataFrame([{"trial": "a", **base}, {"trial": "b", **base, **changes}])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"window_losses": None}, "the losses of single windows were not kept"),
        ({"window_losses": np.arange(5.0)}, "different windows (4 and 5 of them)"),
        ({"params.model.context_length": 64}, "differ in length (128 and 64 tokens)"),
        ({"params.data.source": "other"}, "different data"),
    ],
)
def test_windows_that_are_not_shared_are_never_paired(changes, reason):
    found = paired_windows(rows(**changes), "a", "b")
    assert isinstance(found, NotEstimable)
    assert reason in found.reason


def test_one_document_has_no_error():
    both = rows().assign(window_documents=pd.Series([np.zeros(4, int)] * 2))
    assert paired_windows(both, "a", "b") == NotEstimable("all 4 windows are of one document")


def test_a_difference_changes_its_sign_with_the_order():
    a, b, document = windows()
    both = pd.DataFrame({"trial": ["a", "b"], "window_losses": [a, b], "window_documents": [document, document]})
    first, second = (paired_windows(both, *pair) for pair in itertools.permutations("ab"))
    assert (first.value, first.low, first.high) == pytest.approx((-second.value, -second.high, -second.low))
