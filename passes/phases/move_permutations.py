"""Move transpositions and reshapes along the graph until they cancel, meet constants, or reach the model's edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var

from ..relax.facts import with_views
from ..relax.graph import Graph, Writer, drop_dead, op_name, operands, shape
from ..relax.permutable import KEEPS_AXES, Moved, Operands, is_movable, moved
from ..relax.views import View


def move_permutations(mod: IRModule) -> IRModule:
    """Rewrite a graph with channels last, or with other constant permutations, as if it were written NCHW.

    1. ``permute_dims`` and ``reshape`` compute nothing: they become a ``View`` of the tensor before them.
    2. An operator that works in any layout (relax/permutable.py) reads the stored tensors: its axes are renamed, its
       constants are permuted. Its result has the same view.
    3. Where views cancel, nothing remains. A dense layer gets permuted rows. Any other operator that needs the axes in
       their order (a convolution, a result of the model) gets a ``permute_dims``, which all its readers share.

    The operators that work in any layout form regions between those that do not. A region that would need more
    permutations in this way than the model wrote stays as it is. Variables keep their names; those that hold a value in
    another layout are recorded (``relax.facts.views``).

    Example: ``conv2d, permute_dims (0, 2, 3, 1), relu, pad, permute_dims (0, 3, 1, 2), conv2d``, as tf2onnx writes
    networks of Keras, becomes ``conv2d, relu, pad, conv2d``.
    """
    if not any(_is_layout(var, value) for var, value in Graph(mod["main"]).bindings):
        return mod
    mod = drop_dead(mod)
    graph = Graph(mod["main"])
    regions = _regions(graph)
    written = _written(graph, regions)
    mover = _Mover(graph, regions, frozenset(written))
    mover.run()
    worse = {region for region, cost in mover.cost.items() if cost > written[region]}
    if worse:
        mover = _Mover(graph, regions, frozenset(written) - worse)
        mover.run()
    new = drop_dead(mover.writer.module(mod))
    names = {var.name for var, _ in Graph(new["main"]).bindings}
    return with_views(new, {name: view for name, view in mover.views.items() if name in names})


Cost = tuple[int, int]
"""The number of permutations, and the number of elements that they move."""


def _regions(graph: Graph) -> dict[Var, Var]:
    """For each variable one that stands for its region: values that operators which work in any layout connect."""
    parent: dict[Var, Var] = {var: var for var in graph.users}

    def root(var: Var) -> Var:
        while parent[var] is not var:
            parent[var] = parent[parent[var]]
            var = parent[var]
        return var

    for var, value in graph.bindings:
        if is_movable(value):
            for operand in operands(value):
                parent[root(operand)] = root(var)
    return {var: root(var) for var in parent}


def _is_layout(var: Var, value: Expr) -> bool:
    """Whether a value is a transposition, or a map of one row as a sequence: [N, C, 1, L] as [N, C, L] or back."""
    if op_name(value) == "permute_dims":
        return True
    if op_name(value) not in ("reshape", "squeeze", "expand_dims"):
        return False
    few, many = sorted((shape(value.args[0]), shape(var)), key=len)
    return (len(few), len(many)) == (3, 4) and few[:2] == many[:2] and 1 in many[2:]


def _written(graph: Graph, regions: Mapping[Var, Var]) -> dict[Var, Cost]:
    """The cost of the permutations in each region that has any, or sequences."""
    cost: dict[Var, Cost] = {}
    for var, value in graph.bindings:
        if _is_layout(var, value):
            count, elements = cost.get(regions[var], (0, 0))
            axes = _axes(value) if op_name(value) == "permute_dims" else range(len(shape(value.args[0])))
            moves = not View.identity(shape(value.args[0])).permuted(axes).is_reshape
            cost[regions[var]] = (count + moves, elements + moves * prod(shape(var)))
    return cost


def _axes(permute: Call) -> list[int]:
    rank = len(shape(permute.args[0]))
    axes = permute.attrs.axes
    return list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]


class _Mover:
    """One walk over the graph in which the regions ``open`` are rewritten, and the others copied.

    Attributes:
        writer: The new function.
        cost: The permutations that were written for values of each region.
        views: By name of each new variable that holds a value in another layout, how the value is read from it.
    """

    def __init__(self, graph: Graph, regions: Mapping[Var, Var], open_regions: frozenset[Var]) -> None:
        self.graph, self.regions, self.open = graph, regions, open_regions
        self.writer = Writer(graph)
        self.cost: dict[Var, Cost] = {}
        self.views: dict[str, View] = {}
        self._stored: dict[Var, Moved] = {}
        self._read: dict[tuple[Var, View], Var] = {}
        self._bound: set[Var] = set(graph.params)
        self._wanted = _wanted(graph)

    def run(self) -> None:
        """Rewrite all bindings, then the results."""
        for param in self.graph.params:
            extent = shape(param) if isinstance(param.ty, relax.TensorType) else ()
            self._stored[param] = self._as_image(param, Moved(param, View.identity(extent)))
        for var, value in self.graph.bindings:
            if self._is_open(var) and isinstance(var.ty, relax.TensorType) and self._move(var, value):
                continue
            if self._is_open(var) and op_name(value) == "split" and self._split(var, value):
                continue
            for operand in dict.fromkeys(operands(value)):
                if isinstance(operand.ty, relax.TensorType):
                    self.writer.alias(operand, self._plain(operand))
            self._bind(var, self.writer[value])
        for result in self.graph.results:
            if isinstance(result, Var):
                self.writer.alias(result, self._plain(result))

    def _is_open(self, var: Var) -> bool:
        return self.regions[var] in self.open

    def _as_image(self, var: Var, stored: Moved) -> Moved:
        """Permute an image of floats at once if its readers want that, so that all after it has their layout."""
        axes = self._wanted.get(var)
        if not self._is_open(var) or axes is None or len(axes) < 4 or str(var.ty.dtype) != "float32":
            return stored
        view = stored.view.permuted(axes)
        if view.is_reshape:
            return stored
        tensor = self._materialise(var, stored.tensor, view)
        return Moved(tensor, View.identity(shape(var)).permuted(axes).inverse())

    def _bind(self, var: Var, value: Expr, view: View | None = None) -> None:
        """Let ``value``, from which ``view`` reads the value of an old variable, have the name of that variable."""
        new = self.writer.bind(var, value)
        self._bound.add(var)
        if not isinstance(var.ty, relax.TensorType):
            return
        view = View.identity(shape(var)) if view is None else view
        self._stored[var] = Moved(new, view)
        if not view.is_identity:
            self.views[new.name] = view

    def _move(self, var: Var, value: Expr) -> bool:
        """Rewrite one binding in the layout of what it reads; False if that is not possible."""
        name = op_name(value)
        if isinstance(value, relax.TupleGetItem):
            return var in self._stored
        if name == "permute_dims":
            source = self._stored[value.args[0]]
            self._stored[var] = Moved(source.tensor, source.view.permuted(_axes(value)))
            return True
        if name in ("reshape", "squeeze", "expand_dims"):
            return self._reshape(var, value)
        found = moved(_Operands(self, var), var, value)
        if found is None and self._settle(value):
            found = moved(_Operands(self, var), var, value)
        if found is None:
            return False
        if isinstance(found.tensor, Var):  # the operator computes nothing
            self._stored[var] = found
            return True
        self._bind(var, found.tensor, found.view)
        if name == "astype" and value.args[0] in self.graph.params:
            self._stored[var] = self._as_image(var, self._stored[var])
        return True

    def _settle(self, value: Expr) -> bool:
        """Permute what an operator reads to the order of axes that is wanted, each axis whole; False if all are so."""
        settled = False
        for operand in dict.fromkeys(operands(value)):
            source, axes = self._stored[operand], self._wanted.get(operand)
            axes = tuple(range(len(source.view.shape))) if axes is None else axes
            view = View.identity(source.view.shape).permuted(axes).inverse()
            if source.view != view:
                tensor = self._materialise(operand, source.tensor, source.view.permuted(axes))
                self._stored[operand] = Moved(tensor, view)
                settled = True
        return settled

    def _reshape(self, var: Var, value: Call) -> bool:
        source = self._stored[value.args[0]]
        view = source.view.reshaped(shape(var))
        if view is not None:
            self._stored[var] = Moved(source.tensor, view)
            return True
        if not source.view.is_reshape:
            return False
        self._bind(var, relax.op.reshape(source.tensor, shape(var)))
        return True

    def _split(self, var: Var, split: Call) -> bool:
        """Split the stored tensor. The parts are the values of their ``TupleGetItem``s."""
        source = self._stored.get(split.args[0])
        if source is None:
            return False
        axis = int(split.attrs.axis) % len(source.view.shape)
        stored = source.view.stored_axis(axis)
        parts = [
            (user, source.view.resized({axis: shape(user)[axis]}))
            for user in self.graph.users[var]
            if isinstance(self.graph.values[user], relax.TupleGetItem)
        ]
        if stored is None or len(parts) != len(self.graph.users[var]) or any(view is None for _, view in parts):
            return False
        where = split.attrs.indices_or_sections
        sections = int(where) if not hasattr(where, "__len__") else [int(index) for index in where]
        self._bind(var, relax.op.split(source.tensor, sections, stored))
        for user, view in parts:
            self._bind(user, self.writer[self.graph.values[user]], view)
        return True

    def _plain(self, var: Var) -> Expr:
        """The value of an old variable in its own layout."""
        source = self._stored[var]
        return self._materialise(var, source.tensor, source.view)

    def _materialise(self, var: Var, tensor: Var, view: View) -> Var:
        """The tensor that a view reads; it is written once. ``var`` is the old variable for which it is read."""
        if view.is_identity:
            return tensor
        if (tensor, view) in self._read:
            return self._read[tensor, view]
        own = var not in self._bound and view == self._stored[var].view
        name = f"{var.name}_transposed"
        cut, axes = view.steps()
        steps: list[tuple[str, Sequence[int]]] = []
        if view.is_reshape:
            steps = [("reshape", view.shape)]
        else:
            steps = [("permute_dims", axes)]
            if cut != view.stored:
                steps.insert(0, ("reshape", cut))
            if tuple(cut[axis] for axis in axes) != view.shape:
                steps.append(("reshape", view.shape))
            count, elements = self.cost.get(self.regions[var], (0, 0))
            self.cost[self.regions[var]] = (count + 1, elements + prod(view.shape))
        new = tensor
        for i, (operator, numbers) in enumerate(steps):
            value = getattr(relax.op, operator)(new, numbers)
            if own and i == len(steps) - 1:
                new = self.writer.bind(var, value)
                self._bound.add(var)
            else:
                new = self.writer.emit(value, name)
        self._read[tensor, view] = new
        self._read[new, view.inverse()] = tensor
        return new


class _Operands(Operands):
    """What the rules of an operator see of the walk."""

    def __init__(self, mover: _Mover, var: Var) -> None:
        self._mover, self._var = mover, var

    def stored(self, operand: Var) -> Moved:
        return self._mover._stored[operand]

    def brought(self, operand: Var, view: View) -> Var | None:
        source = self._mover._stored[operand]
        have: View | None = source.view
        if len(view.shape) != len(source.view.shape):
            have = source.view.reshaped(view.shape)
        way = None if have is None else have.then(view.inverse())
        return None if way is None else self._mover._materialise(operand, source.tensor, way)

    def permutations(self, operand: Var, view: View) -> int:
        have = self._mover._stored[operand].view.reshaped(view.shape)
        way = None if have is None else have.then(view.inverse())
        return 2 if way is None else int(not way.is_reshape)

    def wanted(self, view: View) -> bool:
        axes = self._mover._wanted.get(self._var)
        return axes is not None and view.permuted(axes).is_reshape

    def emit(self, value: Expr, name: str) -> Var:
        return self._mover.writer.emit(value, name)


def _wanted(graph: Graph) -> dict[Var, tuple[int, ...]]:
    """The order of its axes in which most readers want each value, as the axes of a ``permute_dims``.

    Readers that work in any layout want what their own readers want, if the axes are the same, and nothing otherwise.
    """
    votes: dict[Var, Counter[tuple[int, ...]]] = {}
    wanted: dict[Var, tuple[int, ...]] = {}

    def vote(variables: Iterable[Var], axes: Sequence[int] | None) -> None:
        for var in variables:
            if isinstance(var.ty, relax.TensorType):
                own = tuple(range(len(shape(var))))
                votes.setdefault(var, Counter())[own if axes is None else tuple(axes)] += 1

    vote((result for result in graph.results if isinstance(result, Var)), None)
    for var, value in reversed(graph.bindings):
        if var in votes:
            wanted[var] = votes[var].most_common(1)[0][0]
        after = wanted.get(var)
        name = op_name(value)
        if after is not None and name == "permute_dims":
            axes = _axes(value)
            vote(operands(value), [axes[axis] for axis in after])
        elif after is not None and name in KEEPS_AXES:
            same = [operand for operand in operands(value) if len(shape(operand)) == len(after)]
            vote(dict.fromkeys(same), after)
        elif not is_movable(value):
            vote(dict.fromkeys(operands(value)), None)
    for param in graph.params:
        if param in votes:
            wanted[param] = votes[param].most_common(1)[0][0]
    return wanted
