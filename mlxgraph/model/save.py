"""`model.save(folder)`: a model as an ordinary folder that `mlx_lm.load` reads.

In: a model of one of mlx-lm's architectures, without edits that stay.  Out: config.json, weights in
safetensors files, the tokenizer's files.  The folder appears whole or not at all.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxgraph.errors import SaveModelError
from mlxgraph.errors.tracebacks import of_files
from mlxgraph.mlx_facts.matrices import is_adapter

_BESIDE = ("generation_config.json", "*.py")  # what a folder holds that no object in memory does


@of_files
def save(
    self: Any, folder: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None
) -> None:
    """Write the model to a new folder, as `mlx_lm.load` and this class read it.

    Weights are written as they are, quantised ones in the mode, bits and groups that each has.

    Args:
        folder: where; it may be there already if it is empty.
        config: what config.json is to say; if left out, what the folder or hub snapshot says that
            the model was loaded from, or else the fields of the module's own `args`.
    Raises: SaveModelError (a ValueError) for a model that edits stay on (`model.fold()` makes them
        weights), one with adapters that are not fused, without a config, with a tokenizer that
        cannot be written, or for a folder that holds something; OSError as the system has it.

    Example:
        >>> model.edit(mg.directional_ablation(model, v)).fold(untie=True).save("ablated")
    """
    engine, target = self._engine, Path(os.path.expanduser(folder))
    if engine.is_edited:
        raise SaveModelError(
            "edits stay on this model, and a folder holds weights alone.\n  Write"
            " model.fold().save(folder), or model.without_edits().save(folder); graph.save(path)"
            " writes the edits."
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise SaveModelError(f"{target} is there already.\n  Give the path of a new folder.")
    if engine.runner.tree.is_spread:
        raise SaveModelError(
            "this rank has a part of the model, and the others have the rest.\n"
            "  Load the whole model in one process, and save that."
        )
    adapted = next((name for name, m in self.named_modules() if is_adapter(m)), None)
    if adapted is not None:
        raise SaveModelError(
            f"{adapted} is a {type(self[adapted].module).__name__}, which mlx-lm keeps beside a"
            " model.\n  Fuse the adapters first, as mlx_lm.fuse does."
        )
    tokenizer = engine.tokenizer
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise SaveModelError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no save_pretrained.\n"
            "  Wrap the model without it: mg.InterpretableModel(model.module).save(folder)."
        )
    source = _source(engine.origin)
    said = _config(self, source, config)
    _write(self, target, said, tokenizer, source)


def _source(origin: Mapping[str, Any]) -> Path | None:
    """The folder that a model was loaded from, as it is on this machine."""
    name = origin.get("name")
    if name is None:
        return None
    path = Path(os.path.expanduser(name))
    if not path.exists():
        from mlx_lm.utils import hf_repo_to_path  # it takes seconds to import

        path = Path(hf_repo_to_path(name))
    return path


def _config(model: Any, source: Path | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What config.json says: also of what was changed since, and of how weights are quantised."""
    origin = model._engine.origin
    if given is not None:
        found = copy.deepcopy(dict(given))
    elif source is not None:
        found = json.loads((source / "config.json").read_text())
        found |= origin.get("options", {}).get("model_config") or {}
    else:
        args = getattr(model.module, "args", None)
        found = dataclasses.asdict(args) if dataclasses.is_dataclass(args) else {}  # type: ignore[arg-type]
    if not isinstance(found.get("model_type"), str):
        raise SaveModelError(
            "it is not known what config.json should say: the model was not loaded from a folder,"
            f" and {type(model.module).__name__} has no args with a model_type.\n"
            "  Write model.save(folder, config={'model_type': ..., ...})."
        )
    _check_class(model.module, found, source is None and given is None)
    found |= origin.get("changed", {})
    found.pop("quantization_config", None)
    quantised = _quantised(model)
    if quantised:
        found["quantization"] = quantised
    else:
        found.pop("quantization", None)
    return found


def _check_class(module: Any, config: dict[str, Any], may_change: bool) -> None:
    """Have a config name the file of mlx-lm's that a module is of; another's args may name another.

    Raises: SaveModelError where it is the user's or a folder's, and mlx-lm would make another model
        of it.
    """
    kind = type(module)
    package, _, file = kind.__module__.rpartition(".")
    if package != "mlx_lm.models" or "model_file" in config:
        return
    made = _class_of(config)
    if may_change and made is not kind:
        config["model_type"], before = file, config["model_type"]
        made = _class_of(config)
        config["model_type"] = file if made is kind else before
    if made is not kind:
        raise SaveModelError(
            f"of model_type {config['model_type']!r} mlx-lm makes"
            f" {'nothing' if made is None else f'a {made.__module__}.{made.__name__}'}, and this is"
            f" a {kind.__module__}.{kind.__name__}.\n"
            f"  Write model.save(folder, config={{'model_type': {file!r}, ...}})."
        )


def _class_of(config: Mapping[str, Any]) -> type | None:
    """What mlx-lm makes a model of that a config describes; None where it does not know it."""
    from mlx_lm.utils import load_model

    classes = inspect.signature(load_model).parameters["get_model_classes"].default
    try:
        return classes(config=dict(config))[0]  # type: ignore[no-any-return]
    except ValueError:
        return None


def _quantised(model: Any) -> dict[str, Any]:
    """How each module is quantised: what most have, and the others by path, as mlx-lm reads it."""
    found = {
        name: {
            "group_size": module.group_size,
            "bits": module.bits,
            "mode": getattr(module, "mode", "affine"),
        }
        for name, module in _by_path(model.module)
        if "scales" in module and hasattr(module, "bits")
    }
    if not found:
        return {}
    ways = [*found.values()]
    most = max(ways, key=ways.count)
    return {**most, **{name: way for name, way in found.items() if way != most}}


def _by_path(root: Any) -> list[tuple[str, Any]]:
    return [(str(name), module) for name, module in root.named_modules()]


def _write(
    model: Any, target: Path, config: dict[str, Any], tokenizer: Any, source: Path | None
) -> None:
    from mlx_lm.utils import save_config, save_model

    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_model(made, model.module)
        save_config(config, made / "config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(str(made))
        for pattern in _BESIDE if source is not None else ():
            for file in source.glob(pattern):  # type: ignore[union-attr]
                shutil.copy(file, made)
        made.chmod(0o777 & ~_umask())
        if target.exists():
            target.rmdir()
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _umask() -> int:
    """What a new folder may not allow; a temporary one allows nobody else anything."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
