"""A loaded pipeline that honours a condition's needs and makes images that depend on their own requests alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from factory.contracts import NEEDS
from factory.errors import UserError
from factory.generators import _abilities, _controls, _embed, _failures, _labels, _modes, _probe, _reference, _together, _windows
from factory.generators._arguments import guidance_name, guided, needs_prompt, negative_prompt, parameters, settled
from factory.generators._encode import PromptMemo, Split, pads_alike, pipelines_in
from factory.generators._load import Loaded, out_of_memory, place, quiet
from factory.generators._modes import Modes
from factory.generators._noise import fenced, generators
from factory.generators._outputs import images_of
from factory.generators._sizes import fit, fit_masks, own_size
from factory.images import from_output
from factory.records import Inputs

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers

log = logging.getLogger(__name__)


class OpenDiffusers:
    """The pipeline, the memo of its prompts, and the mode that the condition needs.

    alone: why images are made one per call, or None where batches are denoised together.
    bare: whether a call of one image is given its prompt and image as such and not in lists.
    """

    def __init__(self, kind: Diffusers, loaded: Loaded, device: str):
        self.kind, self.device = kind, device
        self.base, self.located = loaded.pipe, loaded.located
        self.memo = PromptMemo()
        self.alone: str | None = None
        self.bare = False
        self._modes = Modes(loaded.pipe)
        self._placed: Any = None
        self._noise_device = "cpu"
        self._apart = False
        self._largest = 0  # batch that the pipeline has made
        self._needs: frozenset[str] | None = None
        self._ids: list[int] | None = None
        self.can = _abilities.of_pipeline(self.base, self._modes, kind)
        self.accepts = frozenset(need for need in NEEDS if not self.can.why_not(need))

    def check(self, needs: frozenset[str], class_names: Sequence[str]) -> None:
        """Settle how this condition is honoured. Raises UserError when it cannot be, before any image is made."""
        for need in sorted(needs - self.accepts):
            raise UserError(
                f"generator: the condition needs {need}, but {self.can.why_not(need)}; it can take: {', '.join(sorted(self.accepts)) or 'nothing'}"
            )
        needs = self.can.by_embedding(needs)
        pipe = self._mode(needs)
        route = self._route(pipe) if "image_embedding" in needs else None
        target = route.target if route else pipe
        why = _together.why_not(pipe, target, needs, self.kind, embeds=route is not None)
        if why:
            raise UserError(f"generator: {why}")
        settings = settled(target, self.kind, resizes=bool(needs & {"image", "mask", "reference"})) | _controls.settings(target, self.kind)
        if "control" in needs:
            _controls.modes(target, self.kind)
        ids = _labels.match(self.base, class_names, self.kind.class_ids) if "class_label" in needs else None
        with quiet():
            if self._placed is not pipe:
                place(pipe, self.kind, self.device)
                self._placed = pipe
            self.memo.install(pipe)
        inside = "text" in needs and not self.memo.wrapped
        self._apart = inside and not any(pads_alike(type(one).__call__) for one in pipelines_in(pipe))
        if "reference" in needs:
            self.alone = self.alone or _reference.ALONE
        self._needs, self._pipe, self._embed, self._settings, self._ids = needs, target, route, settings, ids
        batched = self.kind.batch > 1 and self.kind.windows is None and self.alone is None
        if batched and needs & {"image", "mask", "control"} and not _modes.is_own(target) and self._mixes(needs):
            self._go_alone("the pipeline mixes the images of a batch")

    def _mixes(self, needs: frozenset[str]) -> bool:
        """Whether a short look, whatever comes of it, shows the images of one call in each other.

        At a small size, which shows it as well; at the recipe's own where the pipeline makes no other.
        """
        kind, settings, known = self.kind, self._settings, parameters(self._pipe)
        own = (kind.height and kind.width and (kind.height, kind.width)) or own_size(self._pipe)
        small = {} if own is not None and max(own) <= _probe.SIDE else {"height": _probe.SIDE, "width": _probe.SIDE}
        try:
            for sides in (small, {}) if small else ({},):
                self.kind = kind.model_copy(update=sides)
                wanted = {"num_inference_steps": _probe.STEPS, **sides}
                self._settings = settings | {name: value for name, value in wanted.items() if name in known}
                found = _probe.mixes(self, needs)
                if found is not None:
                    return found
            return False
        finally:
            self.kind, self._settings = kind, settings

    def _mode(self, needs: frozenset[str]) -> Any:
        if "mask" in needs:
            return self._modes.inpaint()
        return self._modes.image_to_image() if "image" in needs else self._modes.without_image()

    def generate(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        """One image per input, uint8 [H, W, 3]; image i depends on seeds[i] and inputs[i] (and the batch's shape) alone."""
        if self._needs is None:
            self.check(_needs_of(inputs), [])
        groups: dict[object, list[int]] = {}
        for index, one in enumerate(inputs):
            groups.setdefault(self._group(one), []).append(index)
        made: dict[int, np.ndarray] = {}
        for group in groups.values():
            images = self._make([seeds[index] for index in group], [inputs[index] for index in group])
            made.update(zip(group, images, strict=True))
        return [made[index] for index in range(len(inputs))]

    def _group(self, one: Inputs) -> object:
        """What images of one call share: scalar settings, how many tokens, the size where it is the initial image's own, and the prompt where
        it is encoded inside the call and padded to the longest of the batch."""
        tokens = len(one.images) if self._embed is not None and self._embed.several and one.tokens else 1
        needs = self._needs or frozenset()
        sized = (self.kind.height and self.kind.width) or own_size(self._pipe) is not None or not needs & {"image", "mask", "control"}
        sizes = None if sized else (one.images[0].shape if one.images else None, None if one.control is None else one.control.shape)
        return one.strength, one.guidance, one.adapter_scale, tokens, sizes, one.prompt if self._apart else None

    def describe(self) -> dict[str, Any]:
        """What made the images, as JSON values, for provenance."""
        import diffusers
        import torch

        folder = self.located.folder
        weights = sorted(path for suffix in ("*.safetensors", "*.bin") for path in folder.rglob(suffix))
        pipe = self._pipe if self._needs is not None else self.base
        name = guidance_name(pipe)
        return {
            "pipeline": type(pipe).__name__,
            "model": self.kind.model,
            "revision": self.kind.revision,
            "commit": self.located.commit,
            "scheduler": type(pipe.scheduler).__name__ if hasattr(pipe, "scheduler") else None,
            "dtype": str(getattr(pipe, "dtype", "")).removeprefix("torch."),
            "guidance": {name: self._settings.get(name, parameters(pipe)[name].default)} if name and self._needs is not None else {},
            "weights": {str(path.relative_to(folder)): path.stat().st_size for path in weights},
            "diffusers": diffusers.__version__,
            "torch": str(torch.__version__),
            "prompts_encoded_once": bool(self.memo.wrapped) and not self.memo.bypassed,
            "one_image_per_call": self.alone,
        }

    def _route(self, pipe: Any) -> _embed.EmbedRoute | None:
        return _embed.find(pipe, adapted=self.kind.ip_adapter is not None)

    def _make(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        """Denoise one batch, in as few calls as this pipeline allows without one image depending on another."""
        import torch

        if len(seeds) > 1 and self.alone is None and "generator" not in parameters(self._pipe):
            self._go_alone("the pipeline takes no generator")
        if len(seeds) > 1 and self.alone:
            return [image for seed, one in zip(seeds, inputs, strict=True) for image in self._make([seed], [one])]
        try:
            with quiet(), torch.no_grad(), _windows.over(self._pipe, self.kind), fenced(seeds, self.device) as draws:
                self.memo.batch = len(seeds)
                result = self._pipe(**self._arguments(seeds, inputs))
        except Split as split:
            covered = sorted(index for group in split.groups for index in group) == list(range(len(seeds)))
            groups = split.groups if covered else [[index] for index in range(len(seeds))]
            return self._in_groups(groups, seeds, inputs)
        except Exception as error:
            made = self._in_another_way(error, seeds, inputs)
            if made is not None:
                return made
            explained = _failures.explained(error, self._pipe, self._needs or frozenset(), len(seeds), self.device)
            if explained is None:
                raise
            raise explained from error
        self._largest = max(self._largest, len(seeds))
        if draws.used and len(seeds) > 1:  # its global noise would depend on who else is in the batch
            self._go_alone("the pipeline or its scheduler draws noise without a generator")
            return self._make(seeds, inputs)
        return self._images(result, len(seeds))

    def _in_groups(self, groups: list[list[int]], seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        made: dict[int, np.ndarray] = {}
        for group in groups:
            made.update(zip(group, self._make([seeds[index] for index in group], [inputs[index] for index in group]), strict=True))
        return [made[index] for index in range(len(seeds))]

    def _arguments(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> dict[str, Any]:
        """This batch's arguments beside the settled ones; what is a scalar of the call is the same for all of the batch (see _group)."""
        known, needs = parameters(self._pipe), self._needs or frozenset()
        noise = generators(seeds, self._noise_device)
        offered: dict[str, Any] = {
            "batch_size": len(seeds),
            "generator": noise[0] if self.alone else noise,
        }
        if needs_prompt(self._pipe) or any(one.prompt is not None for one in inputs):
            offered["prompt"] = [one.prompt or "" for one in inputs]
        negative = negative_prompt(self._pipe, self.kind)
        if negative is not None:
            offered["negative_prompt"] = [negative] * len(seeds)
        arguments = {name: value for name, value in offered.items() if name in known} | self._settings
        first = inputs[0]
        if first.guidance is not None:
            arguments[str(guidance_name(self._pipe))] = first.guidance
        if "class_label" in needs:
            arguments["class_labels"] = [self._class_id(one) for one in inputs]
        if needs & {"image", "mask"}:
            arguments["image"] = fit(self._pipe, [one.images[0] for one in inputs], self.kind.height, self.kind.width)
            if first.strength is not None and "strength" in known:
                arguments["strength"] = first.strength
        if "mask" in needs:
            arguments["mask_image"] = fit_masks([_mask(one) for one in inputs], arguments["image"][0].size)
        if "reference" in needs:
            arguments |= _reference.arguments(self._pipe, first.images[0], self.kind.height, self.kind.width)
        if "control" in needs:
            arguments |= self._control(inputs)
        if self._embed is not None:
            if "adapter_scale" in needs and self.kind.ip_adapter is not None:
                scale = first.adapter_scale
                self._pipe.set_ip_adapter_scale(self.kind.ip_adapter.scale if scale is None else scale)
            grids = _windows.grids(self._pipe, self.kind, inputs)
            arguments |= grids or self._embed.arguments(_embed.mix(self._embed, inputs), guided(self._pipe, arguments))
        if self.bare:
            arguments |= {name: value[0] for name, value in arguments.items() if name not in self._settings and _is_one(value)}
        return arguments

    def _control(self, inputs: Sequence[Inputs]) -> dict[str, Any]:
        """The control images, for each of several nets the same ones."""
        controls = [one.control for one in inputs if one.control is not None]
        if len(controls) != len(inputs):
            raise UserError("generator: the condition needs control, but a request has no control image")
        pictures = fit(self._pipe, controls, self.kind.height, self.kind.width)
        nets, modes = len(self.kind.controlnets), _controls.modes(self._pipe, self.kind)
        several = modes or (nets if nets > 1 else 0)
        return {str(_controls.argument(self._pipe)): _controls.for_each(pictures, several) if several else pictures}

    def _class_id(self, one: Inputs) -> int:
        if one.label is None or one.label < 0:
            raise UserError("generator: the condition needs class_label, but a request has no label; the source must be labelled")
        return self._ids[one.label] if self._ids else one.label

    def _go_alone(self, reason: str) -> None:
        self.alone = reason
        self._warn_alone()

    def _warn_alone(self) -> None:
        log.warning("%s: one image per call from now on, as %s", type(self._pipe).__name__, self.alone)

    def _in_another_way(self, error: Exception, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray] | None:
        """The images after all, where the first call fails over how it was made: noise, batches, lists. None where no other way works.

        What works is remembered. A way that has worked once is kept to, as floats depend on it.
        """
        if self._noise_device != self.device and "device type for generator" in str(error):
            self._noise_device = self.device
            return self._make(seeds, inputs)
        kept = self.alone, self.bare
        if self._largest >= min(len(seeds), 2) or out_of_memory(error) or not isinstance(error, _failures.OF_THE_CALL):
            return None
        listed = "generator" in str(error) or (len(seeds) == 1 and "'list' object" in str(error))
        if self.alone is None and (listed or len(seeds) > 1):  # the first batch may be of one image
            self.alone = "the pipeline refuses a list of generators" if listed else "the pipeline cannot make a batch"
        elif not self.bare and len(seeds) == 1:
            self.bare = True
        else:
            return None
        try:
            made = self._make(seeds, inputs)
        except Exception as second:
            self.alone, self.bare = kept
            if _failures.is_check(error) and not _failures.is_check(second.__cause__ or second):
                raise  # the arguments were right this time, so that this error says more
            return None
        if self.alone != kept[0]:
            self._warn_alone()
        return made

    def _images(self, result: Any, size: int) -> list[np.ndarray]:
        made = images_of(result)
        if made is None:
            raise UserError(
                f"generator.model: {type(self._pipe).__name__} makes {', '.join(vars(result)) or type(result).__name__}, not images; "
                "choose the pipeline that ends in images"
            )
        images = from_output(made)
        if len(images) != size:
            raise UserError(
                f"generator.model: {type(self._pipe).__name__} made {len(images)} images for {size} requests; "
                "choose a pipeline that makes one image of a prompt"
            )
        flags = sum(map(bool, getattr(result, "nsfw_content_detected", None) or []))
        if flags:
            log.warning("the model's safety checker blackened %d of %d images", flags, size)
        return images


def _is_one(value: Any) -> bool:
    """Whether an argument is a list of one text or picture."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | Image.Image)


def _mask(one: Inputs) -> np.ndarray:
    if one.mask is None:
        raise UserError("generator: the condition needs mask, but a request has no mask")
    return one.mask


def _needs_of(inputs: Sequence[Inputs]) -> frozenset[str]:
    """What inputs ask for, where nobody has said it: images with a strength are initial images, those to mix are embedded."""
    first = inputs[0]
    embeds = first.embedding is not None
    other = "image_embedding" if embeds or first.tokens or first.combine is not None else "reference"
    image = "mask" if first.mask is not None else "image" if first.strength is not None else other
    wanted = {image: bool(first.images) or embeds, "text": first.prompt is not None, "control": first.control is not None}
    return frozenset(need for need, asked in wanted.items() if asked)
