"""Replace every composite by a kernel call, and store each value in the forms that its readers need.

A value of the network has one logical shape and any number of physical forms (layers/forms.py).

1. A kernel stores its result in one form.
2. Each reader requests the form that its kernel reads. If the value has no such form yet, a conversion is emitted, and
   later readers share it.
3. Operators without a kernel stay Relax operators and read the plain form.

So values stay packed between binary layers, and channels-last between float layers, without a special rule for either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import Domain
from sbnn_tvm.errors import CompileError, defects_named
from sbnn_tvm.schedules.bits.packing import regroup, unpack
from sbnn_tvm.schedules.coded.expansion import Expansion, expansion
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.program import BitsOutput, LevelsOutput, Program, Ref, Scalar
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.layouts.channels_last import nchw_to_nhwc, nhwc_to_nchw
from sbnn_tvm.schedules.layouts.plane_conversions import planes_to_words, words_to_planes
from sbnn_tvm.schedules.layouts.words import packed_shape

from ..families.choose import Choice, Decisions, choose, named
from ..families.family import BuiltKernel
from ..families.float32 import FLOAT, build_pooled, pools_at_once
from ..layers.forms import Form
from ..layers.kinds import BitInterleaving, BitMaxPool2d, BitSelection, BitShift, Layer
from ..layers.read import read_layer
from ..relax.codes import STORED
from ..relax.domains import domain_of
from ..relax.facts import views
from ..relax.graph import (
    Graph,
    Writer,
    channels_last,
    constant,
    make_function,
    op_name,
    operands,
    shape,
    without_pixels,
)
from ..relax.views import View


@dataclass(frozen=True)
class Physical:
    """The content of a variable of the lowered module.

    Attributes:
        value: Name of the value that it holds, as before lowering.
        form: Memory layout.
        extent: Logical shape.
        domain: The values that packed bits stand for; None if not known.
        groups: Number of channel groups in which bits are packed; each group begins at a word of its own.
        view: How the value of this name in the imported module is read from this one; None if they are equal.
    """

    value: str
    form: Form
    extent: tuple[int, ...]
    domain: Domain | None = None
    groups: int = 1
    view: View | None = None

    @property
    def bits_domain(self) -> Domain:
        """The domain of a variable that holds packed bits or planes."""
        if self.domain is None:
            raise AssertionError(f"'{self.value}' is stored as {self.form.value}, but its values are not known")
        return self.domain


@dataclass(frozen=True, eq=False)
class LoweredLayer:
    """A layer and its kernel.

    Attributes:
        layer: The layer.
        choice: The kernel, and how it was chosen.
        outputs: Names of the values that the kernel stores; empty if the kernel of another layer stores them.
        constants: The kernel's constants, as the library stores them.
        call: Name of the variable of ``main`` that is bound to the kernel's call.
    """

    layer: Layer
    choice: Choice
    outputs: tuple[str, ...]
    constants: tuple[np.ndarray | Expansion, ...]
    call: str


@dataclass(frozen=True)
class UnscheduledOperator:
    """An operator without a kernel, which runs in TVM's default loops.

    Attributes:
        name: Name of the variable that it computes.
        operator: Its name, without ``relax.``.
    """

    name: str
    operator: str


@dataclass(frozen=True, eq=False)
class Lowered:
    """A module of kernel calls.

    Attributes:
        mod: ``main`` calls the kernels; operators without a kernel are still Relax operators. After the model's inputs,
            ``main`` takes the decoded constants, if any constants are stored coded. The function ``prepare`` returns
            them.
        entries: The layers and the operators left to TVM, in order of execution.
        physical: The content of each variable of ``main``, by its name.
    """

    mod: IRModule
    entries: tuple[LoweredLayer | UnscheduledOperator, ...]
    physical: dict[str, Physical]

    @property
    def layers(self) -> tuple[LoweredLayer, ...]:
        """The entries that have a kernel."""
        return tuple(entry for entry in self.entries if isinstance(entry, LoweredLayer))

    @property
    def prepares(self) -> bool:
        """Whether some constants are stored coded, so that the module has a function ``prepare``."""
        return any(gvar.name_hint == PREPARE for gvar in self.mod.functions)


PREPARE = "prepare"
"""Name of the function that a library runs once, when it is loaded. ``main`` takes its results after the inputs."""


@dataclass(eq=False)
class _Value:
    name: str
    extent: tuple[int, ...]
    domain: Domain | None
    forms: dict[tuple[Form, int], Expr] = field(default_factory=dict)

    @property
    def bits_domain(self) -> Domain:
        """The domain of a value that is or becomes packed bits."""
        if self.domain is None:
            raise AssertionError(f"a kernel reads '{self.name}' as packed bits, but its values are not known")
        return self.domain


def lower(mod: IRModule, isa: Isa, decisions: Decisions) -> Lowered:
    """Lower a module of composites to kernel calls for one instruction set.

    Args:
        mod: ``main`` and its composites.
        isa: The instruction set.
        decisions: Choices of kernels that overrule the cost model.

    Raises:
        CompileError: If ``main`` has an expression that the compiler does not support.
    """
    return _Lowering(mod, isa, decisions).run()


class _Lowering:
    def __init__(self, mod: IRModule, isa: Isa, decisions: Decisions) -> None:
        self.mod, self.isa, self.decisions = mod, isa, decisions
        self.graph = Graph(mod["main"])
        self.views = views(mod)
        self.writer = Writer(self.graph, mod)
        self.domains: dict[Var, Domain] = {}
        self.values: dict[Var, _Value] = {}
        self.tuples: dict[Var, list[tuple[Expr, Form, int, Domain | None]]] = {}
        self.entries: list[LoweredLayer | UnscheduledOperator] = []
        self.physical: dict[str, Physical] = {}
        self.kernels: dict[int, list[tuple[tvm.tirx.PrimFunc, tvm.ir.GlobalVar]]] = {}
        self.functions: dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc] = {}
        self.expansions: list[tuple[Var, Expansion]] = []
        self.choices: dict[Var, tuple[Layer, Choice]] = {}
        self.pooled: dict[Var, Var] = {}

    def run(self) -> Lowered:
        for param in self.graph.params:
            self._define(param, param, Form.PLAIN)
        for var, value in self.graph.bindings:
            if isinstance(value, Call) and isinstance(value.op, tvm.ir.GlobalVar):
                with defects_named(f"choosing a kernel for the layer {var.name!r}"):
                    self.choices[var] = self._choose(value)
        self.pooled = {var: conv for var in self.choices if (conv := self._pooled_convolution(var)) is not None}
        beside = set(self.pooled.values())
        for var, value in self.graph.bindings:
            with defects_named(f"lowering the layer {var.name!r}"):
                self._lower(var, value, beside)
        for result in self.graph.results:
            if isinstance(result, Var):
                self.writer.alias(result, self._form(self.values[result], Form.PLAIN))
        main = self.writer.module(IRModule({}), [param for param, _ in self.expansions])
        if self.expansions:
            main[PREPARE] = self._prepare()
        for gvar, func in (*self.mod.functions.items(), *self.functions.items()):
            if isinstance(func, tvm.tirx.PrimFunc):
                main[gvar] = func
        return Lowered(main, tuple(self.entries), self.physical)

    def _lower(self, var: Var, value: Expr, beside: set[Var]) -> None:
        """Lower one binding; the convolutions ``beside`` are computed by the kernels of their poolings."""
        if var in self.choices:
            if var not in beside and not self._unread(var):
                self._lower_layer(var, value)
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            self._define(var, *self.tuples[value.tuple_value][value.index])
        elif op_name(value) == "reshape":
            self._lower_reshape(var, value)
        elif op_name(value) == "permute_dims" and self._relabelled(var, value):
            pass
        else:
            self._leave_to_tvm(var, value)

    def _define(self, var: Var, expr: Expr, form: Form, groups: int = 1, domain: Domain | None = None) -> None:
        """Record that the value of an old variable is held by ``expr``."""
        extent = shape(var) if isinstance(var.ty, relax.TensorType) else ()
        value = _Value(var.name, extent, domain)
        self.values[var] = value
        if domain is not None:
            self.domains[var] = domain
        self._hold(value, expr, form, groups)
        if len(extent) != 4 and form in (Form.PLAIN, Form.CHANNELS_LAST):  # the last axis is the channels
            value.forms[Form.PLAIN, 1] = value.forms[Form.CHANNELS_LAST, 1] = expr

    def _hold(self, value: _Value, expr: Expr, form: Form, groups: int = 1) -> Expr:
        value.forms[form, groups] = expr
        if isinstance(expr, Var):
            view = self.views.get(value.name)
            self.physical[expr.name] = Physical(value.name, form, value.extent, value.domain, groups, view)
        return expr

    def _form(self, value: _Value, form: Form, groups: int = 1) -> Expr:
        """A value in a given form. The conversion is emitted on the first request."""
        if (form, groups) in value.forms:
            return value.forms[form, groups]
        if form == Form.PLANES:
            kernel = words_to_planes(planes_of(value.extent, self.isa), self.isa)
            converted = self._convert(f"{value.name}_planes", kernel, self._form(value, Form.BITS))
        elif form == Form.BITS:
            converted = self._to_bits(value, groups)
        elif form == Form.PLAIN:
            source = self._form(value, Form.CHANNELS_LAST)
            converted = self._transpose(value, source, nhwc_to_nchw, value.extent)
        elif (Form.PLAIN, 1) not in value.forms:
            kernel = unpack(channels_last(value.extent), value.bits_domain, self.isa)
            converted = self._convert(f"{value.name}_unpacked", kernel, self._form(value, Form.BITS))
        else:
            plain = self._form(value, Form.PLAIN)
            converted = self._transpose(value, plain, nchw_to_nhwc, channels_last(value.extent))
        return self._hold(value, converted, form, groups)

    def _to_bits(self, value: _Value, groups: int) -> Expr:
        domain = value.bits_domain
        if groups > 1:
            packed = self._form(value, Form.BITS)
            channels = value.extent[1]
            if (channels // groups) % self.isa.word_bits == 0:
                return packed
            batch, *pixel = channels_last(value.extent)
            kernel = regroup((batch * domain.bits, *pixel), channels, groups, self.isa)
            return self._convert(f"{value.name}_regrouped", kernel, packed)
        if (Form.PLANES, 1) in value.forms:
            kernel = planes_to_words(planes_of(value.extent, self.isa), self.isa)
            return self._convert(f"{value.name}_words", kernel, value.forms[Form.PLANES, 1])
        middles = tuple(Scalar(middle) for middle in domain.middles)
        output = LevelsOutput(Ref(0), middles) if len(middles) > 1 else BitsOutput(Ref(0), middles[0])
        program = Program((), (output,))
        kernel = elementwise(channels_last(value.extent), program, self.isa)
        return self._convert(f"{value.name}_packed", kernel, self._form(value, Form.CHANNELS_LAST))

    def _transpose(self, value: _Value, source: Expr, schedule: object, to: tuple[int, ...]) -> Expr:
        if len(value.extent) != 4 or value.extent[1] == 1 or value.extent[2:] == (1, 1):
            return self._reshape(source, to, value.name)
        batch, channels, height, width = value.extent
        dtype = str(source.ty.dtype)
        kernel = schedule((batch, channels, height, width), self.isa, dtype)  # type: ignore[operator]
        return self._convert(f"{value.name}_transposed", kernel, source)

    def _reshape(self, expr: Expr, to: Sequence[int], name: str) -> Expr:
        if shape(expr) == tuple(to):
            return expr
        return self.writer.emit(op.reshape(expr, tuple(to)), f"{name}_reshaped")

    def _convert(self, name: str, kernel: Kernel, source: Expr) -> Expr:
        """Emit a call of a kernel with one input and one output."""
        _, (result,) = self._emit_call(name, kernel, [source], kernel.constants)
        return result

    def _emit_call(
        self, name: str, kernel: Kernel, args: Sequence[Expr], constants: Sequence[np.ndarray | Expansion]
    ) -> tuple[Var, list[Var]]:
        """Emit a call of a kernel. Equal kernels are kept once, since their constants are arguments.

        Args:
            name: Name of the result.
            kernel: The kernel.
            args: Its data and tensor operands.
            constants: Its constants as the library stores them.

        Returns:
            The variable that is bound to the call, and the variables of the kernel's outputs.
        """
        fitted = [
            self._reshape(arg, [int(extent) for extent in param.shape], name)
            for arg, param in zip(args, kernel.func.params, strict=False)
        ]
        stored = [self._constant(each) for each in constants]
        types = [relax.TensorType(extent, dtype) for extent, dtype in kernel.outputs]
        out_types = types[0] if len(types) == 1 else types
        call = op.call_tir(self._function(kernel), relax.Tuple([*fitted, *stored]), out_types)
        if len(types) == 1:
            result = self.writer.emit(call, name)
            return result, [result]
        results = self.writer.emit(call, f"{name}_results")
        return results, [self.writer.emit(relax.TupleGetItem(results, i), f"{name}_{i}") for i in range(len(types))]

    def _constant(self, stored: np.ndarray | Expansion) -> Expr:
        if isinstance(stored, np.ndarray):
            return relax.const(tvm.runtime.tensor(stored))
        param = Var(f"constant_{len(self.expansions)}", relax.TensorType(stored.shape, stored.dtype))
        self.expansions.append((param, stored))
        return param

    def _prepare(self) -> relax.Function:
        """The function that decodes the constants that are stored coded."""
        builder, bindings, results = relax.BlockBuilder(), [], []
        for param, stored in self.expansions:
            ((size, dtype),) = stored.kernel.outputs
            coded = [relax.const(tvm.runtime.tensor(array)) for array in stored.kernel.constants]
            flat_type = relax.TensorType(size, dtype)
            call = op.call_tir(self._function(stored.kernel), relax.Tuple(coded), flat_type)
            flat = relax.DataflowVar(f"{param.name}_flat", flat_type)
            result = relax.DataflowVar(param.name, param.ty)
            shaped = builder.normalize(op.reshape(flat, stored.shape))
            bindings += [relax.VarBinding(flat, builder.normalize(call)), relax.VarBinding(result, shaped)]
            results.append(result)
        return make_function([], bindings, relax.Tuple(results), {"global_symbol": PREPARE})

    def _function(self, kernel: Kernel) -> tvm.ir.GlobalVar:
        key = int(tvm_ffi.structural_hash(kernel.func))
        for func, gvar in self.kernels.setdefault(key, []):
            if tvm_ffi.structural_equal(func, kernel.func):
                return gvar
        gvar = tvm.ir.GlobalVar(f"sbnn_{len(self.functions)}_{_symbol(kernel)}")
        func = kernel.func.with_attr("global_symbol", gvar.name_hint)
        relax.expr._update_type(gvar, func.ty)
        self.kernels[key].append((kernel.func, gvar))
        self.functions[gvar] = func
        return gvar

    def _choose(self, call: Call) -> tuple[Layer, Choice]:
        layer = read_layer(self.mod[call.op])
        return layer, choose(layer, self.isa, self.decisions)

    def _unread(self, var: Var) -> bool:
        """Whether a value is a window sum that the kernels of all its readers compute themselves."""
        users, layer = self.graph.users[var], self.choices[var][0]
        return (
            layer.sums_windows
            and var not in self.graph.results
            and all(user in self.choices and not self.choices[user][1].built.reads_operands for user in users)
        )

    def _pooled_convolution(self, var: Var) -> Var | None:
        """The convolution that one kernel should compute together with the pooling ``var``; None if there is none."""
        source = self.graph.values[var].args[0]
        if source not in self.choices or source in self.graph.results or self.graph.users[source] != [var]:
            return None
        (conv, chosen), (pool, pool_choice) = self.choices[source], self.choices[var]
        alike = chosen.candidate.family == FLOAT and chosen.candidate.serial == pool_choice.candidate.serial
        return source if alike and pools_at_once(conv, pool) else None

    def _lower_layer(self, var: Var, call: Call) -> None:
        layer, choice = self.choices[var]
        built, read = choice.built, call.args[: layer.data_inputs]
        beside = call.args[layer.data_inputs :] if built.reads_operands else ()
        if (conv := self.pooled.get(var)) is not None:
            read = self.graph.values[conv].args[:1]
            built = self._pooled_kernel(conv, layer)
        data, rest = [self._value(arg) for arg in read], [self._value(arg) for arg in beside]
        args = [self._form(each, built.reads, built.groups) for each in data]
        args += [self._form(operand, Form.CHANNELS_LAST) for operand in rest]
        coded = expansion if not self.isa.small else (lambda array: None)
        constants = tuple(coded(array) or array for array in built.kernel.constants)
        name = var.name if len(layer.outputs) < 2 else layer.name
        caller, stored = self._emit_call(name, built.kernel, args, constants)
        results: list[tuple[Expr, Form, int, Domain | None]] = []
        if isinstance(layer, BitMaxPool2d | BitSelection | BitShift | BitInterleaving):
            results.append((stored[0], Form.BITS, 1, data[0].domain))
        else:
            for expr, domain in zip(stored, layer.outputs, strict=True):
                results.append((expr, built.stores_floats if domain is None else built.stores, 1, domain))
        fields = self._fields(var)
        for field_var, (expr, form, groups, domain) in zip(fields, results, strict=True):
            if field_var is None:  # nobody reads this result
                self.tuples.setdefault(var, []).append((expr, form, groups, domain))
                continue
            logical = shape(field_var)
            expr = self._reshape(expr, _stored_shape(logical, form, domain, self.isa), field_var.name)
            if field_var is var:
                self._define(var, expr, form, groups, domain)
            else:
                self.tuples.setdefault(var, []).append((expr, form, groups, domain))
        names = tuple(f.name for f in fields if f is not None)
        if conv is not None:
            convolution, chosen = self.choices[conv]
            self.entries.append(LoweredLayer(convolution, replace(chosen, built=built), names, constants, caller.name))
            # The entry of the convolution lists the constants and results of both; that of the pooling lists none.
            names, constants = (), ()
            choice = replace(choice, built=replace(built, kernel=replace(built.kernel, constants=())))
        self.entries.append(LoweredLayer(layer, choice, names, constants, caller.name))

    def _value(self, arg: Expr) -> _Value:
        """The value of an argument of a layer, which may be a constant."""
        numbers = constant(arg)
        if numbers is None:
            return self.values[arg]
        value = _Value("constant", numbers.shape, None, {(Form.PLAIN, 1): arg, (Form.CHANNELS_LAST, 1): arg})
        if numbers.ndim == 4:
            last = np.ascontiguousarray(numbers.transpose(0, 2, 3, 1))
            value.forms[Form.CHANNELS_LAST, 1] = relax.const(last)
        return value

    def _pooled_kernel(self, conv: Var, pool: Layer) -> BuiltKernel:
        layer, choice = self.choices[conv]
        serial, member = choice.candidate.serial, choice.candidate.member
        # A user who forces the float family gets direct sums, which round in the same way as the convolution alone.
        built = build_pooled(layer, pool, self.isa, member, serial=serial, minimal_filters=not choice.forced)
        return replace(built, kernel=named(built.kernel, serial))

    def _fields(self, var: Var) -> list[Var | None]:
        """The variables that are bound to the outputs of a call, in order; None for an output that is not read."""
        if isinstance(var.ty, relax.TensorType):
            return [var]
        items = {self.graph.values[user].index: user for user in self.graph.users[var]}
        return [items.get(i) for i in range(len(var.ty.fields))]

    def _lower_reshape(self, var: Var, reshape: Call) -> None:
        source = self.values[reshape.args[0]]
        before, after = source.extent, shape(var)
        if without_pixels(before) == without_pixels(after) and len(after) in (2, 4):
            if source.forms.keys() == {(Form.PLANES, 1)}:
                self._form(source, Form.BITS)
            keys = [key for key in source.forms if key[0] in (Form.CHANNELS_LAST, Form.BITS)]
            form, groups = keys[0] if keys else (Form.PLAIN, 1)
            stored = _stored_shape(after, form, source.domain, self.isa)
            expr = self._reshape(source.forms[form, groups], stored, var.name)
            self._define(var, expr, form, groups, source.domain)
            return
        expr = self.writer.emit(op.reshape(self._form(source, Form.PLAIN), after), var.name)
        self._define(var, expr, Form.PLAIN, 1, source.domain)

    def _relabelled(self, var: Var, permute: Call) -> bool:
        """Lower a transposition between channels first and last, whose result another form of the map holds already."""
        source, axes = self.values[permute.args[0]], permute.attrs.axes
        order = None if axes is None else [int(axis) % len(axes) for axis in axes]
        if str(var.ty.dtype) not in ("float32", *STORED):
            return False
        if order == [0, 3, 1, 2]:
            stored, form = self._form(source, Form.PLAIN), Form.CHANNELS_LAST
        elif order == [0, 2, 3, 1]:
            stored, form = self._form(source, Form.CHANNELS_LAST), Form.PLAIN
        else:
            return False
        # a variable of its own: the same memory holds two values
        self._define(var, self.writer.emit(op.reshape(stored, shape(stored)), var.name), form, 1, source.domain)
        return True

    def _leave_to_tvm(self, var: Var, value: Expr) -> None:
        for arg in dict.fromkeys(operands(value)):
            if arg in self.values:
                self.writer.alias(arg, self._form(self.values[arg], Form.PLAIN))
        new = self.writer.keep(var, value)
        self._define(var, new, Form.PLAIN, 1, domain_of(self.graph, value, self.domains))
        name = op_name(value)
        if name == "call_tir":  # TVM's importer writes some operators as loops
            name = str(value.args[0].name_hint)
        if not name and not isinstance(value, relax.TupleGetItem):
            raise CompileError(f"'{var.name}' is a {type(value).__name__}, which the compiler does not support")
        if name:
            self.entries.append(UnscheduledOperator(var.name, name))


def _symbol(kernel: Kernel) -> str:
    """The last part of a kernel's symbol, after ``sbnn_NUMBER_``."""
    return re.sub(r"\W+", "_", kernel.name.split()[0])


def planes_of(extent: tuple[int, ...], isa: Isa) -> PlaneLayout:
    """The bit plane layout of a value of logical shape [N, C, H, W]."""
    batch, channels, height, width = extent
    return plane_layout(batch, height, width, channels, isa)


def _stored_shape(extent: tuple[int, ...], form: Form, domain: Domain | None, isa: Isa) -> tuple[int, ...]:
    if form == Form.PLAIN:
        return extent
    if form == Form.PLANES:
        return planes_of(extent, isa).shape
    stored = channels_last(extent) if len(extent) == 4 or form == Form.BITS else extent
    return stored if form != Form.BITS or domain is None else packed_shape(stored, domain.bits, isa)
