"""The two types that flow through everything."""

from kpfeat_core.errors import ShapeError
from kpfeat_core.features import Features, Matches
import numpy as np
import pytest
import torch


def arrays_of(count, seed=0, **extra):
    """Return what one image gives: `count` keypoints with descriptors of 4 numbers."""
    rng = np.random.default_rng(seed)
    arrays = {
        'keypoints': rng.uniform(0, 100, (count, 2)),
        'keypoint_scores': rng.uniform(0, 1, count),
        'descriptors': rng.normal(size=(count, 4)),
        'image_size': np.array([160, 120]),
    }
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    return arrays | {k: np.full(count, v, np.float32) for k, v in extra.items()}


def features_of(*counts, **extra):
    """Return a padded batch with so many keypoints in each image."""
    return Features.cat([Features.from_numpy(arrays_of(n, n, **extra)) for n in counts])


def test_arrays_survive_the_way_through_features():
    arrays = arrays_of(5, scales=2.0, orientations=0.5)
    back = Features.from_numpy(arrays).numpy()
    assert set(back) == set(arrays)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_arrays_that_cannot_be_written_to_become_features_of_their_own(recwarn):
    arrays = arrays_of(2)
    before = arrays['keypoints'].copy()
    for array in arrays.values():
        array.setflags(write=False)  # as in messages that are read from a recording
    features = Features.from_numpy(arrays)
    features.keypoints.add_(1)
    assert np.array_equal(arrays['keypoints'], before) and not recwarn.list


def test_joining_pads_at_the_end_and_the_mask_says_so():
    features = features_of(2, 5, 0)
    assert features.keypoints.shape == (3, 5, 2)
    assert features.mask.tolist() == [[True] * 2 + [False] * 3, [True] * 5, [False] * 5]
    assert [features.count(b) for b in range(3)] == [2, 5, 0]
    assert not features.keypoints[0, 2:].any() and not features.descriptors[0, 2:].any()


def test_one_image_comes_out_of_a_batch_without_padding():
    features = features_of(2, 5)
    one = features.select(0)
    assert one.mask.tolist() == [[True, True]]
    assert np.array_equal(features.numpy(0)['descriptors'], arrays_of(2, 2)['descriptors'])
    assert one.image_size.tolist() == [[160.0, 120.0]]


@pytest.mark.parametrize(
    'index', [torch.tensor([0, 2]), np.array([True, False, True]), slice(0, 3, 2)]
)
def test_some_rows_are_taken_of_every_image(index):
    features = features_of(3, 2, scales=2.0)
    taken = features.take(index)
    assert taken.mask.tolist() == [[True, True], [True, False]]
    assert torch.equal(taken.descriptors, features.descriptors[:, ::2])
    assert taken.scales.tolist() == [[2, 2], [2, 0]]
    assert torch.equal(taken.image_size, features.image_size)


def test_scales_are_given_only_where_there_are_any():
    assert 'scales' not in features_of(3).numpy()
    assert features_of(3, scales=1.5).numpy()['scales'].tolist() == [1.5] * 3


def test_moving_to_another_device_moves_every_tensor():
    moved = features_of(3, scales=1.0).to('meta')
    assert moved.device.type == 'meta'
    assert moved.scales.device.type == moved.mask.device.type == 'meta'
    assert moved.orientations is None


@pytest.mark.unchecked
def test_arrays_in_the_order_of_hloc_or_that_do_not_fit_or_are_missing_are_named():
    arrays = arrays_of(5)
    with pytest.raises(ShapeError, match='hloc files hold .* transpose'):
        Features.from_numpy(arrays | {'descriptors': arrays['descriptors'].T})
    with pytest.raises(ShapeError, match=r'keypoint_scores has shape \(1, 4\)'):
        Features.from_numpy(arrays | {'keypoint_scores': arrays['keypoint_scores'][:4]})
    del arrays['descriptors'], arrays['image_size']
    with pytest.raises(ShapeError, match='lack descriptors, image_size'):
        Features.from_numpy(arrays)
    with pytest.raises(ShapeError, match='no Features to join; expected at least one'):
        Features.cat([])


def test_pairs_are_index_into_image_0_and_index_into_image_1():
    matches = Matches(torch.tensor([[-1, 4, -1, 0]]), torch.tensor([[0.0, 0.9, 0.0, 0.7]]))
    assert matches.pairs().tolist() == [[1, 4], [3, 0]]
    assert matches.scores().tolist() == pytest.approx([0.9, 0.7])


def test_features_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        features_of(2).mask = None


@pytest.mark.parametrize('name', ['scales', 'orientations'])
def test_features_with_and_without_an_optional_array_are_not_joined(name) -> None:
    from dataclasses import replace

    plain = Features.from_numpy(
        {
            'keypoints': np.zeros((3, 2), np.float32),
            'keypoint_scores': np.ones(3, np.float32),
            'descriptors': np.ones((3, 4), np.float32),
            'image_size': np.array([8, 8], np.float32),
        }
    )
    given = replace(plain, **{name: torch.ones(1, 3)})
    assert getattr(Features.cat([given, given]), name).shape == (2, 3)
    with pytest.raises(ShapeError, match=f'have {name} and others have none'):
        Features.cat([given, plain])
