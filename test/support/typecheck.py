"""The checker of annotations: beartype, for which a whole number is good enough for a float."""

from beartype import beartype, BeartypeConf

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
