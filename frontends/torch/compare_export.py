"""Whether an exported file computes what its module computes: both run once on the same input.

torch's exporter drops some arguments without a word, ``divisor_override`` of an average pooling for example. No check
of the file alone can see that.

Sums of floats differ in their last bits, and a binariser turns such a difference into another bit, from which all later
values differ. So each submodule is compared on its own: it gets the values that the file computed before it. What then
differs by more than rounding is an error, except where the submodule's own result changes as much if its input changes
in the last bits.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from sbnn_tvm.errors import ModelError

BOUND = 256 * 2.0**-23
"""The rounding difference that is allowed, relative to the largest value of a tensor: 256 units in the last place."""

_NOISE = 2.0**-20  # well above what sums of floats round, well below what a dropped argument changes
_PERTURBED_RUNS = 24
_SLACK = 4.0  # a value may differ by this many times what the noise changed
_INSTEAD = "or pass compare_export=False to take the file as it is"


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module that the file shows.

    Attributes:
        path: Of the module in the model, "" for the model itself.
        number: Earlier calls of the same module.
        reads: Name of the only value that the module reads; None if it reads several, or the file does not have it.
        makes: Name of the value in the file that the module returns.
    """

    path: str
    number: int
    reads: str | None
    makes: str


def module_calls(program: ExportedProgram, names: Mapping[str, str]) -> list[ModuleCall]:
    """The calls of modules that return one tensor, which the file has as a value.

    Args:
        program: The traced model whose operators the exporter translated.
        names: The name in the file of each value of the trace that the file has.
    """
    inside: dict[tuple[str, int], set[torch.fx.Node]] = {}
    for node in program.graph.nodes:
        if node.meta.get("is_functional_regenerated"):
            continue  # a view of a value that was changed in place, made again where it is read
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            _, _, number = key.partition("@")
            inside.setdefault((path, int(number or 0)), set()).add(node)
    inputs = set(program.graph_signature.user_inputs)
    constants = {node for node in program.graph.nodes if node.op == "placeholder" and node.name not in inputs}
    calls = []
    for (path, number), nodes in inside.items():
        made = [node.name for node in nodes if any(user not in nodes for user in node.users)]
        read = {source for node in nodes for source in node.all_input_nodes} - nodes - constants
        if path and len(made) == 1 and made[0] in names:
            reads = names.get(next(iter(read)).name) if len(read) == 1 else None
            calls.append(ModuleCall(path, number, reads, names[made[0]]))
    return calls


@dataclass(frozen=True, eq=False)
class Probe:
    """A run of a model before it is exported.

    Attributes:
        inputs: What it ran on.
        returned: The tensors that it returned.
        calls: How often each of its modules ran, by path.
    """

    inputs: tuple[Tensor, ...]
    returned: list[Tensor]
    calls: Mapping[str, int]

    @classmethod
    def run(cls, model: nn.Module, examples: tuple[Tensor, ...]) -> Probe:
        """Run a model on random inputs like the examples, or on the examples if it fails on these."""
        try:
            return cls._run(model, _random(examples))
        except Exception:
            return cls._run(model, examples)

    @classmethod
    def _run(cls, model: nn.Module, inputs: tuple[Tensor, ...]) -> Probe:
        calls: Counter[str] = Counter()

        def count(path: str) -> Callable[..., None]:
            return lambda *_: calls.update([path])

        with _hooks([module.register_forward_hook(count(path)) for path, module in hookable_modules(model)]):
            return cls(inputs, tensors(model(*inputs)), calls)


def _random(examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Normally distributed numbers in place of examples that are a single number throughout.

    Other examples hold data of the user's, and integers have a range that only the user knows: these are taken as they
    are.
    """
    rng = np.random.default_rng(0)

    def probe(example: Tensor) -> Tensor:
        if not example.is_floating_point() or not example.numel() or (example != example.flatten()[0]).any():
            return example
        return torch.from_numpy(rng.standard_normal(tuple(example.shape))).to(example)

    return tuple(probe(example) for example in examples)


def tensors(result: Any) -> list[Tensor]:
    """The tensors that a model returned, in the order of the outputs of its file."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def hookable_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a model, by path, that can have hooks: all but TorchScript."""
    return [(path, each) for path, each in model.named_modules() if not isinstance(each, torch.jit.ScriptModule)]


def compare_with_module(model: nn.Module, probe: Probe, proto: onnx.ModelProto, calls: Sequence[ModuleCall]) -> None:
    """Refuse a file that computes something else than the module that it was exported from.

    Args:
        model: In eval mode, under ``torch.no_grad``.
        probe: A run of the model.
        proto: The exported file.
        calls: The calls of modules that the file shows.

    Raises:
        ModelError: If they differ; names the first module that does. If the model returns something else every time,
            or if nothing here can run the file.
    """
    outputs = [output.name for output in proto.graph.output]
    if len(probe.returned) != len(outputs):
        raise ModelError(
            f"the model returns {len(probe.returned)} tensors, but its exported file has {len(outputs)} outputs; "
            f"return each tensor once, {_INSTEAD}"
        )
    shown = Counter(call.path for call in calls)
    calls = [call for call in calls if probe.calls[call.path] == shown[call.path]]  # else they cannot be counted
    feeds = {value.name: _array(tensor) for value, tensor in zip(proto.graph.input, probe.inputs, strict=False)}
    more = dict.fromkeys(name for call in calls for name in (call.reads, call.makes) if name and name not in feeds)
    guided = _Guided(model, calls, feeds | run_file(proto, feeds, tuple(more)), outputs)
    suspects = guided.run(probe.inputs, _Place.differs)
    if not suspects:
        return
    _refuse_random(model, probe.inputs)
    moved: dict[int, np.ndarray | float] = dict.fromkeys((place.index for place in suspects), 0.0)
    for seed in range(_PERTURBED_RUNS):
        noisy = guided.run(probe.inputs, lambda place: place.index in moved, np.random.default_rng(seed))
        for place, other in zip(suspects, noisy, strict=True):
            moved[place.index] = np.maximum(moved[place.index], _change(place.want, other.want))
        # A value next to a threshold crosses it in about half of the runs.
        wrong = [place for place in suspects if place.differs(_SLACK * np.asarray(moved[place.index]))]
        if not wrong:
            return
    raise ModelError(
        f"the exported file computes something else than the model, first in {wrong[0].description}: "
        f"{wrong[0].difference}; torch's exporter has lost something there. Write it with other layers or arguments, "
        f"{_INSTEAD}"
    )


def run_file(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], more: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run a file with onnxruntime if it is installed, else with onnx's reference implementation, which is slow.

    Args:
        proto: The file.
        feeds: Its inputs by name.
        more: Names of inner values to return as well.

    Returns:
        The outputs and the inner values, by name.

    Raises:
        ModelError: If none of them can run it.
    """
    present = {output.name for output in proto.graph.output}
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more if name not in present)
    names = [output.name for output in extended.graph.output]
    reasons = []
    for runtime, run in _runtimes().items():
        try:
            return dict(zip(names, run(extended, names, dict(feeds)), strict=True))
        except Exception as error:
            reasons.append(f"{runtime}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")
    raise ModelError(
        f"the exported file cannot be compared with the model, since nothing here runs it ({'; '.join(reasons)}); "
        "pass compare_export=False to go without the comparison"
    )


Run = Callable[[onnx.ModelProto, list[str], dict[str, np.ndarray]], list[np.ndarray]]


def _runtimes() -> dict[str, Run]:
    fast: dict[str, Run] = {"onnxruntime": _onnxruntime} if importlib.util.find_spec("onnxruntime") else {}
    return {**fast, "onnx's reference implementation": _reference}


def _onnxruntime(proto: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


def _reference(proto: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(value) for value in ReferenceEvaluator(proto).run(names, feeds)]


def _array(tensor: Tensor) -> np.ndarray:
    """A copy: an operation in place may change the tensor later."""
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def _change(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far values moved, float64 or infinite where they became or were no number."""
    with np.errstate(all="ignore"):
        moved = np.abs(values.astype(np.float64) - others.astype(np.float64))
    return np.where(np.isnan(moved), np.where(np.isnan(values) == np.isnan(others), 0.0, np.inf), moved)


@contextmanager
def _hooks(handles: Iterable[Any]) -> Iterator[None]:
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def _refuse_random(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Refuse a model that returns something else for the same input."""
    runs: list[list[tuple[str, bytes]]] = []
    for _ in range(2):
        results: list[tuple[str, bytes]] = []

        def record(path: str, results: list[tuple[str, bytes]] = results) -> Callable[..., None]:
            return lambda _, __, result: results.extend((path, _array(each).tobytes()) for each in tensors(result))

        with _hooks([module.register_forward_hook(record(path)) for path, module in hookable_modules(model)]):
            returned = model(*inputs)
        record("")(model, inputs, returned)
        runs.append(results)
    for (path, first), (_, second) in zip(*runs, strict=False):
        if first != second:
            raise ModelError(
                f"the model returns something else every time it runs on the same input, first in "
                f"{_named(model, path)}; a compiled model cannot: take the random numbers out of its eval mode"
            )


@dataclass(frozen=True, eq=False)
class _Place:
    """A place where a run of the module is compared with the file.

    Attributes:
        index: Number of places before it.
        description: Where, for an error.
        want: What the module computes from the file's values before it.
        got: What the file computes.
    """

    index: int
    description: str
    want: np.ndarray
    got: np.ndarray

    def differs(self, slack: np.ndarray | float = 0.0) -> bool:
        """Whether they differ by more than rounding, and by more than ``slack``."""
        want, got = self.want, self.got
        if want.shape != got.shape or want.dtype != got.dtype:
            return True
        if want.dtype.kind != "f":
            return bool(((want != got) & (np.asarray(slack) == 0)).any())
        if not np.any(slack) and np.array_equal(want, got):
            return False
        with np.errstate(all="ignore"):
            same = (want == got) | (np.isnan(want) & np.isnan(got))
            near = np.abs(want.astype(np.float64) - got) <= BOUND * self._largest + slack
        return not (same | near).all()

    @property
    def _largest(self) -> float:
        return float(np.abs(self.want[np.isfinite(self.want)]).max(initial=0.0))

    @property
    def difference(self) -> str:
        """How they differ, for an error."""
        want, got = self.want, self.got
        if want.shape != got.shape or want.dtype != got.dtype:
            return f"{want.dtype} {list(want.shape)} became {got.dtype} {list(got.shape)}"
        if want.dtype.kind != "f":
            return f"{int((want != got).sum())} of {want.size} values differ"
        return f"values up to {self._largest:.4g} differ by up to {_change(want, got).max():.4g}"


@dataclass(frozen=True, eq=False)
class _Guided:
    """Runs of a module in which each submodule reads and returns what the file computed.

    Attributes:
        model: The module.
        calls: The calls of submodules that the file shows.
        values: The file's values by name.
        outputs: Names of its outputs.
    """

    model: nn.Module
    calls: Sequence[ModuleCall]
    values: Mapping[str, np.ndarray]
    outputs: Sequence[str]

    def run(
        self,
        inputs: Sequence[Tensor],
        keep: Callable[[_Place], bool],
        noise: np.random.Generator | None = None,
    ) -> list[_Place]:
        """Run the module, and compare it with the file in many places.

        Args:
            inputs: Its inputs.
            keep: Which places to return.
            noise: Changes each of the file's values in its last bits; None leaves them.

        Returns:
            The places in order of execution.
        """
        calls = {(call.path, call.number): call for call in self.calls}
        kept: list[_Place] = []
        made: Counter[str] = Counter()
        hidden: list[str] = []  # modules since the last comparison that the file does not show
        count = itertools.count()

        def value(of: np.ndarray, like: Tensor) -> Tensor:
            of = of.copy()  # an operation in place may change it
            if noise is not None and of.dtype.kind == "f":
                of += (of * noise.uniform(-_NOISE, _NOISE, of.shape)).astype(of.dtype)
            return torch.from_numpy(of).to(like.device)

        def compare(description: str, name: str, tensor: Tensor) -> Tensor:
            got = self.values[name]
            place = _Place(next(count), " or ".join([*hidden, description]), _array(tensor), got)
            hidden.clear()
            if keep(place):
                kept.append(place)
            return value(got, tensor) if got.shape == tensor.shape else tensor

        def before(path: str) -> Callable[..., Any]:
            parent = _named(self.model, path.rpartition(".")[0])

            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                call = calls.get((path, made[path]))
                if call is None or call.reads is None or len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
                    return None
                place = f"the operations of {parent} before its submodule '{path}'"
                return (compare(place, call.reads, args[0]),), kwargs

            return hook

        def after(path: str) -> Callable[..., Any]:
            own = _named(self.model, path)

            def hook(_: nn.Module, __: tuple[Any, ...], result: Any) -> Any:
                call = calls.get((path, made[path]))
                made[path] += 1
                if call is not None and isinstance(result, Tensor):
                    return compare(own, call.makes, result)
                hidden.append(own)
                return None

            return hook

        modules = [(path, module) for path, module in hookable_modules(self.model) if path]
        hooks = [module.register_forward_pre_hook(before(path), with_kwargs=True) for path, module in modules]
        hooks += [module.register_forward_hook(after(path)) for path, module in modules]
        with _hooks(hooks):
            returned = self.model(*(value(_array(each), each) for each in inputs))
        for name, tensor in zip(self.outputs, tensors(returned), strict=True):
            compare(_named(self.model, ""), name, tensor)
        return kept


def _named(model: nn.Module, path: str) -> str:
    module = model.get_submodule(path)
    return f"'{path}' ({type(module).__name__})" if path else f"the model ({type(module).__name__})"
