"""The tensors of a file that are the weights of a model, whatever prefixes their names have.

Names are compared from their ends: ``module.net.conv1.weight`` in a file and ``1.conv1.weight`` in a model share the
suffix ``conv1.weight``. One pair of prefixes, ``module.net.`` and ``1.``, has to fit all weights of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that `torch.compile`, FSDP and activation checkpointing add; no network has them itself."""

_MAX_DEPTH = 4
_NUM_ANCHORS = 3


class Match:
    """The tensors of a file that fit a model, under one pair of prefixes.

    Attributes:
        path: the dotted path of the tensors in the file, with their prefix.
        weights: name in the model -> tensor of the file, for all tensors of equal shape.
        missing: weights of the model that the file does not have.
        reshaped: weights of the model that have another shape in the file.
        unknown: names in the file, within the layers of the model, that the model does not have.
        left: other names in the file: criterion, counters, metrics.
        kept: constants of the model that the file does not have.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], path: str, prefix: str, own: str) -> None:
        self.path = ".".join(filter(None, (path, prefix.rstrip("."))))
        self._expected, self._tensors, optional = _expected(model), tensors, _optional(model)
        self._names = {name: prefix + name.removeprefix(own) for name in self._expected if name.startswith(own)}
        given = {name: tensors[other] for name, other in self._names.items() if other in tensors}
        self.weights = {name: each for name, each in given.items() if each.shape == self._expected[name].shape}
        shared = {id(self._expected[name]) for name in self.weights}  # one of several names of a parameter is enough
        absent = [name for name, each in self._expected.items() if id(each) not in shared]
        self.reshaped = [name for name in absent if name in given]
        self.missing = [name for name in absent if name not in given and name not in optional]
        self.kept = [name for name in absent if name not in given and name in optional and not name.endswith(_COUNTER)]
        rest = tensors.keys() - set(self._names.values())
        layers = {name.removeprefix(own).partition(".")[0] for name in self._names}
        buffers = {prefix + _plain(name).removeprefix(own) for name, _ in model.named_buffers()}
        self.unknown = sorted(name for name in rest - buffers if _is_layer(name, tensors[name], prefix, layers))
        self.left = sorted(rest - set(self.unknown))

    @property
    def fits(self) -> bool:
        """True if the file has every weight of the model, which has some, and no other weights of its layers."""
        return bool(self.weights) and not (self.missing or self.reshaped or self.unknown)

    @property
    def problems(self) -> str:
        """Reasons why the file does not fit."""
        found = [f"without {first_names(self.missing)}"] if self.missing else []
        foreign = self.unknown or ([] if self.weights else self.left)
        found += [f"with unknown {first_names(foreign)}"] if foreign else []
        for name in self.reshaped[:1]:
            shapes = [tuple(each.shape) for each in (self._tensors[self._names[name]], self._expected[name])]
            found.append(f"with {name} of shape {shapes[0]} instead of {shapes[1]}")
        return ", ".join(found)

    def same_weights(self, other: Match) -> bool:
        """Return True if both have the same values."""
        pairs = ((each, other.weights.get(name)) for name, each in self.weights.items())
        return all(each.is_meta or (second is not None and torch.equal(each, second)) for each, second in pairs)


_COUNTER = "num_batches_tracked"


def matches(model: nn.Module, content: object, *, all_prefixes: bool = False) -> list[Match]:
    """Match a model with every state dict in a file under every pair of prefixes; only the best matches are returned.

    These are the matches that fit, if there are some; otherwise those with the most weights of the model. The list is
    empty if the file has no state dict.

    Args:
        model: the model.
        content: nested mappings that contain the state dicts.
        all_prefixes: also try prefixes for names that fit as they are.
    """
    states, enough = list(_state_dicts(content)), len(list(model.parameters()))
    # The state of an optimizer has a mapping of a few tensors for each parameter.
    large = [each for each in states if len(each[1]) >= enough] or sorted(states, key=lambda each: -len(each[1]))[:1]
    found = [match for path, tensors in large for match in _matches(model, tensors, path, all_prefixes)]
    most = max((len(match.weights) for match in found), default=0)
    return [match for match in found if match.fits] or [match for match in found if len(match.weights) == most]


def rename(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that ``model.load_state_dict`` expects."""
    return {name: weights[_plain(name)] for name in model.state_dict() if _plain(name) in weights}


def first_names(names: Sequence[str]) -> str:
    """List some names, and the number of the others."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _state_dicts(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping of names to tensors in nested mappings, with its dotted path."""
    if not isinstance(content, Mapping):
        return
    tensors = {_plain(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors or not (content or path):
        yield ".".join(path), tensors
    for name, value in content.items():
        if isinstance(name, str) and len(path) < _MAX_DEPTH:
            yield from _state_dicts(value, (*path, name))


def _matches(model: nn.Module, tensors: Mapping[str, Tensor], path: str, all_prefixes: bool) -> list[Match]:
    """Match a model with one state dict; names that fit as they are need no prefixes."""
    expected = _expected(model)
    as_it_is = Match(model, tensors, path, "", "")
    if as_it_is.fits and not all_prefixes:
        return [as_it_is]
    shapes, own_shapes = ({name: each.shape for name, each in state.items()} for state in (tensors, expected))
    counts = {
        (prefix, own): sum(
            shapes.get(prefix + name.removeprefix(own)) == shape
            for name, shape in own_shapes.items()
            if name.startswith(own) and not name.endswith(_COUNTER)
        )
        for prefix, own in _prefixes(expected, tensors)
    }
    most = max(counts.values(), default=0)
    pairs = sorted(pair for pair, count in counts.items() if count == most > 0)
    return [as_it_is, *(Match(model, tensors, path, *pair) for pair in pairs)]


def _prefixes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> set[tuple[str, str]]:
    """List the pairs of prefixes (in the file, in the model) under which the deepest names of the model are found."""
    pairs = set()
    for anchor in sorted(expected, key=lambda name: (-name.count("."), name))[:_NUM_ANCHORS]:
        own = anchor.split(".")
        for name in tensors:
            other = name.split(".")
            ends = zip(reversed(own), reversed(other), strict=False)
            if length := sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends)):
                pairs.add((_joined(other[:-length]), _joined(own[:-length])))
    return pairs - {("", "")}


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"{part}." for part in parts)


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _expected(model: nn.Module) -> dict[str, Tensor]:
    """List the weights of a model by name; equal objects are the same parameter."""
    state = model.state_dict(keep_vars=True)
    return {_plain(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _optional(model: nn.Module) -> set[str]:
    """Name the buffers that a file need not have: counters, indices, and constants of layers without parameters."""
    found = set()
    for path, module in model.named_modules():
        is_constant = next(module.parameters(), None) is None and not hasattr(module, "running_mean")
        for name, buffer in module.named_buffers(path, recurse=False):
            if is_constant or not (buffer.is_floating_point() or buffer.is_complex()):
                found.add(_plain(name))
    return found


def _is_layer(name: str, tensor: Tensor, prefix: str, layers: set[str]) -> bool:
    """Return True if a tensor of the file belongs to a layer of the model, or to one more layer of a sequence."""
    first, _, rest = name.removeprefix(prefix).partition(".")
    is_weight = tensor.is_floating_point() or tensor.is_complex()
    return is_weight and name.startswith(prefix) and (first in layers or (first.isdigit() and bool(rest)))
