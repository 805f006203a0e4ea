"""Families made of others offer what their parts offer: methods that an instance has or has not.

A protocol asks whether an object has a method. What a family built from others can do depends on
its parts, hence on the instance and not on the class: methods are defined under a private name
and put in place, under their public one, where the parts allow.
"""

from typing import Any

from jaxvi.families._base import Family

MOMENTS = ("moments", "covariance")


def has_all(families: tuple[Family, ...], *names: str) -> bool:
    """Whether each of the families has all of these methods."""
    return all(hasattr(family, name) for family in families for name in names)


def offer(owner: Any, *names: str) -> None:
    """Make `owner._name` available as `owner.name`, so that its protocol holds."""
    for name in names:
        object.__setattr__(owner, name, getattr(owner, f"_{name}"))
