"""Training losses as pure functions: tensors in, one value per image or per keypoint out."""
