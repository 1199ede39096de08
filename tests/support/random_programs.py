"""Random elementwise programs: straight-through terms, comparisons, clips, roundings, masks, constants per lane."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.passes.step_functions.program import BOOL, FLOAT, Program

_NUMBERS = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 0.1, -0.25, 1 / 3, 1.7, 15.0, 1e-3, 255.0]
_ARITHMETIC = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
_ONE = ("sign", "round", "floor", "ceil", "abs", "negative", "sign", "round")


def random_program(rng: np.random.Generator, operations: int = 10) -> Program:
    """A program of float32 and bool operations on one input; its last node is a float32 number."""
    program = Program()
    lanes = int(rng.choice([1, 1, 3]))
    floats, conditions = [0], []

    def number() -> int:
        values = rng.choice(_NUMBERS, lanes if rng.random() < 0.3 else 1).astype(np.float32)
        return program.constant(values)

    def operand() -> int:
        return number() if rng.random() < 0.4 else int(rng.choice(floats[-4:] if rng.random() < 0.7 else floats))

    for _ in range(operations):
        draw = rng.random()
        if draw < 0.45:
            floats.append(program.add(str(rng.choice(_ARITHMETIC)), [int(rng.choice(floats[-3:])), operand()], FLOAT))
        elif draw < 0.65:
            floats.append(program.add(str(rng.choice(_ONE)), [int(rng.choice(floats[-4:]))], FLOAT))
        elif draw < 0.75:  # a straight-through term: what is added is taken away again
            target, through = (int(rng.choice(floats)) for _ in range(2))
            difference = program.add("subtract", [target, through], FLOAT)
            floats.append(program.add("add", sorted([difference, through], reverse=bool(rng.random() < 0.5)), FLOAT))
        elif draw < 0.85 or not conditions:
            conditions.append(
                program.add(str(rng.choice(_COMPARISONS)), [int(rng.choice(floats[-4:])), operand()], BOOL)
            )
            floats.append(program.add("to_float", conditions[-1:], FLOAT))
        elif draw < 0.9:
            both = [int(each) for each in rng.choice(conditions, 2)]
            conditions.append(program.add(str(rng.choice(["logical_and", "logical_or", "logical_xor"])), both, BOOL))
        else:
            floats.append(program.add("where", [int(rng.choice(conditions)), operand(), operand()], FLOAT))
    program.add("add", [floats[-1], program.constant(np.zeros(1))], FLOAT)
    return program
