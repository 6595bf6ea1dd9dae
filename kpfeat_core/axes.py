"""Axis letters for annotations; plain tensors where jaxtyping is not installed, as on robots."""

try:
    from jaxtyping import Bool, Float, Int
except ImportError:  # annotations then document, and nothing is checked

    class _Plain:
        def __class_getitem__(cls, item: tuple) -> type:
            return item[0]

    Bool = Float = Int = _Plain
__all__ = ['Bool', 'Float', 'Int']
