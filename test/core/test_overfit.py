"""
Every system learns a handful of pairs by heart: what is measured improves by a stated factor.

ALIKE and Key.Net are here. The others have their test beside the rest of their training:
SuperPoint and MagicPoint in test_training_superpoint, KP2D in test_training_kp2d, ASLFeat in
test_training_aslfeat, HardNet in test_training_hardnet.
"""

from kpfeat_core.benchmarking.systems import load_pictures
from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
from kpfeat_core.training.keynet import KeyNetLossConfig, KeyNetRecipe
from kpfeat_core.training.validation import validate
import pytest
from small_runs import fit, settle
import torch


@pytest.fixture(scope='module')
def pairs() -> PairBatch:
    """Return three pairs of views of one drawing."""
    picture = torch.from_numpy(load_pictures('', (160, 160))[0]).permute(2, 0, 1)[None]
    half = torch.nn.functional.avg_pool2d(picture.float(), 2).byte()
    bank = ImageBank((picture, half), torch.tensor([[160.0, 160]]), torch.ones(1), ('drawing',))
    config = PairConfig(view_size=96, any_rotation=0, rotation_deg=10, max_zoom=1.2, shift=0.1)
    return make_pairs(bank, 3, config, PhotometricConfig(), torch.Generator().manual_seed(0))


def test_alike_learns_to_match_three_pairs(pairs) -> None:
    torch.manual_seed(0)
    config = AlikeLossConfig(detected=40, random=40, stride=2)
    recipe = AlikeRecipe(build_extractor('alike-t'), config)
    before = validate(recipe.extractor, pairs, 60)
    recipe = recipe.to(memory_format=torch.channels_last).train()
    log = fit(recipe, pairs, 20, 8e-3, draw_anew=True)
    settle(recipe, pairs)
    after = validate(recipe.extractor, pairs, 60)
    assert log[-1]['total'] < 0.5 * log[0]['total']
    assert after['mma3'] > 3 * before['mma3']
    assert after['repeatability'] > 1.15 * before['repeatability']


def test_keynet_proposes_the_same_positions_in_three_pairs(pairs) -> None:
    """M-SIP is what is measured: views of this size have too few keypoints to count."""
    torch.manual_seed(0)
    extractor = build_extractor('keynet', **KeyNetRecipe.build_options)
    recipe = KeyNetRecipe(extractor, KeyNetLossConfig()).train()
    totals = [parts['total'] for parts in fit(recipe, pairs, 15, 1e-2)]
    assert max(totals[-5:]) < 0.6 * totals[0]
