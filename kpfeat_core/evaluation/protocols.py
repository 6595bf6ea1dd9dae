"""How image pairs are evaluated: the published ways, and our own, each under a name."""

from dataclasses import dataclass

from ..errors import ConfigError

# Sequences of HPatches that are too large for some extractors, left out since D2-Net.
TOO_LARGE = (
    'i_contruction',
    'i_crownnight',
    'i_dc',
    'i_pencils',
    'i_whitebuilding',
    'v_artisans',
    'v_astronautis',
    'v_talent',
)
SPARE = 4  # so many times the keypoints wanted are extracted where some of them will not count
DISTANCE, OVERLAP = 'distance', 'overlap'
USAC, RANSAC = 'usac', 'ransac'
POSE = 'pose'


@dataclass(frozen=True)
class Protocol:
    """
    What is done with each pair; every error is in pixels of the resized images.

    source: where it is published. max_num_keypoints: the best of each image. long_side: larger
    images are reduced to it; size: (height, width) to which all are stretched or, with crop,
    resized until they fill it and cut to their middle; the truth moves with the images. nms_px:
    keypoints with a better one within this many pixels in x and y are dropped, whatever the
    extractor. shared_region: only keypoints that the other image can see count, the best
    max_num_keypoints of them; border_px: nor do those this close to the border of their own image
    or, under a shared region, of the other one. estimator: OpenCV's USAC (MAGSAC) or its plain
    RANSAC, with errors of inliers up to ransac_px. repeatability: of keypoints within repeated_px
    of each other, or of regions whose overlap error is at most 0.4. left_out: groups that do not
    count. headlines: the columns that tables show first.
    """

    name: str
    source: str
    max_num_keypoints: int = 1024
    long_side: int = -1
    size: tuple[int, int] | None = None
    crop: bool = False
    nms_px: int = 0
    shared_region: bool = False
    border_px: int = 0
    estimator: str = USAC
    ransac_px: float = 3.0
    repeatability: str = DISTANCE
    repeated_px: float = 3.0
    left_out: tuple[str, ...] = ()
    headlines: tuple[str, ...] = ('MMA@3', 'HA@3', 'AUC@3', 'repeatability')

    @property
    def extracted(self) -> int:
        """Keypoints that an extractor is asked for, of which some may not count."""
        spare = SPARE if self.shared_region or self.nms_px or self.border_px else 1
        return spare * self.max_num_keypoints


_D2NET = 'Dusmanu et al. 2019 (D2-Net), also Luo et al. 2020 (ASLFeat), Zhao et al. 2022 (ALIKE)'
_SUPERPOINT = 'DeTone et al. 2018 (SuperPoint)'
_KP2D = 'Tang et al. 2020 (KP2D)'
_OWN_HEADLINES = ('repeatability', 'localization_px', 'HA@1', 'HA@3', 'HA@5', 'matching_score')

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('default', 'kpfeat', long_side=640),
        Protocol(
            'superpoint-detector',
            _SUPERPOINT,
            max_num_keypoints=300,
            size=(240, 320),
            crop=True,
            nms_px=4,
            shared_region=True,
            estimator=RANSAC,
            headlines=('repeatability', 'localization_px'),
        ),
        Protocol(
            'superpoint',
            _SUPERPOINT,
            max_num_keypoints=1000,
            size=(480, 640),
            crop=True,
            nms_px=8,
            shared_region=True,
            estimator=RANSAC,
            headlines=_OWN_HEADLINES,
        ),
        Protocol(
            'kp2d-300',
            _KP2D,
            max_num_keypoints=300,
            size=(240, 320),
            shared_region=True,
            estimator=RANSAC,
            headlines=_OWN_HEADLINES,
        ),
        Protocol(
            'kp2d-1000',
            _KP2D,
            max_num_keypoints=1000,
            size=(480, 640),
            shared_region=True,
            estimator=RANSAC,
            headlines=_OWN_HEADLINES,
        ),
        Protocol(
            'd2net',
            _D2NET,
            max_num_keypoints=5000,
            long_side=2000,
            estimator=RANSAC,
            left_out=TOO_LARGE,
            headlines=('MMA@1', 'MMA@3', 'MMA@5', 'MMA@10', 'HA@3', 'matches'),
        ),
        Protocol(
            'keynet',
            'Barroso-Laguna et al. 2019 (Key.Net)',
            max_num_keypoints=1000,
            shared_region=True,
            border_px=15,
            repeatability=OVERLAP,
            headlines=('repeatability', 'repeatability_scale', 'localization_px'),
        ),
        Protocol(
            POSE,
            'Sarlin et al. 2020 (SuperGlue), with the sizes of glue-factory',
            max_num_keypoints=2048,
            long_side=1600,
            ransac_px=1.0,
            headlines=('pose_AUC@5', 'pose_AUC@10', 'pose_AUC@20', 'precision'),
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name; raises ConfigError."""
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{name}'; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
