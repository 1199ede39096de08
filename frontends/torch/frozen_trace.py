"""A trace of one run of a module, in which all that does not depend on the inputs is a constant.

torch.export runs a module on tensors without values. What needs values fails there: numpy on parameters, an ``if`` on a
buffer, weights that the forward computes and assigns to ``.data``. Here the module runs on real tensors. Each operation
of aten that reads memory which the inputs reach is recorded; all others just happen, and their results are constants.

Whether a tensor depends on the inputs is a property of its *memory*: views, ``.data`` and assignments in place make
many tensors of the same memory, some without an operation that could be seen. Tensors of the same memory, shape,
strides and offset are one value of the trace.

A decision by a value that depends on the inputs would be frozen too, and be wrong for other inputs. It is refused,
unless the ranges of the operations before it decide it for every input (value_ranges.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sbnn_tvm.errors import ModelError

from .compare_export import hookable_modules
from .user_code import running_place
from .value_ranges import ValueRanges

aten = torch.ops.aten

_SMALL = 4096  # elements; larger constants of a single number are made where they are read


def frozen_trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """A module of aten operations that computes what ``model`` computes from these inputs, and others of their shapes.

    Args:
        model: In eval mode. Its forward runs once, and may change the model.
        inputs: float32 tensors with any values.

    Returns:
        The graph, which returns the model's tensors in order, for torch.export. Its constants are buffers; one that is
        a parameter or buffer of the model has its name. Its nodes say which modules they come from.

    Raises:
        ModelError: If the model decides something by values that depend on the inputs; names module, file and line.
    """
    recorder = _Recorder(model)
    inputs = tuple(tensor.clone() for tensor in inputs)  # a forward may change them in place
    for index, tensor in enumerate(inputs):
        recorder.add_input(f"input_{index}", tensor)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # the exporter does not know its operators
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # as are flash attention's
        stack.enter_context(recorder.scopes())
        stack.enter_context(_ValuesLeaveTorch(recorder))
        stack.enter_context(recorder)
        returned = model(*inputs)
    return recorder.finish([leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)])


def check_frozen(model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a trace that computes something else than its model for other inputs, or in later calls.

    Args:
        model: In eval mode. It may be changed.
        graph: Its trace.
        inputs: What it was traced with.

    Raises:
        ModelError: If they differ.
    """
    rng = torch.Generator().manual_seed(1)

    def others(scale: float) -> tuple[Tensor, ...]:
        return tuple(
            (torch.randn(tensor.shape, generator=rng) * scale).to(tensor) if tensor.is_floating_point() else tensor
            for tensor in inputs
        )

    with torch.no_grad():
        for candidate in (inputs, others(0.5), others(3.0), inputs):
            want = tree_leaves(model(*(tensor.clone() for tensor in candidate)))
            got = graph(*(tensor.clone() for tensor in candidate))
            want = [leaf for leaf in want if isinstance(leaf, Tensor)]
            if len(want) != len(got) or not all(_close(a, b) for a, b in zip(want, got, strict=True)):
                raise ModelError(
                    "the model computes something else in its second call, or for another input, than a trace of its "
                    "first one: its forward must not draw random numbers, change what its next call computes, nor "
                    "depend on values of its input other than by operations of torch"
                )


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.numel():
        return True
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()), equal_nan=True)


class _Place(NamedTuple):
    """Where in memory a tensor is, and how it is read there."""

    memory: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Place:
        memory = tensor.untyped_storage()._cdata
        return cls(memory, tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))


@dataclass(frozen=True, eq=False)
class _View:
    """How a view of memory that holds constants was made."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Constant:
    """A value that a constant had when an operation read it."""

    name: str
    value: Tensor


@dataclass
class _Memory:
    """Memory that has been seen.

    Attributes:
        reference: Keeps the address from being used again, not the memory.
        reached: Whether it holds values that depend on the inputs.
        nodes: The recorded values in it.
        views: How views of it were made while it held constants.
    """

    reference: StorageWeakRef
    reached: bool = False
    nodes: dict[_Place, fx.Node] = field(default_factory=dict)
    views: dict[_Place, _View] = field(default_factory=dict)


class _Recorder(TorchDispatchMode):
    """Records the operations that the inputs reach."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._memories: dict[int, _Memory] = {}
        self._constants: dict[_Place, list[_Constant]] = {}
        self._names: dict[_Place, str] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            self._memory(tensor)
            self._names[_Place.of(tensor)] = name
        self._taken: set[str] = set()
        self._scope: list[tuple[str, tuple[str, type]]] = []
        self._ranges = ValueRanges()

    def add_input(self, name: str, tensor: Tensor) -> None:
        """An input of the trace."""
        node = self._graph.placeholder(name)
        # The caller's tensor stays as it is where the model changes its input in place.
        self._put(tensor, self._call(aten.clone.default, (node,), {}))

    def finish(self, outputs: Sequence[Tensor]) -> fx.GraphModule:
        """The trace, with these outputs."""
        self._graph.output(tuple(self._read(tensor) for tensor in outputs))
        return fx.GraphModule(self._root, self._graph)

    def depends_on_inputs(self, tensor: Tensor) -> bool:
        return self._memory(tensor).reached

    def refuse(self, what: str, instead: str) -> ModelError:
        """The error for something that depends on the values of the inputs."""
        place = running_place(self._model)
        return ModelError(f"the model {what}" + (f", {place}" if place else "") + f"; {instead}")

    @contextmanager
    def scopes(self) -> Iterator[None]:
        """While this context is open, the recorder knows which module runs."""
        calls: dict[str, int] = {}

        def enter(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, _: Any) -> None:
                number = calls[path] = calls.get(path, -1) + 1
                self._scope.append((path + (f"@{number}" if number else ""), (path, type(module))))

            return hook

        def leave(*_: Any) -> None:
            self._scope.pop()

        handles = []
        for path, module in hookable_modules(self._model):
            handles.append(module.register_forward_pre_hook(enter(path), prepend=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(self.depends_on_inputs(tensor) for tensor in read) and func.namespace != "onnx_symbolic":
            result = func(*args, **kwargs)
            self._note_view(func, args, kwargs, read, result)
            return result
        if torch.Tag.data_dependent_output in func.tags or func is aten._local_scalar_dense.default:
            return self._decided(func, args, kwargs)
        if torch.Tag.dynamic_output_shape in func.tags and _selects(func, args):
            raise self.refuse(
                "selects elements by values that depend on its input",
                "their number must be known: write torch.where(mask, a, b) in place of a[mask]",
            )
        written = _written(func, args, kwargs)
        for tensor in written:
            self._reach(tensor)
        nodes = tree_map_only(Tensor, self._read, (args, kwargs))
        result = func(*args, **kwargs)
        if func is aten._convolution.default:  # in TorchScript that was traced; the exporter does not know it
            func, nodes = aten.convolution.default, (nodes[0][:9], {})
        node = self._call(func, *nodes)
        for tensor in written:
            self._ranges.forget(each for each in self._memory(tensor).nodes.values() if each is not node)
        if isinstance(result, Tensor):
            self._put(result, node)
        else:
            for index, each in enumerate(result if isinstance(result, tuple | list) else ()):
                if isinstance(each, Tensor):
                    self._put(each, self._call(operator.getitem, (node, index), {}))
        return result

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.Node:
        node = self._graph.call_function(func, args, dict(kwargs))
        if self._scope:
            node.meta["nn_module_stack"] = dict(self._scope)
        self._ranges.add(node)
        return node

    def _decided(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value of a tensor for the user's Python code, if it is the same for every input."""
        result = func(*args, **kwargs)
        node = self._read(args[0]) if isinstance(args[0], Tensor) else None
        if node is not None and func is aten._local_scalar_dense.default and self._ranges.always(node, result):
            return result
        raise self.refuse(
            "decides by a value that depends on its input, or makes a Python number of it",
            "write it with operations of torch, such as torch.where(condition, a, b)",
        )

    def _memory(self, tensor: Tensor) -> _Memory:
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None:
            memory = self._memories[storage._cdata] = _Memory(StorageWeakRef(storage))
        return memory

    def _put(self, tensor: Tensor, node: fx.Node) -> None:
        memory = self._memory(tensor)
        memory.reached = True
        memory.nodes[_Place.of(tensor)] = node

    def _read(self, tensor: Tensor) -> fx.Node:
        """The value of a tensor in the trace."""
        memory = self._memory(tensor)
        if not memory.reached:
            return self._constant(tensor)
        place = _Place.of(tensor)
        if place not in memory.nodes:
            if place not in memory.views:
                raise self.refuse("reads a part of a tensor in a way that cannot be followed", "read it by an index")
            view = memory.views[place]
            memory.nodes[place] = self._call(view.func, *tree_map_only(Tensor, self._read, (view.args, view.kwargs)))
        return memory.nodes[place]

    def _reach(self, tensor: Tensor) -> None:
        """Something that depends on the inputs is about to be written to this tensor."""
        memory = self._memory(tensor)
        if memory.reached:
            return
        whole = tensor
        while (view := memory.views.get(_Place.of(whole))) is not None:
            whole = next(
                leaf
                for leaf in tree_leaves((view.args, view.kwargs))
                if isinstance(leaf, Tensor) and self._memory(leaf) is memory
            )
        constant = self._constant(whole)
        self._put(whole, self._call(aten.clone.default, (constant,), {}))

    def _note_view(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], read: Sequence[Tensor], result: Any
    ) -> None:
        sources = {_Place.of(tensor) for tensor in read}
        for index, each in enumerate(result if isinstance(result, tuple | list) else (result,)):
            if not isinstance(each, Tensor):
                continue
            place, memory = _Place.of(each), self._memory(each)
            if place in sources or place in memory.views or place.memory not in {each.memory for each in sources}:
                continue
            if isinstance(result, tuple | list):
                memory.views[place] = _View(_item_of(func, index), args, kwargs)
            else:
                memory.views[place] = _View(func, args, kwargs)

    def _constant(self, tensor: Tensor) -> fx.Node:
        """A constant of the trace with the value that the tensor has now."""
        place = _Place.of(tensor)
        known = self._constants.setdefault(place, [])
        for constant in known:
            if _same(constant.value, tensor):
                return self._graph.get_attr(constant.name)
        value = tensor.detach().clone()
        uniform = tensor.numel() > _SMALL and bool((tensor == tensor.flatten()[0]).all())
        if uniform and place not in self._names:
            filled = (list(tensor.shape), tensor.flatten()[0].item())
            return self._call(aten.full.default, filled, {"dtype": tensor.dtype, "device": tensor.device})
        path = self._scope[-1][1][0] if self._scope else ""
        name = self._unused(self._names.get(place) or f"{path}.constant".lstrip("."))
        known.append(_Constant(name, value))
        owner = self._root
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.register_buffer(leaf, value)
        return self._graph.get_attr(name)

    def _unused(self, name: str) -> str:
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate)
        return candidate


class _ValuesLeaveTorch(TorchFunctionMode):
    """Refuses to give values that depend on the inputs to numpy and to Python."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__dlpack__) and args:
            tensor = args[0]
            if isinstance(tensor, Tensor) and self._recorder.depends_on_inputs(tensor):
                raise self._recorder.refuse(
                    "gives values that depend on its input to numpy or Python", "compute with operations of torch"
                )
        return func(*args, **(kwargs or {}))


def _selects(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the shape of the result really depends on values: an index of integers gives a known one."""
    if func is not aten.index.Tensor:
        return True
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes to."""
    found = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[index] if index < len(args) else None)
            found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def _item_of(func: Callable[..., Any], index: int) -> Callable[..., Any]:
    def item(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)[index]

    return item


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())
