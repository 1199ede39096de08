"""Group each convolution, dense layer or pooling with the elementwise operations around it into one composite.

A composite is a Relax function of ordinary operators with the attribute ``Composite``. TVM's default legalization can
still run it; tests compare the kernels with that. ``layers.read.read_layer`` reads a composite as a layer.

Example: ``conv2d``, ``multiply``, ``add``, ``greater``, ``where`` become a composite ``sbnn.conv2d`` that stores bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var

from sbnn_tvm.algebra.domain import SIGN, Domain
from sbnn_tvm.schedules.tir.functions import EXACT

from ..layers.facts import LayerFacts
from ..layers.kinds import (
    AvgPool2d,
    BatchedProduct,
    BinaryConvolution,
    BinaryDense,
    BitInterleaving,
    BitMaxPool2d,
    BitSelection,
    BitShift,
    ChannelSelection,
    Concatenation,
    Copy,
    Elementwise,
    FloatConvolution,
    FloatDense,
    GlobalAvgPool2d,
    IntegerConvolution,
    IntegerDense,
    Layer,
    MaxPool2d,
    PhaseInterleaving,
    QuantisationRange,
    Resampling,
    Rows,
    SampleMean,
    WindowSum,
)
from ..relax.codes import STORED, codes, reads_integers
from ..relax.comparisons import COMPARISONS, comparison
from ..relax.copies import copied_view
from ..relax.domains import binariser_domain, domains, signed_max_pool
from ..relax.facts import integer_sums, values_taken, weight_changes, weight_planes
from ..relax.functions import FUNCTIONS, reduces_channels
from ..relax.graph import (
    Graph,
    Writer,
    between_formats,
    broadcasts_to,
    channel_axis,
    constant,
    is_per_channel,
    is_per_pixel,
    make_function,
    op_name,
    operands,
    shape,
    without_pixels,
)
from ..relax.integer_sums import integer_sums_of
from ..relax.interleavings import Interleaved, interleaved
from ..relax.quantisation_ranges import quantisation_ranges
from ..relax.quantisers import quantisers
from ..relax.resampling import resampled
from ..relax.selections import chosen_of, selection_rank
from ..relax.shifts import shift_of
from ..relax.weights import is_window_sum, linear_weight
from .explain import why_float

_STEPS = {
    "add", "subtract", "multiply", "divide", "maximum", "minimum",
    "nn.relu", "nn.leakyrelu", "nn.prelu", "clip", "negative", "where", *FUNCTIONS,
}  # fmt: skip
_ANCHORS = {
    "nn.conv2d", "matmul", "nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean", "concat", "take",
    "nn.pad",
}  # fmt: skip


_FEWEST_CHANNELS = 8
"""The fewest floats that are copied at once, for an interleaving with channels last to be worth it."""
_POOLS = {"nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d"}
_OF_TWO_TENSORS = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}


@dataclass(eq=False)
class _Group:
    """A group of bindings that becomes one function.

    Attributes:
        index: Position in the order of execution. A group reads only values of groups with a smaller index.
        composite: Kind of layer (layers/kinds.py); None for a single operator that is left to TVM.
        data: The variables that the anchor reads: one, or several for a selection of channels.
        extent: Shape of the anchor's result; [N, C] for a feature map [N, C, 1, 1].
        open: Whether elementwise operations may still join.
        facts: Facts about the layer; None for a single operator.
        members: The bindings, in order.
    """

    index: int
    composite: str | None
    data: tuple[Var, ...] = ()
    extent: tuple[int, ...] = ()
    open: bool = False
    facts: LayerFacts | None = None
    members: list[Var] = field(default_factory=list)


def fuse_layers(mod: IRModule) -> IRModule:
    """Outline the layers of ``main`` into composite functions, which ``main`` calls in order."""
    graph = Graph(mod["main"])
    former = _Former(graph, mod)
    for var, value in graph.bindings:
        former.place(var, value)
    writer = Writer(graph, mod)
    functions: dict[str, relax.Function] = {}
    gvars: dict[str, tvm.ir.GlobalVar] = {}
    for group in former.groups:
        if group.composite is None:
            (var,) = group.members
            former.rematerialise(writer, operands(graph.values[var]))
            writer.keep(var, graph.values[var])
            continue
        outputs = [var for var in group.members if former.leaves(group, var)]
        func, args = _outline(graph, former, group, outputs)
        name = f"layer_{len(functions)}"
        gvars[name] = tvm.ir.GlobalVar(name)
        relax.expr._update_type(gvars[name], func.ty)
        functions[name] = func
        call = relax.Call(gvars[name], [writer[arg] for arg in args])
        if len(outputs) == 1:
            writer.bind(outputs[0], call)
            continue
        results = writer.emit(call, f"{name}_results")
        for i, var in enumerate(outputs):
            writer.bind(var, relax.TupleGetItem(results, i))
    new = writer.module(mod)
    for name, func in functions.items():
        new[gvars[name]] = func
    return new


class _Former:
    """Decides which group each binding belongs to.

    An operation joins the latest group that it reads from. So every group reads only from groups before it, and the
    groups can run in order for any graph. Example: the addition of a residual block joins the convolution of its later
    branch; the shortcut becomes an operand.
    """

    def __init__(self, graph: Graph, mod: IRModule) -> None:
        self.graph = graph
        self.integer_sums = integer_sums(mod)
        self.weight_changes = weight_changes(mod)
        self.weight_planes = weight_planes(mod)
        self.values_taken = values_taken(mod)
        self.domains = domains(graph)
        self.quantisers = quantisers(graph)
        self.codes = codes(graph)
        self.sums = integer_sums_of(graph)
        self.in_chains = {var for each in self.quantisers.values() for var in each.chain}
        self.in_chains |= {var for each in self.codes.values() for var in each.chain}
        self.in_chains |= {var for each in self.sums.values() for var in each.chain}
        self.ranges = {each.scale: each for each in quantisation_ranges(graph)}
        self.of_ranges = {each.zero_point: each.scale for each in self.ranges.values()}
        self.in_chains |= {var for each in self.ranges.values() for var in each.chain}
        self.interleaved = self._interleavings()
        self.in_chains |= {step for each in self.interleaved.values() for step in each.steps}
        self.groups: list[_Group] = []
        self.group_of: dict[Var, _Group] = {}
        # Conditions, paddings and broadcasts of one value per pixel have no group: each reader computes them itself.
        self.inline: set[Var] = set()
        self.elementwise_on: dict[Var, _Group] = {}

    def _interleavings(self) -> dict[Var, Interleaved]:
        """The interleavings that one kernel computes: of floats with runs of channels, of codes, of bits by phases."""
        found = {}
        for var, _ in self.graph.bindings:
            each = interleaved(self.graph, var)
            if each is None or any(part in self.in_chains for part in each.parts):
                continue
            channels = each.interleaving.channels.shape[2]
            sizes = {shape(part)[1] for part in each.parts}
            if var in self.domains:
                whole = each.interleaving.in_order and len(sizes) == 1 and sizes.pop() % channels == 0
            else:
                whole = str(var.ty.dtype) in STORED or channels >= _FEWEST_CHANNELS
            if whole:
                found[var] = each
        return found

    def place(self, var: Var, value: Expr) -> None:
        """Put one binding into a new or an existing group, or mark it as inline."""
        name = op_name(value)
        if self._is_inline(var, value):
            self.inline.add(var)
        elif (found := self.ranges.get(var)) is not None:
            self._open(self._layer(QuantisationRange, var, [found.x]), var)
        elif var in self.of_ranges:
            self._join(self.group_of[self.of_ranges[var]], var)
        elif var in self.quantisers or var in self.codes:
            self._place_step(var, value)
        elif (anchored := self._anchor(var, value)) is not None:
            self._open(anchored, var)
        elif reduces_channels(value) or self._is_row_step(var, value):
            self._place_in_rows(var, value)
        elif name in _STEPS and self._is_step(var, value):
            self._place_step(var, value)
        elif name == "reshape" and (host := self._host_of_reshape(var, value)) is not None:
            self._join(host, var)
        elif reads_integers(value) and shape(var):
            self._open(self._layer(Elementwise, var, [value.args[0]], is_open=True), var)
        else:
            self._open(_Group(len(self.groups), None), var)

    def _open(self, group: _Group, var: Var) -> None:
        self.groups.append(group)
        self._join(group, var)

    def _join(self, group: _Group, var: Var) -> None:
        group.members.append(var)
        self.group_of[var] = group

    def _is_inline(self, var: Var, value: Expr) -> bool:
        if var in self.in_chains:
            return True
        if self._is_dequantisation(var, value) or self._is_factor(var, value):
            return True
        name, users = op_name(value), [self.graph.values[user] for user in self.graph.users[var]]
        if var in self.graph.results or not users:
            return False
        if name in COMPARISONS and all(op_name(user) == "logical_not" for user in users):
            return all(self._is_inline(user, self.graph.values[user]) for user in self.graph.users[var])
        if name in COMPARISONS or name == "logical_not":
            compared = comparison(self.graph, var)
            if compared is None:
                return False
            known = constant(compared.threshold) is not None or broadcasts_to(
                shape(compared.threshold), shape(compared.x)
            )
            return known and all(op_name(user) == "where" and self._is_binariser(user) for user in users)
        if name == "nn.pad":
            return self._is_absorbed(value, users)
        if name in ("multiply", "nn.max_pool2d") and self._in_signed_pool(var):
            return True
        if name in ("reshape", "take") and self._in_shift(var):
            return True
        if name == "permute_dims" and _transposes_matrices(value):
            return all(self._product_of(user) == (user.args[0], value.args[0]) for user in users)
        if name in ("concat", "take"):
            return self._in_selection(var, value)
        if name == "multiply":  # phi * T: one value per pixel times one per channel
            vector, pixel = constant(value.args[1]), value.args[0]
            if vector is None or not all(op_name(user) in _STEPS for user in users):
                return False
            return isinstance(pixel, Var) and is_per_pixel(shape(pixel), shape(var)) and shape(pixel) != shape(var)
        return False

    def _is_dequantisation(self, var: Var, value: Expr) -> bool:
        """Whether a value is a step from integers to floats that all its readers compute themselves."""
        if var in self.graph.results or str(getattr(var.ty, "dtype", "")) != "float32":
            return False
        source = value.args[0] if isinstance(value, Call) and value.args else None
        if not isinstance(source, Var):
            return False
        if op_name(value) == "astype":
            readers = (*_STEPS, *_POOLS, *COMPARISONS, "round", "concat", "take", "nn.pad")
            return reads_integers(value) and self._read_only_by(var, readers)
        of_number = op_name(value) in ("subtract", "multiply") and _is_number(value.args[1])
        if (
            not of_number
            or source not in self.inline
            or op_name(self.graph.values[source]) not in ("astype", "subtract")
        ):
            return False
        pooled = _POOLS - {"nn.max_pool2d"} if op_name(value) == "subtract" else ()
        return self._read_only_by(var, (*_STEPS, *COMPARISONS, "round", *pooled))

    def _is_factor(self, var: Var, value: Expr) -> bool:
        """Whether a value is a number times constants, one per channel at most, that epilogues compute themselves."""
        if op_name(value) != "multiply" or var in self.graph.results or str(var.ty.dtype) != "float32":
            return False
        number, factor = value.args if isinstance(value.args[0], Var) else reversed(value.args)
        values = constant(factor)
        if values is None or not isinstance(number, Var) or shape(number):
            return False
        users = self.graph.users[var]
        return bool(users) and all(
            op_name(self.graph.values[user]) in _OF_TWO_TENSORS
            and shape(user) not in ((), shape(var))
            and is_per_channel(values, shape(user))
            for user in users
        )

    def _read_only_by(self, var: Var, names: Iterable[str]) -> bool:
        """Whether only these operators read a value, on tensors of its own size or as poolings and selections."""
        users = self.graph.users[var]
        whole = all(
            shape(user) == shape(var) or op_name(self.graph.values[user]) not in (*_STEPS, *COMPARISONS)
            for user in users
        )
        return bool(users) and whole and all(op_name(self.graph.values[user]) in names for user in users)

    def _in_signed_pool(self, var: Var) -> bool:
        """Whether a value is an inner step of ``s * max_pool2d(s * bits)``, and nothing else reads it."""
        users = self.graph.users[var]
        if not users or var in self.graph.results:
            return False
        if op_name(self.graph.values[var]) == "nn.max_pool2d":
            return all(user in self.domains and signed_max_pool(self.graph, self.graph.values[user]) for user in users)
        return all(op_name(self.graph.values[user]) == "nn.max_pool2d" and self._in_signed_pool(user) for user in users)

    def _in_shift(self, var: Var) -> bool:
        """Whether a value is an inner step of a gather that shifts bits, and nothing else reads it."""
        users = self.graph.users[var]
        if not users or var in self.graph.results or var not in self.domains:
            return False
        if op_name(self.graph.values[var]) == "take":
            return all(shift_of(self.graph, self.graph.values[user]) is not None for user in users)
        return all(op_name(self.graph.values[user]) == "take" and self._in_shift(user) for user in users)

    def _in_selection(self, var: Var, value: Call) -> bool:
        """Whether a value is an inner step of selections of channels, rows and columns, and nothing else reads it."""
        rank = selection_rank(value, shape(var))
        if rank is None or str(var.ty.dtype) != "float32":
            return False
        for user in self.graph.users[var]:
            step = self.graph.values[user]
            later = selection_rank(step, shape(user)) if isinstance(step, Call) and step.args[0] == var else None
            readers = [self.graph.values[reader] for reader in self.graph.users[user]]
            if later is None or later <= rank or self._in_shift(user):
                return False
            if op_name(step) == "nn.pad" and user not in self.graph.results and self._is_absorbed(step, readers):
                return False
        return True

    def _is_absorbed(self, pad: Call, readers: Sequence[Expr]) -> bool:
        """Whether all readers of a padding compute it themselves."""
        return bool(readers) and all(self._absorbs_padding(reader, pad) for reader in readers)

    def _absorbs_padding(self, user: Expr, pad: Call) -> bool:
        width = [int(extent) for extent in pad.attrs.pad_width]
        return (
            op_name(user) == "nn.conv2d"
            and linear_weight(user) is not None
            and len(width) == 8
            and not any(width[:4])
            and not any(int(extent) for extent in user.attrs.padding)
            and self._is_binary(user)
        )

    def _is_binariser(self, where: Call) -> bool:
        return binariser_domain(self.graph, where) is not None

    def _is_binary(self, call: Call) -> bool:
        weight = linear_weight(call)
        return weight is not None and call.args[0] in self.domains and bool(np.all(np.abs(weight) == 1))

    def _layer(
        self,
        kind: type[Layer],
        var: Var,
        data: Sequence[Var],
        *,
        is_open: bool = False,
        domain: Domain | None = None,
        why_float: str | None = None,
    ) -> _Group:
        """A new group of one kind, whose anchor computes ``var`` from ``data``; ``domain`` is that of the data."""
        replaced = self.integer_sums.get(var.name)
        facts = LayerFacts(
            var.name,
            data_inputs=len(data),
            input_domain=domain,
            why_float=why_float,
            integer_sum_of=replaced,
            weight_change=self.weight_changes.get(replaced or ""),
            plane_of=self.weight_planes.get(var.name),
        )
        return _Group(len(self.groups), kind.kind, tuple(data), _extent(var), is_open, facts)

    def _anchor(self, var: Var, value: Expr) -> _Group | None:
        name, domain = op_name(value), self.domains.get(var)
        if domain is not None and (pooled := signed_max_pool(self.graph, value)) is not None:
            return self._layer(BitMaxPool2d, var, [pooled[0]], domain=domain)
        if domain is not None and (shift := shift_of(self.graph, value)) is not None:
            return self._layer(BitShift, var, [shift.source], domain=domain)
        if domain is None and (found := resampled(value)) is not None:
            return self._layer(Resampling, var, [found.source], is_open=True)
        if (phases := self.interleaved.get(var)) is not None:
            if domain is not None:
                return self._layer(BitInterleaving, var, phases.parts, domain=domain)
            return self._layer(PhaseInterleaving, var, phases.parts)
        if domain is None and _is_copy(var, value):
            return self._layer(Copy, var, [value.args[0]])
        if (total := self.sums.get(var)) is not None:
            kind = IntegerDense if op_name(total.call) == "matmul" else IntegerConvolution
            return self._layer(kind, var, [total.codes], is_open=True)
        if name not in _ANCHORS or str(var.ty.dtype) != "float32":
            return None
        weight = linear_weight(value)
        if weight is not None and not (name == "matmul" and len(shape(var)) == 4):
            return self._linear(var, value, weight)
        if (product := self._product_of(value)) is not None:
            read = product if value.args[1] in self.inline else list(value.args)
            return self._layer(BatchedProduct, var, read, is_open=True)
        match name:
            case "nn.max_pool2d" if domain is not None:
                return self._layer(BitMaxPool2d, var, [value.args[0]], domain=domain)
            case "nn.max_pool2d":
                return self._layer(MaxPool2d, var, [self._stored(value.args[0])], is_open=True)
            case "nn.avg_pool2d":
                return self._layer(AvgPool2d, var, [self._stored(value.args[0])], is_open=True)
            case "mean" if _is_of_samples(value):
                return self._layer(SampleMean, var, [value.args[0]])
            case "nn.adaptive_avg_pool2d" if shape(var)[2:] == (1, 1):
                return self._layer(GlobalAvgPool2d, var, [self._stored(value.args[0])], is_open=True)
        return self._selection(var, value) or self._concatenation(var, value)

    def _product_of(self, value: Expr) -> tuple[Var, Var] | None:
        """The two activations that a value is the batched product of, before a transposition of the right one."""
        if op_name(value) != "matmul" or str(value.args[0].ty.dtype) != "float32":
            return None
        left, right = value.args
        transposed = self.graph.producer(right, "permute_dims")
        if transposed is not None and _transposes_matrices(transposed):
            right = transposed.args[0]
        matrices = len(shape(left)) == len(shape(right)) == 3 and shape(left)[0] == shape(right)[0]
        both = isinstance(left, Var) and isinstance(right, Var) and left != right
        return (left, right) if matrices and both else None

    def _linear(self, var: Var, call: Call, weight: np.ndarray) -> _Group:
        data, domain, dense = self._unpadded(call.args[0]), self.domains.get(call.args[0]), op_name(call) == "matmul"
        if not self._is_binary(call):
            why = why_float(self.graph, self.domains, var, weight, self.values_taken)
            kind = FloatDense if dense else FloatConvolution
            return self._layer(kind, var, [data], is_open=True, domain=domain, why_float=why)
        if is_window_sum(call) and domain == SIGN:
            return self._layer(WindowSum, var, [data])
        return self._layer(BinaryDense if dense else BinaryConvolution, var, [data], is_open=True, domain=domain)

    def _selection(self, var: Var, value: Expr) -> _Group | None:
        """The group of a selection of channels, rows and columns.

        If the result has a domain, bits are selected, without an epilogue.
        """
        chosen = chosen_of(self.graph, var, self.inline.__contains__)
        if chosen is None:
            return None
        if (domain := self.domains.get(var)) is not None:
            return self._layer(BitSelection, var, chosen.sources, domain=domain)
        stored = [self._stored(source) for source in chosen.sources]
        if len({str(each.ty.dtype) for each in stored}) > 1 or len(set(stored)) < len(stored):
            return None
        return self._layer(ChannelSelection, var, stored, is_open=True)

    def _stored(self, var: Var) -> Var:
        """The integers that a value is computed from inline; else the value itself."""
        while var in self.inline:
            var = self.graph.values[var].args[0]
        return var

    def _concatenation(self, var: Var, value: Call) -> _Group | None:
        """The group of a concatenation that is no selection: along rows, or with constants."""
        if op_name(value) != "concat" or value.attrs.axis is None or var in self.domains:
            return None
        variables = list(dict.fromkeys(operands(value)))
        known = all(field in variables or constant(field) is not None for field in value.args[0].fields)
        if not variables or not known or 0 in shape(var) or any(each in self.inline for each in variables):
            return None
        return self._layer(Concatenation, var, variables)

    def _unpadded(self, data: Var) -> Var:
        return self.graph.values[data].args[0] if data in self.inline else data

    def sources(self, value: Expr) -> list[Var]:
        """The variables that a binding reads; an inline variable is replaced by those that it reads."""
        found: list[Var] = []
        for var in operands(value):
            found += self.sources(self.graph.values[var]) if var in self.inline else [var]
        return found

    def _is_step(self, var: Var, value: Call) -> bool:
        if op_name(value) == "where" and not (value.args[0] in self.inline and self._is_binariser(value)):
            return False
        out = shape(var)
        if not out:
            return False
        variables = self.sources(value)
        constants = _constants(value)
        if op_name(value) == "where":
            compared = comparison(self.graph, value.args[0])
            constants = [] if compared is None else [c for c in [constant(compared.threshold)] if c is not None]
        elif op_name(value) == "nn.prelu":
            constants = []
            if int(value.attrs.axis) != channel_axis(out):
                return False
        if str(var.ty.dtype) != "float32" or not all(self._is_readable(v, out) for v in variables):
            return False
        fits = all(broadcasts_to(shape(v), out) for v in variables)
        known = all(is_per_channel(c, out) or _as_operand(value, c, out) is not None for c in constants)
        return fits and any(shape(v) == out for v in variables) and known

    @staticmethod
    def _is_readable(var: Var, extent: tuple[int, ...]) -> bool:
        """Whether a step of a result of this shape can read a variable: float32, or integers of that shape."""
        dtype = str(var.ty.dtype)
        return dtype == "float32" or (dtype in STORED and shape(var) == extent)

    def _rows_of(self, value: Expr) -> _Group | None:
        """The group of rows that a value reads from last; None if the last group is another."""
        homes = [group for source in self.sources(value) if (group := self.group_of.get(source)) is not None]
        last = max(homes, key=lambda group: group.index, default=None)
        return last if last is not None and last.composite == Rows.kind else None

    def _is_row_step(self, var: Var, value: Expr) -> bool:
        """Whether an elementwise operation may join the group of rows before it; its result may be one per row."""
        rows, name = self._rows_of(value), op_name(value)
        if rows is None or name not in _STEPS or name in ("where", "nn.prelu") or str(var.ty.dtype) != "float32":
            return False
        extent = _extent(rows.data[0])
        variables = self.sources(value)
        fits = [_extent(each) == extent or is_per_pixel(_extent(each), extent) for each in (var, *variables)]
        floats = all(str(each.ty.dtype) == "float32" for each in variables)
        return floats and all(fits) and all(is_per_channel(each, shape(var)) for each in _constants(value))

    def _is_packed(self, var: Var) -> bool:
        """Whether a group that computes a value stores it as bits or integers. Rows store floats only."""
        return var in self.quantisers or var in self.domains or var in self.codes

    def _place_in_rows(self, var: Var, value: Call) -> None:
        rows = self._rows_of(value)
        reduced = value.args[0]
        before = self.group_of.get(reduced)
        if rows is not None and (op_name(value) in _STEPS or _can_reduce(rows, reduced)):
            self._join(rows, var)
        elif rows is None and before is not None and self._can_become_rows(before):
            before.composite = Rows.kind  # the data stay the same, and its steps become those of rows
            self._join(before, var)
        else:
            self._open(self._layer(Rows, var, [reduced]), var)

    def _can_become_rows(self, group: _Group) -> bool:
        floats = all(str(each.ty.dtype) == "float32" for each in group.data)
        return group.composite == Elementwise.kind and floats and not any(map(self._is_packed, group.members))

    def _place_step(self, var: Var, value: Call) -> None:
        sources = self.sources(value)
        homes = [group for source in sources if (group := self.group_of.get(source)) is not None]
        last = max(homes, key=lambda group: group.index, default=None)
        # A group stores its binarised values as bits, and quantised ones as integers. An operation on those needs a
        # group of its own, and so do bits of rows.
        stored = [source for source in sources if source in self.domains or str(source.ty.dtype) in STORED]
        bits = any(self.group_of.get(source) is last for source in stored)
        bits = bits or (last is not None and last.composite == Rows.kind and self._is_packed(var))
        bits = bits or (last is not None and var in self.codes and self._has_narrow_groups(last))
        if last is not None and last.open and last.extent == _extent(var) and not bits and _fits(last, value):
            self._join(last, var)
            return
        data = next(source for source in sources if shape(source) == shape(var))
        before = self.elementwise_on.get(data)
        if before is not None and before.composite == Elementwise.kind and (last is None or last.index < before.index):
            self._join(before, var)  # another function of the same value, as in max(x, 0) + min(x, 0)
            return
        group = self.elementwise_on[data] = self._layer(Elementwise, var, [data], is_open=True)
        self._open(group, var)

    def _has_narrow_groups(self, group: _Group) -> bool:
        """Whether a layer is a convolution of groups with 2 to 7 output channels, which cannot store integers.

        LLVM fails on stores of four bytes that are beside those of another group: "Do not know how to split the
        result of this operator!".
        """
        anchor = group.members[0]
        call = self.sums[anchor].call if anchor in self.sums else self.graph.values[anchor]
        groups = int(call.attrs.groups) if op_name(call) == "nn.conv2d" else 1
        return groups > 1 and 1 < _extent(anchor)[1] // groups < 8

    def _host_of_reshape(self, var: Var, reshape: Call) -> _Group | None:
        """The open group that a reshape between [N, C] and [N, C, 1, 1] can join; None for any other reshape.

        A sum over windows, which has no epilogue, takes it too: its readers then recognise their own windows.
        """
        source = reshape.args[0]
        host = self.group_of.get(source)
        if host is None or source in self.domains or len(shape(var)) not in (2, 4) or str(var.ty.dtype) != "float32":
            return None
        if not host.open and host.composite != WindowSum.kind:
            return None
        return host if _extent(source) == _extent(var) else None

    def leaves(self, group: _Group, var: Var) -> bool:
        """Whether a value of a group is read outside of the group, or is a result of ``main``.

        A kernel for a range computes both of its values, whether somebody reads them or not.
        """
        if group.composite == QuantisationRange.kind:
            return True
        return var in self.graph.results or any(self.group_of.get(user) is not group for user in self._readers(var))

    def _readers(self, var: Var) -> Iterable[Var]:
        for user in self.graph.users[var]:
            if user in self.inline:
                yield from self._readers(user)
            else:
                yield user

    def rematerialise(self, writer: Writer, variables: Iterable[Var]) -> None:
        """Emit the inline values that an operator reads which is left to TVM."""
        for var in variables:
            if var in self.inline:
                value = self.graph.values[var]
                self.rematerialise(writer, operands(value))
                writer.keep(var, value)


def _outline(graph: Graph, former: _Former, group: _Group, outputs: list[Var]) -> tuple[relax.Function, list[Expr]]:
    """The function of a group, and the arguments of its call: the data of the anchor, then the tensor operands."""
    data = {var: relax.Var("data" if not i else f"data_{i}", var.ty) for i, var in enumerate(group.data)}
    params: list[Var] = list(data.values())
    args: list[Expr] = list(data)
    new: dict[Var, Var] = {}
    bindings: list[relax.VarBinding] = []
    builder = relax.BlockBuilder()

    def resolve(var: Var, reads_data: bool) -> Var:
        if var in new:
            return new[var]
        if var in former.inline:
            return bind(var, reads_data)
        if reads_data and var in data:
            return data[var]
        param = relax.Var(f"operand_{len(params) - len(data)}", var.ty)
        params.append(param)
        args.append(var)
        new[var] = param
        return param

    def resolved(arg: Expr, reads_data: bool) -> Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([resolved(field, reads_data) for field in arg.fields])
        return resolve(arg, reads_data) if isinstance(arg, Var) else arg

    def bind(var: Var, reads_data: bool) -> Var:
        value = graph.values[var]
        arguments = [resolved(arg, reads_data) for arg in value.args]
        for place, arg in enumerate(value.args):
            if (operand := _constant_operand(value, arg, shape(var))) is not None:
                param = relax.Var(f"operand_{len(params) - len(data)}", operand.ty)
                params.append(param)
                args.append(operand)
                arguments[place] = param
        call = builder.normalize(Call(value.op, arguments, value.attrs))
        result = relax.DataflowVar(var.name, call.ty)
        bindings.append(relax.VarBinding(result, call))
        new[var] = result
        return result

    elementwise = group.composite in (Elementwise.kind, Rows.kind)
    for i, member in enumerate(group.members):
        bind(member, reads_data=elementwise or i == 0)
    results = [new[var] for var in outputs]
    attrs: dict[str, object] = {"Composite": f"sbnn.{group.composite}"}
    func = make_function(params, bindings, results[0] if len(results) == 1 else relax.Tuple(results), attrs)
    return func if group.facts is None else group.facts.attach(func), args


def _is_copy(var: Var, value: Expr) -> bool:
    """Whether a value copies a strided view of floats or codes that are computed.

    Between channels first and last nothing is copied: both are forms in which a map is stored (lowering/lower.py).
    """
    if op_name(value) not in ("permute_dims", "strided_slice", "take"):
        return False
    if str(value.args[0].ty.dtype) not in ("float32", *STORED):
        return False
    if op_name(value) == "permute_dims" and between_formats(value):
        return False
    computed = isinstance(value.args[0], Var) and 0 not in shape(value.args[0])
    return computed and copied_view(value, shape(var)) is not None


def _transposes_matrices(permute: Call) -> bool:
    """Whether a ``permute_dims`` exchanges the last two of three axes."""
    axes = permute.attrs.axes
    return axes is not None and [int(axis) % 3 for axis in axes] == [0, 2, 1] and len(shape(permute.args[0])) == 3


def _as_operand(step: Call, values: np.ndarray, extent: tuple[int, ...]) -> np.ndarray | None:
    """A constant of an elementwise step that is not per channel, as a tensor that an epilogue can read.

    It is repeated to the extent of the result, or to one value per pixel. None if that would store more than four times
    the constant and 64 KiB, or if the step reads no such operand.
    """
    if op_name(step) not in _OF_TWO_TENSORS or values.dtype != np.float32 or values.ndim > len(extent):
        return None
    aligned = values.reshape((1,) * (len(extent) - values.ndim) + values.shape)
    axis = channel_axis(extent)
    to = tuple(1 if i == axis and aligned.shape[axis] == 1 else size for i, size in enumerate(extent))
    if np.broadcast_shapes(aligned.shape, extent) != extent or int(np.prod(to)) > max(4 * values.size, 1 << 14):
        return None
    return np.ascontiguousarray(np.broadcast_to(aligned, to))


def _constant_operand(step: Call, arg: Expr, extent: tuple[int, ...]) -> Expr | None:
    """The constant operand of a step that its composite takes as a parameter; None for any other argument."""
    values = constant(arg)
    if values is None or op_name(step) not in _OF_TWO_TENSORS or is_per_channel(values, extent):
        return None
    operand = _as_operand(step, values, extent)
    return None if operand is None else relax.const(operand)


def _is_of_samples(mean: Call) -> bool:
    """Whether a mean is over all axes except the batch axis."""
    rank = len(shape(mean.args[0]))
    axes = sorted(int(axis) % rank for axis in mean.attrs.axis) if mean.attrs.axis is not None else []
    return rank in (2, 4) and axes == list(range(1, rank))


def _can_reduce(rows: _Group, reduced: Var) -> bool:
    """Whether a reduction of a value may join a group of rows, which cannot reduce one value per row again.

    With one channel, the results of earlier reductions have the shape of the data.
    """
    extent = _extent(rows.data[0])
    return _extent(reduced) == extent and (extent[channel_axis(extent)] > 1 or reduced not in rows.members)


def _fits(group: _Group, step: Call) -> bool:
    """Whether a step may join a group: binary layers are exact to the last bit, and most functions are not."""
    exact = op_name(step) not in FUNCTIONS or op_name(step) in EXACT
    return exact or group.composite not in (BinaryConvolution.kind, BinaryDense.kind)


def _extent(var: Var) -> tuple[int, ...]:
    return without_pixels(shape(var))


def _is_number(expr: Expr) -> bool:
    values = constant(expr)
    return values is not None and values.size == 1


def _constants(call: Call) -> list[np.ndarray]:
    return [values for arg in call.args if (values := constant(arg)) is not None]
