"""Each unique prompt goes through the text encoders once, alone, by the pipeline's own `encode_prompt`.

The pipeline is called with prompts, as anybody would call it. Its `encode_prompt` is wrapped on the instance: the wrapper
sees the very arguments that this pipeline passes in this mode, takes them apart into batches of one, and remembers each
result. So an embedding never depends on the other prompts of a batch, and no family's arguments have to be known here.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_PLAIN = (str, int, float, bool, type(None))


class Split(Exception):
    """Encodings of different shapes cannot be one batch. groups: positions in the batch that can go together."""

    def __init__(self, groups: list[list[int]]):
        self.groups = groups
        super().__init__(f"{len(groups)} groups")


class _Kept(NamedTuple):
    tensor: Any
    device: Any


class PromptMemo:
    """Remembers encodings in host memory, least recently used first out. limit: bytes.

    batch: the images of the call that is under way, 0 where that is not known.
    wrapped: whose encode_prompt goes through the memo; empty where a pipeline has no such method.
    bypassed: why calls went to the pipeline unremembered.
    """

    def __init__(self, limit: int = 1 << 30):
        self.limit = limit
        self.batch = 0
        self.wrapped: list[str] = []
        self.bypassed: set[str] = set()
        self._held: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._size = 0

    def install(self, pipe: Any) -> None:
        """Wrap `encode_prompt` of a pipeline and of the pipelines that it is combined of."""
        for owner in pipelines_in(pipe):
            method = getattr(owner, "encode_prompt", None)
            if callable(method) and not hasattr(method, "memo"):
                wrapper = self._wrap(method)
                wrapper.memo = self  # type: ignore[attr-defined]
                owner.encode_prompt = wrapper
                self.wrapped.append(type(owner).__name__)

    def _wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(method)
        names = return_names(method)
        loose = {
            name for name, parameter in signature.parameters.items() if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        owner = getattr(method, "__qualname__", repr(method))
        fixed = pads_alike(method)

        @functools.wraps(method)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            extra = any(bound.arguments[name] for name in loose)
            items = (
                "passes arguments that its encode_prompt does not name"
                if extra
                else _take_apart({k: v for k, v in bound.arguments.items() if k not in loose})
            )
            if isinstance(items, str):
                self.bypassed.add(items)
                groups = _same(bound.arguments.get("prompt"))
                if len(groups) > 1 and not fixed and self.batch != 1:
                    raise Split(groups)
                return method(*args, **kwargs)
            try:
                return _stack([self._once(owner, method, names, values) for values in items], names)
            except Split:
                if self.batch != 1:
                    raise
                self.bypassed.add("encodes several texts for one image")  # its prompt and its negative prompt, of different lengths
                return method(*args, **kwargs)

        return encode_prompt

    def _once(self, owner: str, method: Callable[..., Any], names: list[str | None], values: dict[str, Any]) -> Any:
        key = f"{owner} {values!r}"
        known = self._get(key)
        if known is None:
            known = self._encode(owner, method, names, values)
            self._put(key, known)
        return known

    def _encode(self, owner: str, method: Callable[..., Any], names: list[str | None], values: dict[str, Any]) -> Any:
        """Encode one prompt, handing in the negative prompt's encoding when it is known from an earlier prompt."""
        negatives = [name for name in names if name and name.startswith("negative_")]
        reusable = bool(negatives) and all(name in values and values[name] is None for name in negatives)
        key = f"{owner} negative { ({name: value for name, value in values.items() if not name.startswith('prompt')})!r}"
        known = self._get(key) if reusable else None
        if known is not None:
            shapes, encoded = known
            result = method(**{**values, **dict(zip(negatives, encoded, strict=True))})
            if _shapes(_positives(result, names)) == shapes:  # some pipelines cut the negative to the prompt's length
                return result
        result = method(**values)
        if reusable:
            encoded = [part for part, name in zip(result, names, strict=True) if name in negatives]
            if all(part is not None and len(part) for part in encoded):
                self._put(key, (_shapes(_positives(result, names)), encoded))
        return result

    def _get(self, key: str) -> Any:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return _map(lambda kept: kept.tensor.to(kept.device), self._held[key][0], _Kept)

    def _put(self, key: str, value: Any) -> None:
        import torch

        sizes: list[int] = []

        def keep(tensor: Any) -> _Kept:
            sizes.append(tensor.nbytes)
            return _Kept(tensor.detach().cpu(), tensor.device)

        held = _map(keep, value, torch.Tensor)
        self._size += sum(sizes) - (self._held.pop(key)[1] if key in self._held else 0)
        self._held[key] = (held, sum(sizes))
        while self._size > self.limit and len(self._held) > 1:
            self._size -= self._held.popitem(last=False)[1][1]


def pipelines_in(pipe: Any) -> list[Any]:
    """A pipeline and those that it is combined of."""
    from diffusers import DiffusionPipeline

    return [pipe, *(part for part in vars(pipe).values() if isinstance(part, DiffusionPipeline))]


def pads_alike(method: Any) -> bool:
    """Whether the module of a pipeline's method pads every text to one length, so that a text's encoding does not depend on the others' length."""
    try:
        source = inspect.getsource(sys.modules[inspect.unwrap(method).__module__])
    except (OSError, TypeError, KeyError):
        return False
    found = set(re.findall(r"""padding\s*=\s*["']?(\w+)""", source))
    return "max_length" in found and not found & {"longest", "True"}


def return_names(method: Callable[..., Any]) -> list[str | None]:
    """The names in a function's return statement, None for what is no plain name; [] where the source says nothing."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
    except (OSError, TypeError, SyntaxError):
        return []
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef)), None)
    values = [node.value for node in own_nodes(function) if isinstance(node, ast.Return) and node.value is not None] if function else []
    if not values:
        return []
    last = values[-1]
    return [_name(element) for element in (last.elts if isinstance(last, ast.Tuple) else [last])]


def own_nodes(function: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of a function in the order of the source, without those of functions defined inside it."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))
    return nodes


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.IfExp):
        return _name(node.body)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # prompt_embeds.to(device)
        return _name(node.func.value)
    return None


def _take_apart(values: dict[str, Any]) -> list[dict[str, Any]] | str:
    """The arguments of a batch -> those of batches of one, or the reason why it cannot be done."""
    name = "prompt" if "prompt" in values else "prompts"
    prompts = values.get(name)
    if prompts is None:
        return "no prompt"
    odd = next((key for key, value in values.items() if not _is_plain(value)), None)
    if odd is not None:
        return f"encodes {odd} with the prompt"
    if isinstance(prompts, str):
        return [values]
    items = []
    for index in range(len(prompts)):
        item = dict(values)
        for key, value in values.items():
            if "prompt" in key and isinstance(value, list | tuple) and len(value) == len(prompts):
                item[key] = [value[index]]
        if isinstance(values.get("batch_size"), int):
            item["batch_size"] = 1
        items.append(item)
    return items


def _same(prompts: Any) -> list[list[int]]:
    """The places of each distinct prompt in a batch."""
    places: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts if isinstance(prompts, list) else []):
        places.setdefault(repr(prompt), []).append(index)
    return list(places.values())


def _is_plain(value: Any) -> bool:
    import torch

    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (*_PLAIN, torch.device, torch.dtype))


def _stack(parts: Sequence[Any], names: Sequence[str | None]) -> Any:
    """Results for one prompt each -> the result for their batch. Raises Split when their shapes differ."""
    if len(parts) == 1:
        return parts[0]
    shared = {position for position, name in enumerate(names) if name and name.endswith("_ids")}
    groups: dict[str, list[int]] = {}
    for index, part in enumerate(parts):
        alone = not _has_batch_axis(part, shared)
        groups.setdefault(f"{index if alone else ''} {_shapes(part)}", []).append(index)
    if len(groups) > 1:
        raise Split(list(groups.values()))
    if isinstance(parts[0], tuple):
        return tuple(_join(column, position in shared) for position, column in enumerate(zip(*parts, strict=True)))
    return _join(parts, False)


def _has_batch_axis(part: Any, shared: set[int]) -> bool:
    """Whether every tensor of one prompt's result has a first axis of length one, or (like position ids) belongs to no prompt."""
    if isinstance(part, tuple):
        return all(_has_batch_axis(item, {0} if position in shared else set()) for position, item in enumerate(part))
    if isinstance(part, list):
        return len(part) <= 1
    return part is None or (hasattr(part, "shape") and (part.shape[0] == 1 or (0 in shared and part.ndim == 2)))


def _join(column: Sequence[Any], shared: bool) -> Any:
    import torch

    first = column[0]
    if first is None:
        return None
    if isinstance(first, list):
        return [item for part in column for item in part]
    return first if shared and first.ndim == 2 and first.shape[0] != 1 else torch.cat(list(column))


def _positives(result: Any, names: Sequence[str | None]) -> tuple[Any, ...]:
    return tuple(part for part, name in zip(result, names, strict=True) if not (name and name.startswith("negative_")))


def _shapes(value: Any) -> str:
    """The shapes in a nested result. Tensors inside lists stay apart in the batch, so that theirs do not count."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shapes, value))})"
    if isinstance(value, list):
        return f"list of {len(value)}"
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__


def _map(change: Callable[[Any], Any], value: Any, leaf: type) -> Any:
    if isinstance(value, leaf):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(change, item, leaf) for item in value)
    return value
