"""Run a compiled model on every frame of a raw video, as a program on a board does. Needs numpy and nothing else.

    python frames.py model.so frames.raw
    ffmpeg -i street.mp4 -f rawvideo -pix_fmt rgb24 -s 32x32 - | python frames.py model.so - --pixels -1 1

A frame is the model's input as it lies in memory: float32 in the order of its shape, for example. With ``--pixels`` it
is an image as cameras give it: one byte for each channel of each pixel, all channels of a pixel together.

For each frame a line has its number, the index of the largest output, and that output. The last lines are a summary.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

import sbnn_tvm


def raw_frames(stream: BinaryIO, model: sbnn_tvm.LoadedModule) -> Iterator[np.ndarray]:
    """The frames of a stream, each the model's input [its shape]."""
    (spec,) = model.inputs
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    for data in _pieces(stream, size):
        yield np.frombuffer(data, dtype).reshape(spec.shape)


def pixel_frames(stream: BinaryIO, model: sbnn_tvm.LoadedModule, dark: float, bright: float) -> Iterator[np.ndarray]:
    """The images of a stream, uint8 [height, width, channels], as float32 [1, channels, height, width].

    Args:
        stream: The images, one after the other.
        model: The model, with such an input.
        dark, bright: What the model reads for a byte of 0, and for one of 255.
    """
    (spec,) = model.inputs
    if len(spec.shape) != 4 or spec.shape[0] != 1 or spec.dtype != "float32":
        raise SystemExit(f"--pixels needs a model of one float32 image [1, channels, height, width], but it has {spec}")
    _, channels, height, width = spec.shape
    values = np.linspace(dark, bright, 256, dtype=np.float32)  # of each byte
    for data in _pieces(stream, channels * height * width):
        pixels = np.frombuffer(data, np.uint8).reshape(1, height, width, channels)
        yield values[pixels.transpose(0, 3, 1, 2)]


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while data := stream.read(size):
        if len(data) < size:
            print(f"the last frame has {len(data)} of {size} bytes, and is left out", file=sys.stderr)
            return
        yield data


def main(arguments: list[str] | None = None) -> int:
    """Run the program; the result is its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a library that sbnn_tvm exported")
    parser.add_argument("frames", help="a file of raw frames; - is standard input")
    parser.add_argument("--pixels", nargs=2, type=float, metavar=("DARK", "BRIGHT"), help="frames are images of bytes")
    parser.add_argument("--threads", type=int, help="threads that share the work of a frame")
    options = parser.parse_args(arguments)
    try:
        model = sbnn_tvm.load(options.model, options.threads)
    except sbnn_tvm.SbnnError as error:
        print(error, file=sys.stderr)
        return 1
    if len(model.inputs) != 1:
        print(f"the model has {len(model.inputs)} inputs, but a frame is one", file=sys.stderr)
        return 1
    seconds = []
    with sys.stdin.buffer if options.frames == "-" else open(options.frames, "rb") as stream:
        frames = pixel_frames(stream, model, *options.pixels) if options.pixels else raw_frames(stream, model)
        for number, frame in enumerate(frames):
            begin = time.perf_counter()
            result = model.run(frame)
            seconds.append(time.perf_counter() - begin)
            scores = np.ravel(result[0] if isinstance(result, tuple) else result)
            best = int(scores.argmax())
            print(f"{number}\t{best}\t{scores[best]:.6g}")
    if seconds:
        middle, slow = np.percentile(seconds, [50, 99]) * 1e3
        print(f"{len(seconds)} frames; a run took {middle:.3f} ms, and 1 in 100 longer than {slow:.3f} ms")
    else:
        print("no frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
