"""The bytes of picture files to pixels, by OpenCV and alike in all its releases."""

import cv2
import numpy as np

# Markers of JPEG (ITU-T T.81, annex B)
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


def decode_picture(data: np.ndarray, flags: int) -> np.ndarray | None:
    """
    Decode a file's bytes (N,) as cv2.imdecode does; None for no picture and for one cut off.

    Of a JPEG file that is cut off, OpenCV 4.6 makes a picture whose last rows are repeated to its
    full height, and would have features found there. Raises cv2.error.
    """
    return None if _is_cut_jpeg(data.tobytes()) else cv2.imdecode(data, flags)


def _is_cut_jpeg(data: bytes) -> bool:
    if not data.startswith(START_OF_IMAGE):
        return False
    place = len(START_OF_IMAGE)
    # over the segments before the pixels: a thumbnail among them has an end of its own
    while data[place : place + 1] == b'\xff' and data[place : place + 2] != START_OF_SCAN:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    return data.find(END_OF_IMAGE, place) < 0
