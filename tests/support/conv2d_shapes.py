"""The shapes of convolutions that every family of kernels is tested with."""

from __future__ import annotations

from sbnn_tvm.schedules.shapes import Conv2dShape

SHAPES = {
    "plain": Conv2dShape(1, 9, 9, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)),
    "channel tails": Conv2dShape(2, 5, 7, 37, 43, (3, 3), (1, 1), (1, 1, 1, 1)),
    "no padding": Conv2dShape(1, 6, 5, 70, 24, (3, 2)),
    "asymmetric": Conv2dShape(1, 7, 6, 20, 16, (3, 3), (2, 1), (0, 2, 1, 0)),
    "strided 5x5": Conv2dShape(1, 11, 8, 9, 12, (5, 5), (2, 3), (2, 2, 2, 2)),
    "dilated": Conv2dShape(1, 9, 8, 33, 10, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "1x1": Conv2dShape(2, 4, 5, 128, 130),
    "strided 1x1": Conv2dShape(1, 7, 7, 16, 32, (1, 1), (2, 2)),
    "all border": Conv2dShape(1, 2, 1, 8, 8, (5, 3), (1, 1), (2, 1, 2, 1)),
    "1x1 of 3 words": Conv2dShape(2, 5, 9, 190, 40, (1, 1), (1, 2)),
    "row of 3 words": Conv2dShape(1, 6, 5, 20, 16, (2, 3), (1, 2), (1, 0, 0, 1), (2, 1)),
    "stem": Conv2dShape(1, 13, 13, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)),
    "2 groups": Conv2dShape(1, 5, 6, 34, 48, (3, 3), (1, 1), (1, 1, 1, 1), groups=2),
    "3 odd groups": Conv2dShape(2, 4, 5, 15, 21, (3, 3), (1, 1), (1, 0, 1, 2), (1, 2), groups=3),
    "depthwise": Conv2dShape(1, 5, 5, 19, 19, (3, 3), (1, 1), (1, 1, 1, 1), groups=19),
}
