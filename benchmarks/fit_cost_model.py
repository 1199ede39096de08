"""How far off is the compiler's cost model, and which constants fit this machine?

Run ``python benchmarks/fit_cost_model.py``, on one core that nobody else uses.

1. For every shape, density of set weights and epilogue, the popcount kernel and the counters are timed in turns. For
   every layout of planes the conversions between words and planes are timed too, and so are float kernels, dense and
   with few weights. For ARM targets an emulator counts
   executions instead. For aarch64 they become cycles by LLVM's models of cores (core_cycles.py), one fit per class of
   cores and one for all classes, in vector instructions of a good loop; for armv7 they are instructions.
2. Each time is a sum of steps whose numbers are known (passes/families/). The fit finds the cost per
   step that minimises the sum of squared relative errors.
3. Two tables compare the present constants with the fitted ones: predicted over measured time, and the loss from the
   choice between the two families (time of the chosen family over time of the faster one).

``--write`` writes the fitted constants into passes/families/costs.py. In the output of ``--output`` a
nanosecond stands for an instruction on ARM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import tvm
from chains import library_of, residual_epilogue
from command_line import console, parser
from core_cycles import CLASSES, Execution, execute, instructions_of_class, missing_tools
from layers import convolution
from records import Machine, Record, read, write
from rich.progress import track
from rich.table import Table
from scipy.optimize import nnls

from sbnn_tvm.algebra.domain import BIT, SIGN, Domain
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.passes.families import costs as table
from sbnn_tvm.passes.families.costs import COSTS, Steps
from sbnn_tvm.passes.families.counters import conversion_steps, counter_steps
from sbnn_tvm.passes.families.float32 import float_steps
from sbnn_tvm.passes.families.popcount import popcount_steps
from sbnn_tvm.passes.families.sparse_float import sparse_steps
from sbnn_tvm.profiling.timing import Burst, interleave_bursts
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import STORE, Epilogue, IntegerThreshold
from sbnn_tvm.schedules.isa import ISAS, Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.bit_planes import plane_layout
from sbnn_tvm.schedules.layouts.plane_conversions import planes_to_words, words_to_planes
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d
from sbnn_tvm.tuning.build_candidate import library_kernel
from sbnn_tvm.tuning.measure_candidate import burst_of

DENSITIES = {"counters": (0.01, 0.03, 0.1, 0.25, 0.5), "counters {0, 1}": (0.03, 0.1)}
FLOATS = {"bits": False, "float + bits": True}
POPCOUNT, CONVERSIONS, FLOAT = "popcount", "conversions", "float"
COUNTERS = {"counters": SIGN, "counters {0, 1}": BIT}
SPARSE: dict[str, Domain | None] = {"sparse float": None, "sparse float on bits": SIGN}
SPARSE_DENSITIES = (0.05, 0.2)


SHAPES = (
    *(convolution(size, channels, channels) for size, channels in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(convolution(2 * size, channels // 2, channels, stride=2) for size, channels in ((28, 128), (14, 256), (7, 512))),
    *(convolution(size, channels, channels) for size, channels in ((32, 128), (16, 256), (8, 512), (4, 512))),
    *(convolution(size, channels, channels, kernel=1) for size, channels in ((28, 256), (14, 512))),
)


@dataclass(frozen=True)
class Case:
    """A kernel, or a pair of conversions, to time.

    Attributes:
        shape: The layer.
        kernel: ``POPCOUNT``, one of ``COUNTERS``, ``CONVERSIONS``, ``FLOAT`` or one of ``SPARSE``. Conversions are
            of words to planes and, if the layer stores planes, of planes to words.
        epilogue: One of ``FLOATS``; "float" for float kernels, which only store.
        density: Share of set weights, or of weights that are not 0; None if they do not matter.
    """

    shape: Conv2dShape
    kernel: str
    epilogue: str
    density: float | None = None

    @property
    def weights(self) -> np.ndarray:
        """bool [OC, Cin, kh, kw], at random positions."""
        size = (self.shape.out_channels, self.shape.in_channels, *self.shape.kernel)
        return np.random.default_rng(0).random(size) < (self.density or 0.5)

    @property
    def float_weights(self) -> np.ndarray:
        """float32 [OC, Cin, kh, kw], 0 where a weight is not set."""
        values = np.random.default_rng(1).standard_normal(self.weights.shape).astype(np.float32)
        return values if self.density is None else values * self.weights

    def steps(self, isa: Isa) -> Steps:
        """The number of steps of each kind."""
        if self.kernel == FLOAT:
            return float_steps(self.shape, isa)
        if self.kernel in SPARSE:
            return sparse_steps(self.shape, self.float_weights, isa, SPARSE[self.kernel])
        floats = FLOATS[self.epilogue]
        if self.kernel == CONVERSIONS:
            return conversion_steps(self.shape, isa, floats)
        if self.kernel == POPCOUNT:
            return popcount_steps(self.shape, isa, floats)
        return counter_steps(self.shape, self.weights, isa, floats, COUNTERS[self.kernel])

    def kernels(self, isa: Isa) -> list[Kernel]:
        """The kernels, to be called one after the other."""
        s = self.shape
        if self.kernel == FLOAT:
            return [float_conv2d(s, self.float_weights, STORE, isa)]
        if self.kernel in SPARSE:
            return [sparse_float_conv2d(s, self.float_weights, STORE, isa, SPARSE[self.kernel])]
        floats = FLOATS[self.epilogue]
        if self.kernel == CONVERSIONS:
            ins, outs = (
                (s.batch, s.height, s.width, s.in_channels),
                (s.batch, s.out_height, s.out_width, s.out_channels),
            )
            before, after = (
                words_to_planes(plane_layout(*ins, isa), isa),
                planes_to_words(plane_layout(*outs, isa), isa),
            )
            return [before] if floats else [before, after]
        epilogue = epilogue_of(s, floats)
        if self.kernel == POPCOUNT:
            return [popcount_conv2d(s, self.weights, 0, epilogue, isa)]
        return [sparse_conv2d(s, self.weights, 0, epilogue, isa, weight_domain=COUNTERS[self.kernel])]


def epilogue_of(shape: Conv2dShape, floats: bool) -> Epilogue:
    """A threshold, or the epilogue of a residual network: scale, bias, residual, PReLU; floats and bits out."""
    rng = np.random.default_rng(1)
    if not floats:
        return IntegerThreshold(rng.integers(-8, 9, shape.out_channels), np.zeros(shape.out_channels, bool))
    return residual_epilogue(shape.out_channels, rng)


def cases(shapes: Sequence[Conv2dShape], binary: bool = True, floats: bool = True) -> list[Case]:
    """All cases that are measured: those of kernels on bits, of float kernels, or both."""
    found = []
    for shape in shapes if floats else ():
        found.append(Case(shape, FLOAT, "float"))
        found += [Case(shape, name, "float", density) for name in SPARSE for density in SPARSE_DENSITIES]
    for shape in shapes if binary else ():
        for epilogue in FLOATS:
            found += [Case(shape, kernel, epilogue) for kernel in (POPCOUNT, CONVERSIONS)]
            found += [Case(shape, name, epilogue, density) for name, ds in DENSITIES.items() for density in ds]
    return found


def arguments_of(kernel: Kernel) -> list[np.ndarray]:
    """Arrays for the arguments of a kernel; its inputs are random."""
    rng = np.random.default_rng(0)
    inputs = [argument.random(rng) for argument in library_kernel("kernel", kernel).inputs]
    return [*inputs, *kernel.constants, *(np.zeros(*output) for output in kernel.outputs)]


def built(case: Case, target: CpuTarget) -> list[Burst]:
    """The kernels of a case, ready to be timed."""
    device, bursts = tvm.cpu(), []
    for kernel in case.kernels(target.isa):
        library = library_of(kernel, target).jit()
        tensors = [tvm.runtime.tensor(array, device) for array in arguments_of(kernel)]
        bursts.append(burst_of(library, "kernel", tensors, device))
    return bursts


def executed(case: Case, target: CpuTarget) -> list[Execution]:
    """The executions of a case's kernels in the emulator."""
    kernels = case.kernels(target.isa)
    emulators = [Emulator(tvm.IRModule({"kernel": kernel.func}), target) for kernel in kernels]
    return [execute(e, target.machine, "kernel", arguments_of(k)) for e, k in zip(emulators, kernels, strict=True)]


def counted(case: Case, target: CpuTarget) -> dict[Isa, float]:
    """What a case costs in instructions: for armv7 as executed, for aarch64 by cycles, for each class and for all."""
    executions, isa = executed(case, target), target.isa
    if target.machine == "arm":
        return {isa: float(sum(each.instructions for each in executions))}
    named = {isa.core: CLASSES[isa.core]} if isa.core else CLASSES
    # The models of two cores lack dot products.
    cores = {core: names[isa.dot_product and core == "in-order" :] for core, names in named.items()}
    if isa.dot_product:
        cores.pop("a72", None)
    costs = {replace(isa, core=core): instructions_of_class(executions, names) for core, names in cores.items()}
    return {**costs, replace(isa, core=None): sum(costs.values()) / len(costs)} if isa.core is None else costs


def measured(bursts: Mapping[Case, Sequence[Burst]], seconds: float) -> dict[Case, float]:
    """Seconds of each case: the sum over its kernels of their fastest samples, taken in turns."""
    names = {f"{number} {i}": (case, each) for number, case in enumerate(bursts) for i, each in enumerate(bursts[case])}
    rounds = interleave_bursts({name: each for name, (_, each) in names.items()}, seconds)
    times = dict.fromkeys(bursts, 0.0)
    for name, (case, _) in names.items():
        times[case] += min(min(turn) for turn in rounds[name])
    return times


def fit(times: Mapping[Case, float], isa: Isa) -> Steps:
    """The costs in nanoseconds (or instructions) that fit the times best.

    With n_ij steps of kind j in case i, and its time t_i, the costs c_j >= 0 minimise the sum over i of
    (sum_j n_ij c_j / t_i - 1)^2: a non-negative least-squares problem. Steps that no case has keep their cost.
    """
    rows = np.array([astuple(case.steps(isa)) for case in times]) / np.array([[time * 1e9] for time in times.values()])
    used = rows.any(axis=0)
    costs = np.array(astuple(COSTS[isa.costs]))
    # The numbers of steps differ by orders of magnitude.
    scale = rows[:, used].max(axis=0)
    costs[used] = nnls(rows[:, used] / scale, np.ones(len(rows)))[0] / scale
    return Steps(*(float(f"{cost:.3g}") for cost in costs))


@dataclass(frozen=True)
class Choice:
    """The choice of a cost model for a binary layer between packed words.

    Attributes:
        case: The layer by counters.
        counters: Whether counters are chosen.
        lost: The time of the chosen family, divided by the time of the faster one.
    """

    case: Case
    counters: bool
    lost: float


def choices(times: Mapping[Case, float], factors: Steps, isa: Isa) -> list[Choice]:
    """The choice of a cost model for each measured layer."""
    found = []
    for case in times:
        if case.kernel in COUNTERS:
            popcount, conversions = (replace(case, kernel=name, density=None) for name in (POPCOUNT, CONVERSIONS))
            seconds = times[popcount], times[case] + times[conversions]
            costs = [factors.cost(each.steps(isa)) for each in (popcount, case, conversions)]
            counters = costs[1] + costs[2] < costs[0]
            found.append(Choice(case, counters, seconds[counters] / min(seconds)))
    return found


def errors_table(times: Mapping[Case, float], models: Mapping[str, Steps], isa: Isa, title: str) -> Table:
    """One row per kernel and epilogue: predicted over measured times, by each model."""
    out = Table(title=title)
    for heading in ("kernel", "stores", "layers"):
        out.add_column(heading)
    for name in models:
        out.add_column(f"{name}: median, range", justify="right")
    for kernel, epilogue in dict.fromkeys((case.kernel, case.epilogue) for case in times):
        some = [case for case in times if (case.kernel, case.epilogue) == (kernel, epilogue)]
        cells = []
        for factors in models.values():
            ratios = [factors.cost(case.steps(isa)) / (times[case] * 1e9) for case in some]
            cells.append(f"{np.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
        out.add_row(kernel, epilogue, str(len(some)), *cells)
    return out


def choices_table(times: Mapping[Case, float], models: Mapping[str, Steps], isa: Isa) -> Table:
    """One row per model: how good its choices between popcounts and counters are."""
    out = Table(title="The choice between popcounts and counters")
    for heading in ("constants", "slower by more than 5 %", "by more than 15 %", "worst", "where"):
        out.add_column(heading, justify="left" if heading in ("constants", "where") else "right")
    for name, factors in models.items():
        found = choices(times, factors, isa)
        worst = max(found, key=lambda each: each.lost)
        where = f"{label(worst.case.shape)}, {worst.case.density:.0%}, {worst.case.kernel}, {worst.case.epilogue}: "
        where += "counters" if worst.counters else "popcounts"
        wrong = [f"{sum(each.lost > limit for each in found)} of {len(found)}" for limit in (1.05, 1.15)]
        out.add_row(name, *wrong, f"{worst.lost:.2f}", where)
    return out


def label(shape: Conv2dShape) -> str:
    """The name of a layer, for example ``"3x3/2 56x56 64-128"``."""
    kernel, stride = shape.kernel[0], "" if shape.strides == (1, 1) else f"/{shape.strides[0]}"
    return f"{kernel}x{kernel}{stride} {shape.height}x{shape.width} {shape.in_channels}-{shape.out_channels}"


def store(factors: Steps, isa: Isa) -> None:
    """Write the constants of an instruction set into the file that the compiler reads."""
    path = Path(table.__file__)
    costs = ", ".join(f"{cost:g}" for cost in astuple(factors))
    line = f'    "{isa.costs}": Steps({costs}),'
    pattern = rf'^    "{re.escape(isa.costs)}": Steps\([^)]*\),$'
    text, found = re.subn(pattern, line, path.read_text(), flags=re.MULTILINE)
    if found != 1:
        raise SystemExit(f"{path} has no line for {isa.costs}")
    path.write_text(text)


def main() -> None:
    """Measure, fit, and compare the present constants with the fitted ones."""
    options = parser(__doc__)
    options.add_argument("--target", default="native", help="target to compile for: this machine, or an ARM target")
    options.add_argument("--seconds", type=float, default=60.0, help="time to measure (default: %(default)s)")
    options.add_argument("--only", default="", metavar="TEXT", help="measure only layers whose name contains TEXT")
    options.add_argument(
        "--kernels", choices=("binary", "float", "all"), default="all", help="kernels to measure (default: %(default)s)"
    )
    options.add_argument("--input", type=Path, help="fit to this output of an earlier run instead of measuring")
    options.add_argument(
        "--write", action="store_true", help="write the fitted constants into passes/families/costs.py"
    )
    arguments = options.parse_args()
    target, machine, out = resolve(arguments.target), Machine(), console()
    isa = target.isa
    times: dict[Isa, dict[Case, float]] = {}
    if arguments.input:
        machine, records = read(arguments.input)
        for each in records:
            case = Case(each.shape, each.kernel, each.epilogue, each.density)
            times.setdefault(_isa(each.isa), {})[case] = each.seconds
    else:
        use_threads(1)
        shapes = [shape for shape in SHAPES if arguments.only in label(shape)]
        wanted = cases(shapes, arguments.kernels != "float", arguments.kernels != "binary")
        if target.native:
            bursts = {case: built(case, target) for case in track(wanted, "building", console=out, transient=True)}
            times[isa] = measured(bursts, arguments.seconds)
        else:
            if target.machine == "aarch64" and (missing := missing_tools()):
                raise SystemExit(missing)
            for case in track(wanted, "counting executions", console=out, transient=True):
                for each, cost in counted(case, target).items():
                    times.setdefault(each, {})[case] = cost * 1e-9
    if arguments.output:
        rows = [
            Record(label(case.shape), case.shape, case.kernel, each.costs, case.epilogue, time, case.density)
            for each, some in times.items()
            for case, time in some.items()
        ]
        write(arguments.output, rows, machine)
    for isa, some in times.items():
        models = {"present": COSTS[isa.costs], "fitted": fit(some, isa)}
        out.print(errors_table(some, models, isa, f"Predicted over measured, {isa.costs}, {machine}"))
        if any(case.kernel in COUNTERS for case in some):
            out.print(choices_table(some, models, isa))
        for name, factors in models.items():
            out.print(f"{name}: {factors}", highlight=False)
        if arguments.write:
            store(models["fitted"], isa)


def _isa(costs: str) -> Isa:
    """The instruction set, and the class of cores, of a record."""
    name, _, core = costs.partition(" ")
    return replace(ISAS[name], core=core or None)


if __name__ == "__main__":
    main()
