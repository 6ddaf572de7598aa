import numpy as np
import pytest

from unet_bundle.evaluation.instances import THRESHOLDS, instance_scores


def line(*runs, length=60):
    """A line of voxels: number of an object, its first voxel, its voxels."""
    voxels = np.zeros((1, length), np.int32)
    for number, first, count in runs:
        voxels[0, first : first + count] = number
    return voxels


TRUTH = line((1, 0, 10), (2, 10, 10), (7, 30, 10))


def test_the_truth_itself_is_perfect_whatever_its_numbers_are():
    scores = instance_scores(line((900, 0, 10), (3, 10, 10), (4, 30, 10)), TRUTH)
    assert scores == (1.0, 1.0, 1.0, 1.0, 1.0, 0, 3, 3)


def test_two_objects_found_as_one_are_merged():
    scores = instance_scores(line((1, 0, 20), (2, 30, 10)), TRUTH)
    # One match of three; the merged one is half of the union with either, which is no match.
    assert scores.ap == scores.ap50 == scores.ap75 == pytest.approx(1 / (1 + 1 + 2))
    assert scores.seg == pytest.approx((0.5 + 0.5 + 1) / 3), "the merged one covers more than half of each"
    assert scores.aji == pytest.approx((10 + 10 + 10) / (20 + 20 + 10)), "as Kumar's, which takes it twice"
    assert (scores.merged, scores.true, scores.found) == (1, 3, 2)


def test_parts_of_objects_shifted_and_false_ones():
    # 1: 8 of 10; 2: cut in halves; 7: shifted by 2 (8 shared of 12); one where nothing is.
    scores = instance_scores(line((1, 0, 8), (2, 10, 5), (3, 15, 5), (4, 32, 10), (5, 50, 4)), TRUTH)
    hits = [sum(overlap > threshold for overlap in (0.8, 8 / 12)) for threshold in THRESHOLDS]
    assert scores.ap == pytest.approx(np.mean([h / (5 + 3 - h) for h in hits]))
    assert scores.ap50 == pytest.approx(2 / 6)
    assert scores.ap75 == pytest.approx(1 / 7)
    assert scores.seg == pytest.approx((0.8 + 0 + 8 / 12) / 3), "half of an object is not more than half"
    assert scores.aji == pytest.approx((8 + 5 + 8) / (10 + 10 + 12 + 5 + 4))
    assert scores.merged == 0


def test_where_nothing_is():
    empty = line()
    assert instance_scores(empty, empty) == (None, None, None, None, None, 0, 0, 0)
    assert instance_scores(TRUTH, empty) == (0.0, 0.0, 0.0, None, 0.0, 0, 0, 3)
    assert instance_scores(empty, TRUTH) == (0.0, 0.0, 0.0, 0.0, 0.0, 0, 3, 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_scores_are_their_definitions_pair_by_pair(seed):
    draw = np.random.default_rng(seed)
    label = np.kron(draw.integers(0, 9, (6, 5)), np.ones((4, 3), int))
    prediction = np.where(draw.random(label.shape) < 0.7, label + 20 * (label > 0), draw.integers(0, 3, label.shape))
    true, found = [label == n for n in np.unique(label)[1:]], [prediction == n for n in np.unique(prediction)[1:]]
    overlap = np.array([[(t & f).sum() / (t | f).sum() for t in true] for f in found])
    scores = instance_scores(prediction, label)
    hits = [(overlap > threshold).sum() for threshold in THRESHOLDS]
    assert scores.ap == pytest.approx(np.mean([h / (len(true) + len(found) - h) for h in hits]))
    covering = [[overlap[i, j] for i, f in enumerate(found) if (t & f).sum() > t.sum() / 2] for j, t in enumerate(true)]
    assert scores.seg == pytest.approx(np.mean([max(each, default=0) for each in covering]))
    best = overlap.argmax(axis=0)
    common = sum((t & found[b]).sum() for t, b in zip(true, best, strict=True))
    union = sum((t | found[b]).sum() for t, b in zip(true, best, strict=True))
    union += sum(f.sum() for i, f in enumerate(found) if i not in best)
    assert scores.aji == pytest.approx(common / union)
    merging = [sum((t & f).sum() > t.sum() / 2 for t in true) > 1 for f in found]
    assert (scores.merged, scores.true, scores.found) == (sum(merging), len(true), len(found))
