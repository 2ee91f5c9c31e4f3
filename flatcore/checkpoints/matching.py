"""Which tensor of one checkpoint is which of another: by name, and past one wrapper's prefix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_DEEPEST = 4  # parts of a prefix
_MOST_HOLDERS = 4  # names of one checkpoint that end alike; more are parts of a model, not one wrapped tensor


@dataclass(frozen=True)
class Matching:
    """What belongs together.

    Parameters
    ----------
    pairs
        Names in A and B.
    only
        Names that only one of both holds, with the reason why they have no partner.
    note
        Which prefixes were left out of names; empty where none were.

    """

    pairs: tuple[tuple[str, str], ...]
    only: tuple[tuple[str, str], ...]
    note: str


def match_names(a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]]) -> Matching:
    """Match tensors by name; what is left by the pair of prefixes that fits most, where no other fits as well.

    Parameters
    ----------
    a, b
        Shapes by name. Prefixes end in a dot and hold no number (``model.``, ``_orig_mod.module.``), and count only
        where the shapes agree.

    Returns
    -------
    Matching

    Examples
    --------
    >>> match_names({"model.W": (2, 2), "b": (2,)}, {"W": (2, 2), "c": (2,)}).pairs
    (('model.W', 'W'),)

    """
    pairs = [(name, name) for name in a if name in b]
    rest_a, rest_b = ({n: shape for n, shape in one.items() if n not in other} for one, other in ((a, b), (b, a)))
    renamed, note = _past_prefixes(rest_a, rest_b)
    matched = {name for pair in renamed for name in pair}
    reason = {True: "only in A", False: "only in B"}
    only = [(name, reason[rest is rest_a]) for rest in (rest_a, rest_b) for name in rest if name not in matched]
    return Matching((*pairs, *renamed), tuple(only), note)


def _past_prefixes(
    a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]]
) -> tuple[list[tuple[str, str]], str]:
    """Pairs past the one pair of prefixes that fits most, and what to say about it."""
    found = _candidates(a, b)
    if not found:
        return [], ""
    best = min(found, key=lambda prefixes: (-len(found[prefixes]), len("".join(prefixes))))
    partners = dict(found[best])
    owners = {name: partner for partner, name in found[best]}
    rivals = [
        prefixes
        for prefixes, pairs in found.items()
        if len(pairs) == len(partners) and any(partners.get(x, y) != y or owners.get(y, x) != x for x, y in pairs)
    ]
    shown = [" and ".join(f"{p!r} in {side}" for p, side in zip(ps, "AB", strict=True) if p) for ps in (best, *rivals)]
    if rivals:
        return [], f"names may match without {' or without '.join(shown[:4])}: ambiguous, so they were not matched"
    return found[best], f"{len(partners)} names match without {shown[0]}"


def _candidates(
    a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Pairs of names with the same end and shape, by the prefixes before it."""
    ends_a, ends_b = _by_end(a), _by_end(b)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for end in ends_a.keys() & ends_b.keys():
        if max(len(ends_a[end]), len(ends_b[end])) > _MOST_HOLDERS:
            continue
        for x in ends_a[end]:
            for y in ends_b[end]:
                if a[x] == b[y]:
                    prefixes = x.removesuffix(end), y.removesuffix(end)
                    found.setdefault(prefixes, []).append((x, y))
    return {prefixes: sorted(pairs) for prefixes, pairs in found.items()}


def _by_end(names: Iterable[str]) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {}
    for name in names:
        for end in _ends(name):
            ends.setdefault(end, []).append(name)
    return ends


def _ends(name: str) -> Iterator[str]:
    """The name, and what is left of it behind prefixes without numbers."""
    yield name
    for _ in range(_DEEPEST):
        head, dot, name = name.partition(".")
        if not dot or any(c.isdigit() for c in head):
            return
        yield name
