"""How a torch module is built, as JSON: a recipe that another process can follow without unpickling anything.

A module keeps no record of the arguments it was made with, but nearly always stores them under their own names
(`nn.Linear(64, 10)` has `in_features == 64`), so `describe` reads them back by the signature of `__init__`. It
may guess wrong; who calls it builds the module again and compares. The grammar::

    node   = {"class": "torch.nn.modules.linear:Linear", "arguments": {"in_features": 64, ...}}
           | {"class": "torch.nn.modules.container:Sequential", "children": {"0": node, ...}}
    value  = null | true | 64 | 0.5 | "same" | [value, ...] | node
           | {"tuple": [value, ...]} | {"dict": {"key": value, ...}} | {"float": "inf"} | {"dtype": "float32"}
           | {"function": "torch.nn.functional:relu"} | {"type": "torch.nn.modules.activation:ReLU"}
           | {"dataclass": "my_module:Config", "fields": {"width": value, ...}}

`build` calls subclasses of `torch.nn.Module` and dataclasses, and nothing else, whatever the JSON says.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from numbers import Integral, Real
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class RecipeError(Exception):
    """Nothing can be built; the message is one line that says why, and the cure where there is one."""


def reason(error: BaseException) -> str:
    """Why, in one line: the first of the innermost cause's message."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return line if isinstance(error, RecipeError) else f"{type(error).__name__}: {line}"


def describe(module: torch.nn.Module, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The recipe of `module`. `arguments` are those of its own constructor that it does not keep.

    Raises:
        RecipeError: a class cannot be imported, or a constructor argument is not to be found.
    """
    from torch import nn

    for container in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        if isinstance(module, container) and type(module).__init__ is container.__init__:
            # `_modules`, because `named_children` leaves out a module that comes a second time.
            children = {name: describe(child) for name, child in module._modules.items() if child is not None}
            return {"class": _address(type(module)), "children": children}
    found = _constructor_arguments(module, arguments or {})
    return {"class": _address(type(module)), "arguments": found}


def build(recipe: Mapping[str, Any]) -> torch.nn.Module:
    """A new module with the weights that its constructor gives it. The inverse of `describe`.

    Raises:
        RecipeError: the JSON is no recipe, or names a class that cannot be imported here.
        Exception: whatever a constructor raises.
    """
    from torch import nn

    module = _decode(recipe)
    if not isinstance(module, nn.Module):
        raise RecipeError("the recipe does not begin with a torch.nn.Module")
    return module


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of `cls(...)` by name, in order, without `self`."""
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # type: ignore[misc]


def encode(value: Any) -> Any:
    """`value` in the grammar above. Raises `RecipeError` for what it has no word for."""
    import torch

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item) for key, item in value.items()}}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.nn.Module):
        return describe(value)
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return {"type": _address(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"dataclass": _address(type(value)), "fields": kept}
    if isinstance(value, BuiltinFunctionType | FunctionType):
        for home in ("torch.nn.functional", "torch"):
            address = f"{home}:{value.__name__}"
            if _ADDRESS.fullmatch(address) and _torch_function(address) is value:
                return {"function": address}
    raise RecipeError(f"a {type(value).__name__} cannot be written as JSON")


def _decode(value: Any) -> Any:
    import torch

    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_decode(item) for item in value]
        case {"class": str(address), "children": dict(children)}:
            return _container(_module_class(address), {name: _decode(child) for name, child in children.items()})
        case {"class": str(address), "arguments": dict(arguments)}:
            return _module_class(address)(**{name: _decode(item) for name, item in arguments.items()})
        case {"tuple": list(items)}:
            return tuple(_decode(item) for item in items)
        case {"dict": dict(items)}:
            return {key: _decode(item) for key, item in items.items()}
        case {"float": "inf" | "-inf" | "nan" as text}:
            return float(text)
        case {"dtype": str(name)} if isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        case {"type": str(address)}:
            return _module_class(address)
        case {"function": str(address)} if (function := _torch_function(address)) is not None:
            return function
        case {"dataclass": str(address), "fields": dict(kept)}:
            cls = _import(address)
            if isinstance(cls, type) and dataclasses.is_dataclass(cls):
                return cls(**{name: _decode(item) for name, item in kept.items()})
    raise RecipeError(f"the recipe holds {str(value)[:80]!r}, which means nothing")


def _constructor_arguments(module: torch.nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    cls = type(module)
    found = {name: encode(value) for name, value in {**_kept_elsewhere(module), **given}.items()}
    for name, parameter in constructor_parameters(cls).items():
        if name in found or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        if hasattr(module, name):
            try:
                found[name] = encode(_as_passed(getattr(module, name), parameter))
            except RecipeError as error:
                if required:
                    raise RecipeError(f"{cls.__qualname__}.{name}: {error}") from None
        elif required:
            raise RecipeError(
                f"{cls.__qualname__} does not keep its argument {name!r}: set self.{name} in __init__, "
                f"or name it in save_model(..., arguments={{{name!r}: ...}}) if it is the model's own"
            )
    return found


def _as_passed(value: Any, parameter: inspect.Parameter) -> Any:
    """What the constructor was given, from what it made of it: `bias=True` from a tensor, a rate from a Dropout."""
    import torch

    is_switch = isinstance(parameter.default, bool) or parameter.annotation in (bool, "bool")
    if is_switch and (value is None or isinstance(value, torch.Tensor)):
        return value is not None
    if isinstance(value, torch.nn.modules.dropout._DropoutNd) and "Dropout" not in str(parameter.annotation):
        return value.p
    return value


def _kept_elsewhere(module: torch.nn.Module) -> dict[str, Any]:
    """Arguments of torch's own modules that they keep under another name, or whose signature says only `*args`."""
    from torch import nn

    # A subclass with its own constructor has its own arguments.
    if not type(module).__init__.__module__.startswith("torch.nn."):
        return {}
    if isinstance(module, nn.RNNBase):
        names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        names += ["nonlinearity"] * isinstance(module, nn.RNN) + ["proj_size"] * isinstance(module, nn.LSTM)
        return {name: getattr(module, name) for name in names}
    if isinstance(module, nn.MultiheadAttention):
        return {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return {
            "d_model": module.self_attn.embed_dim,
            "nhead": module.self_attn.num_heads,
            "dim_feedforward": module.linear1.out_features,
            "dropout": module.dropout.p,
            "layer_norm_eps": module.norm1.eps,
            "batch_first": module.self_attn.batch_first,
            "bias": module.linear1.bias is not None,
        }
    if isinstance(module, nn.TransformerEncoder):
        return {"encoder_layer": module.layers[0]}
    if isinstance(module, nn.TransformerDecoder):
        return {"decoder_layer": module.layers[0]}
    return {}


def _container(cls: type[torch.nn.Module], children: dict[str, torch.nn.Module]) -> torch.nn.Module:
    from torch import nn

    if issubclass(cls, nn.Sequential):
        return cls(OrderedDict(children))
    if issubclass(cls, nn.ModuleList):
        return cls(list(children.values()))
    if issubclass(cls, nn.ModuleDict):
        return cls(children)
    raise RecipeError(f"{cls.__qualname__} is no container of modules")


def _address(cls: type) -> str:
    """`module:qualname`, sure to lead back to `cls` in another process that can import the module."""
    address = f"{cls.__module__}:{cls.__qualname__}"
    if cls.__module__ == "__main__":
        raise RecipeError(
            f"{cls.__qualname__} is defined in a script or notebook: move it to a module to import it from"
        )
    if not _ADDRESS.fullmatch(address) or _import(address) is not cls:
        raise RecipeError(f"{cls.__qualname__} is not importable from {cls.__module__}: define it at module level")
    return address


def _module_class(address: str) -> type[torch.nn.Module]:
    from torch import nn

    cls = _import(address)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise RecipeError(f"{address} is no torch.nn.Module")
    return cls


def _import(address: str) -> Any:
    if not _ADDRESS.fullmatch(address):
        raise RecipeError(f"{address[:80]!r} is not of the form module:name")
    module_name, _, names = address.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for name in names.split("."):
            found = getattr(found, name)
    except Exception as error:  # the module is the user's: its top level may raise anything
        cure = f"make the module {module_name!r} importable (PYTHONPATH)"
        raise RecipeError(f"{address} cannot be imported ({error}): {cure}") from None
    return found


def _torch_function(address: str) -> Any | None:
    """A function on tensors. Of `torch` itself only built-in ones, so that torch.load and the like are out."""
    import torch

    home, _, name = address.partition(":")
    kinds = {"torch": BuiltinFunctionType, "torch.nn.functional": BuiltinFunctionType | FunctionType}
    if home not in kinds:
        return None
    function = getattr(torch.nn.functional if home == "torch.nn.functional" else torch, name, None)
    is_torch = str(getattr(function, "__module__", None)).startswith("torch")
    return function if is_torch and isinstance(function, kinds[home]) else None
