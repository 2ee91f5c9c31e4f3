"""What a user says of a checkpoint's tensors: a small TOML file, and pairs on the command line.

    heads = 12                       # attention heads a layer, where no config.json says it
    kv_heads = 4                     # key and value heads, where they are fewer
    storage = "in_out"               # all matrices are stored (in, out); or a table of globs
    pairs = ["up.*.w=down.*.w"]      # consecutive layers, lower = upper

    [roles]                          # what tensors are: see flatcore inspect
    "tower.*.wq.w" = "attention query"

    [storage]
    "tower.*.w" = "in_out"

In a glob ``*`` stands for any text, the shortest that fits from the left; nothing else is special. In a pair the stars
of both sides stand for the same texts.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatcore._atomic import PathLike
from flatcore._checks import check_count
from flatcore.io.roles import ROLES
from flatcore.io.strict import read_short, shown

LONGEST_FILE = 1_000_000  # bytes
STORAGES = ("in_out", "out_in")
_KEYS = ("heads", "kv_heads", "storage", "pairs", "roles")


@dataclass(frozen=True)
class PairRule:
    """Lower and upper layers by globs whose stars stand for the same texts."""

    lower: str
    upper: str

    @classmethod
    def parse(cls, text: str) -> PairRule:
        """The rule ``lower=upper``.

        Raises
        ------
        ValueError
            Another form, or sides with different numbers of stars.

        Examples
        --------
        >>> PairRule.parse("a.*=b.*")
        PairRule(lower='a.*', upper='b.*')

        """
        lower, equals, upper = (part.strip() for part in text.partition("="))
        if not (lower and equals and upper) or "=" in upper:
            raise ValueError(f"the pair is {shown(text)}; expected 'lower=upper', as in 'up.*.w=down.*.w'")
        if lower.count("*") != upper.count("*"):
            raise ValueError(f"the pair is {shown(text)}; expected as many * on both sides, for the same texts")
        return cls(lower, upper)

    def __str__(self) -> str:
        return f"{self.lower}={self.upper}"

    def matches(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Lower and upper names among `names`.

        Raises
        ------
        ValueError
            No two names fit.

        """
        known = dict.fromkeys(names)
        found, lowers = [], 0
        for name in known:
            texts = texts_of(self.lower, name)
            if texts is None:
                continue
            lowers += 1
            upper = _filled(self.upper, texts)
            if upper in known:
                found.append((name, upper))
        if not found:
            what = f"{lowers} tensors fit {self.lower}, none of them has a partner" if lowers else "no tensor fits"
            raise ValueError(f"the pair {shown(str(self))}: {what} {shown(self.upper if lowers else self.lower)}")
        return found


@dataclass(frozen=True)
class Rules:
    """What is said of a checkpoint beyond what its names tell.

    Parameters
    ----------
    heads, kv_heads
        Attention heads of every layer, and those of keys and values where they are fewer.
    roles
        Globs and the roles of the tensors that fit, of which later ones win.
    storage
        Globs and whether the matrices that fit are stored ``"in_out"`` or ``"out_in"``.
    pairs
        Consecutive layers.

    """

    heads: int | None = None
    kv_heads: int | None = None
    roles: tuple[tuple[str, str], ...] = ()
    storage: tuple[tuple[str, str], ...] = ()
    pairs: tuple[PairRule, ...] = ()

    def __post_init__(self) -> None:
        for name, what in (("roles", "role"), ("storage", "storage")):
            entries = getattr(self, name)
            if not isinstance(entries, tuple) or not all(_are_two_texts(entry) for entry in entries):
                raise ValueError(f"{name} is {shown(entries)}; expected a tuple of pairs of a glob and a {what}")
        if not isinstance(self.pairs, tuple) or not all(isinstance(pair, PairRule) for pair in self.pairs):
            raise ValueError(f"pairs is {shown(self.pairs)}; expected a tuple of PairRule")
        for name in ("heads", "kv_heads"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.kv_heads is not None and self.heads is None:
            raise ValueError(f"kv_heads is {self.kv_heads}, and heads is not given; expected both")
        if self.kv_heads is not None and self.heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads} and heads {self.heads}; expected a multiple of kv_heads")

    @classmethod
    def read(cls, path: PathLike) -> Rules:
        """The rules of a TOML file.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            No TOML, unknown keys, values of other kinds than those above.

        """
        place = Path(path)
        text = read_short(place, "a TOML file of rules", LONGEST_FILE)
        try:
            return cls.of_dict(tomllib.loads(text.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise ValueError(f"{place} is no UTF-8 ({error.reason} at byte {error.start})") from None
        except RecursionError:
            raise ValueError(f"{place} is nested too deeply") from None
        except ValueError as error:  # tomllib's own among them
            raise ValueError(f"{place}: {error}") from None

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> Rules:
        """The rules as a file gives them.

        Raises
        ------
        ValueError
            As :meth:`read`.

        """
        for key in content:
            if key not in _KEYS:
                raise ValueError(f"unknown key {shown(key)}; expected {', '.join(_KEYS)}")
        storage = content.get("storage", {})
        pairs = content.get("pairs", [])
        if not isinstance(pairs, list) or not all(isinstance(pair, str) for pair in pairs):
            raise ValueError(f"pairs is {shown(pairs)}; expected a list of texts 'lower=upper'")
        return cls(
            heads=content.get("heads"),
            kv_heads=content.get("kv_heads"),
            roles=_table("roles", content.get("roles", {}), ROLES),
            storage=_table("storage", {"*": storage} if isinstance(storage, str) else storage, STORAGES),
            pairs=tuple(PairRule.parse(pair) for pair in pairs),
        )

    def with_options(self, pairs: Iterable[str] = (), heads: int | None = None, kv_heads: int | None = None) -> Rules:
        """These rules and what the command line adds; its heads win."""
        more = tuple(PairRule.parse(pair) for pair in pairs)
        kept = self if heads is None else dataclasses.replace(self, heads=heads, kv_heads=None)
        return dataclasses.replace(
            kept, kv_heads=kept.kv_heads if kv_heads is None else kv_heads, pairs=(*self.pairs, *more)
        )

    @staticmethod
    def check(rules: Any) -> None:
        """Refuse what are no rules, such as a file's name or text.

        Raises
        ------
        ValueError

        """
        if rules is not None and not isinstance(rules, Rules):
            raise ValueError(f"rules is {shown(rules)}; expected Rules(…), Rules.read(file) or None")

    def __bool__(self) -> bool:
        return self != Rules()

    def check_used(self, names: Iterable[str]) -> None:
        """Refuse globs of roles and storage that no name fits.

        Raises
        ------
        ValueError
            With the first of them.

        """
        known = list(names)
        for what, table in (("roles", self.roles), ("storage", self.storage)):
            for glob, _ in table:
                if not any(texts_of(glob, name) is not None for name in known):
                    raise ValueError(
                        f"{what}: no tensor fits {shown(glob)}; expected a name as flatcore inspect lists it"
                    )

    def role(self, name: str) -> str | None:
        """What the rules say that a tensor is; None where they say nothing."""
        return _last(self.roles, name)

    def in_out(self, name: str) -> bool | None:
        """Whether the rules say that a matrix is stored (in, out); None where they say nothing."""
        said = _last(self.storage, name)
        return None if said is None else said == "in_out"


def texts_of(glob: str, name: str) -> tuple[str, ...] | None:
    """What the stars of a glob stand for in a name, each the shortest text from the left; None where it does not fit.

    Examples
    --------
    >>> texts_of("h.*.w*", "h.3.w1"), texts_of("h.*.w", "h.3.v")
    (('3', '1'), None)

    """
    first, *pieces = glob.split("*")
    if not name.startswith(first):
        return None
    place, texts = len(first), []
    if not pieces:
        return () if name == first else None
    for piece in pieces[:-1]:
        found = name.find(piece, place) if piece else place
        if found < 0:
            return None
        texts.append(name[place:found])
        place = found + len(piece)
    end = len(name) - len(pieces[-1])
    if end < place or not name.endswith(pieces[-1]):
        return None
    return (*texts, name[place:end])


def _are_two_texts(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and all(isinstance(text, str) for text in entry)


def _filled(glob: str, texts: tuple[str, ...]) -> str:
    pieces = glob.split("*")
    return pieces[0] + "".join(text + piece for text, piece in zip(texts, pieces[1:], strict=True))


def _last(table: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((value for glob, value in reversed(table) if texts_of(glob, name) is not None), None)


def _table(what: str, value: Any, allowed: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}; expected a table of globs")
    for glob, entry in value.items():
        if entry not in allowed:
            raise ValueError(f"{what}: {shown(glob)} is {shown(entry)}; expected one of {', '.join(allowed)}")
    return tuple(value.items())
