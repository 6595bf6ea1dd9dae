"""Names of topics beside those of images, as the nodes have them."""

from collections import Counter
from collections.abc import Sequence


def base_topic(image: str) -> str:
    """Return the topic of the images themselves: without the `/compressed` of image_transport."""
    return image.removesuffix('/compressed')


def sibling(image: str, name: str) -> str:
    """Return the topic beside one of images: /left/image_raw and features give /left/features."""
    return f'{base_topic(image).rpartition("/")[0]}/{name}'


def features_topics(images: Sequence[str]) -> dict[str, str]:
    """
    Return the topic of features for each topic of images.

    It is the sibling `features`; where several of these images share a namespace it is
    `features` below each image topic instead.
    """
    shared = Counter(sibling(image, 'features') for image in images)
    return {
        image: sibling(image, 'features')
        if shared[sibling(image, 'features')] == 1
        else f'{image}/features'
        for image in images
    }
