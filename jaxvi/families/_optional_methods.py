"""Optional methods of families built from other families, offered only if all parts have them.

A protocol tests whether an object has a method. Which methods a composed family has depends on its
parts, so on the instance and not on the class. Such methods are defined under a private name and
set on the instance under their public name if the parts allow it.
"""

from typing import Any

from jaxvi.families._base import Family

MOMENTS = ("moments", "covariance")


def has_all(families: tuple[Family, ...], *names: str) -> bool:
    """Whether each of the families has all of these methods."""
    return all(hasattr(family, name) for family in families for name in names)


def offer(owner: Any, *names: str) -> None:
    """Makes `owner._name` available as `owner.name`, so that the protocol of `name` holds."""
    for name in names:
        object.__setattr__(owner, name, getattr(owner, f"_{name}"))
