"""Names of topics beside those of images."""

from kpfeat_core.bags.recording import features_topics, sibling


def test_features_lie_beside_the_images():
    names = features_topics(['/left/image_raw', '/right/image_raw/compressed', '/image'])
    assert names == {
        '/left/image_raw': '/left/features',
        '/right/image_raw/compressed': '/right/features',
        '/image': '/features',
    }


def test_two_images_in_one_namespace_get_features_of_their_own():
    names = features_topics(['/cam/image_raw', '/cam/image_raw/compressed', '/other/image'])
    assert names == {
        '/cam/image_raw': '/cam/image_raw/features',
        '/cam/image_raw/compressed': '/cam/image_raw/compressed/features',
        '/other/image': '/other/features',
    }


def test_camera_info_lies_beside_the_image_and_not_below_it():
    assert sibling('/cam/image_raw/compressed', 'camera_info') == '/cam/camera_info'
