"""What a pipeline makes, as the source of its call says: diffusers has pipelines for video, sound, depth, text and embeddings too."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any

from factory.generators._encode import own_nodes

IMAGES = ("images", "image")
FRAMES = "frames"


def other_than_images(pipe: Any, stills: bool = False) -> str:
    """The names of what a pipeline (or class) returns where none is images; empty for images, and where the source does not say.

    stills: it is asked for videos of one frame, which are images.
    """
    call = inspect.unwrap((pipe if isinstance(pipe, type) else type(pipe)).__call__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(call)))
    except (OSError, TypeError, SyntaxError):
        return ""
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef)), None)
    returned = [node.value for node in own_nodes(function) if isinstance(node, ast.Return)] if function else []
    names = [node.func.id for node in returned if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    found = [kind for name in names if is_dataclass(kind := getattr(call, "__globals__", {}).get(name))]
    made = [[one.name for one in fields(kind)] for kind in found]
    if not made or any({*IMAGES, *([FRAMES] if stills else [])} & set(names) for names in made):
        return ""
    return ", ".join(made[-1])


def images_of(result: Any) -> Any:
    """The images in a call's result, in whatever form, or None where it has none; the frames of videos that have one each are images."""
    found = next((getattr(result, name) for name in IMAGES if getattr(result, name, None) is not None), None)
    videos = getattr(result, FRAMES, None)
    if found is None and videos is not None and all(len(video) == 1 for video in videos):
        return [video[0] for video in videos]
    return found
