"""Makes the files of this folder: networks by TensorFlow's and Larq's converters, with what their interpreters compute.

Run it in an environment of its own; nothing else here needs TensorFlow:

    pip install "tensorflow-cpu==2.15.1" "larq==0.13.3" "larq-compute-engine==0.16.0" "numpy<2"
    python tests/frontends/tflite/cases/make_cases.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import larq
import larq_compute_engine as lce
import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=4096).astype(np.float32)
SIGN = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
layers = tf.keras.layers


def numbers(*shape: int) -> Any:
    """A random float32 constant."""
    return tf.constant(RNG.normal(size=shape).astype(np.float32))


IMAGES = (2, 5, 6, 4)
ROWS = (3, 8)

FLOAT_CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "conv_same": (IMAGES, lambda x: tf.nn.relu(tf.nn.conv2d(x, numbers(3, 3, 4, 5), 2, "SAME") + numbers(5))),
    "conv_valid": (IMAGES, lambda x: tf.nn.relu6(tf.nn.conv2d(x, numbers(2, 3, 4, 5), (1, 2), "VALID"))),
    "conv_dilated": (IMAGES, lambda x: tf.nn.conv2d(x, numbers(3, 2, 4, 5), 1, "SAME", dilations=2)),
    "conv_grouped": (IMAGES, lambda x: tf.nn.conv2d(x, numbers(3, 3, 2, 6), 1, "SAME")),
    "depthwise": (IMAGES, lambda x: tf.nn.depthwise_conv2d(x, numbers(3, 3, 4, 2), (1, 2, 2, 1), "SAME") + numbers(8)),
    "conv_transpose": (IMAGES, lambda x: tf.nn.conv2d_transpose(x, numbers(3, 3, 5, 4), (2, 10, 12, 5), 2, "SAME")),
    "conv_transpose_valid": (
        IMAGES,
        lambda x: tf.nn.conv2d_transpose(x, numbers(2, 3, 5, 4), (2, 6, 13, 5), (1, 2), "VALID"),
    ),
    "dense": (ROWS, lambda x: tf.nn.relu(tf.matmul(x, numbers(8, 5)) + numbers(5))),
    "dense_of_images": (IMAGES, lambda x: tf.matmul(tf.reshape(x, (2, -1)), numbers(120, 5))),
    "matmul": ((2, 3, 4), lambda x: tf.matmul(x, tf.nn.softmax(x), transpose_b=True)),
    "max_pool": (IMAGES, lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME")),
    "average_pool": (IMAGES, lambda x: tf.nn.avg_pool2d(x, (2, 3), 2, "SAME")),
    "average_pool_valid": (IMAGES, lambda x: tf.nn.relu(tf.nn.avg_pool2d(x, (2, 3), 1, "VALID"))),
    "mean": (IMAGES, lambda x: tf.reduce_mean(x, (1, 2)) + tf.reduce_max(x, (1, 2))),
    "mean_kept": (IMAGES, lambda x: x * tf.sigmoid(tf.reduce_mean(x, (1, 2), keepdims=True))),
    "reductions": (IMAGES, lambda x: tf.reduce_sum(x, 3) + tf.reduce_min(x, -1) * tf.reduce_prod(x, 3)),
    "argmax": (IMAGES, lambda x: tf.argmax(x, 3, tf.int32) + tf.argmin(x, 3, tf.int32)),
    "arithmetic": (IMAGES, lambda x: (x * numbers(4) - numbers(6, 1)) / (x * x + 2.0) + x),
    "activations": (IMAGES, lambda x: tf.nn.leaky_relu(x, 0.1) + tf.nn.elu(x) + tf.tanh(x) + tf.nn.sigmoid(x)),
    "hard_swish": (IMAGES, lambda x: x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6)),
    "functions": (
        IMAGES,
        lambda x: tf.sqrt(tf.abs(x)) + tf.math.rsqrt(tf.exp(x)) + tf.math.log(tf.square(x) + 1.0) + tf.sin(x),
    ),
    "roundings": (IMAGES, lambda x: tf.round(x * 2) + tf.floor(x) * tf.math.ceil(x) - tf.cos(-x)),
    "comparisons": (IMAGES, lambda x: tf.where(x >= 0.1, x, tf.where((x < -0.5) | (x > -0.1), x * 2, numbers(4)))),
    "casts": (IMAGES, lambda x: tf.cast(x > 0, tf.float32) + tf.cast(tf.cast(x * 3, tf.int32), tf.float32)),
    "maximum": (IMAGES, lambda x: tf.minimum(tf.maximum(x, numbers(4)), 0.5) + tf.math.squared_difference(x, 1.0)),
    "softmax": (ROWS, lambda x: tf.nn.softmax(x) + tf.nn.log_softmax(x)),
    "softmax_of_images": (IMAGES, lambda x: tf.nn.softmax(x)),
    "normalise": (IMAGES, lambda x: tf.nn.l2_normalize(x, -1)),
    "lrn": (IMAGES, lambda x: tf.nn.local_response_normalization(x, 1, 1.0, 0.2, 0.7)),
    "concatenation": (IMAGES, lambda x: tf.concat([x, tf.nn.relu(x), numbers(2, 5, 6, 2)], 3)),
    "concatenation_of_rows": (IMAGES, lambda x: tf.concat([x, -x], 1)),
    "split": (IMAGES, lambda x: tf.concat(tf.split(x, 2, 3)[::-1], 3)),
    "split_sizes": (IMAGES, lambda x: tf.concat(tf.split(x, (1, 3), 3)[::-1], 3)),
    "slices": (IMAGES, lambda x: x[:, 1::2, -5:-1, 1:] * tf.slice(x, (0, 0, 0, 1), (2, 2, 4, 3))),
    "slice_of_one": (IMAGES, lambda x: x[:, 2, ::-1, :]),
    "stack": (ROWS, lambda x: tf.stack(tf.unstack(x, axis=0)[::-1], 1)),
    "pad": (IMAGES, lambda x: tf.pad(x, ((0, 0), (1, 2), (0, 1), (2, 0)))),
    "pad_value": (IMAGES, lambda x: tf.pad(x, ((0, 0), (1, 2), (0, 1), (2, 0)), constant_values=3.0)),
    "pad_reflect": (IMAGES, lambda x: tf.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), "REFLECT")),
    "transpose": (IMAGES, lambda x: tf.nn.relu(tf.transpose(x, (0, 3, 1, 2))) * numbers(6)),
    "shuffle": (
        IMAGES,
        lambda x: tf.reshape(tf.transpose(tf.reshape(x, (2, 5, 6, 2, 2)), (0, 1, 2, 4, 3)), (2, 5, 6, 4)),
    ),
    "reshape": (IMAGES, lambda x: tf.reshape(tf.nn.max_pool2d(x, 2, 1, "VALID"), (2, -1))),
    "squeeze": (IMAGES, lambda x: tf.squeeze(tf.reduce_mean(x, 1, keepdims=True), 1) + tf.expand_dims(x[:, 0, 0], 1)),
    "bilinear": (IMAGES, lambda x: tf.compat.v1.image.resize_bilinear(x, (10, 8))),
    "bilinear_half": (IMAGES, lambda x: tf.compat.v1.image.resize_bilinear(x, (10, 4), half_pixel_centers=True)),
    "bilinear_corners": (IMAGES, lambda x: tf.compat.v1.image.resize_bilinear(x, (9, 8), align_corners=True)),
    "nearest": (IMAGES, lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (10, 8))),
    "nearest_half": (IMAGES, lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (10, 8), half_pixel_centers=True)),
    "nearest_corners": (IMAGES, lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (9, 8), align_corners=True)),
    "depth_to_space": ((2, 3, 2, 8), lambda x: tf.nn.depth_to_space(x, 2)),
    "space_to_depth": ((1, 4, 6, 3), lambda x: tf.nn.space_to_depth(x, 2)),
    "gather": (IMAGES, lambda x: tf.gather(x, [3, 0, 0], axis=3)),
    "tile": (IMAGES, lambda x: tf.tile(x, (1, 2, 1, 3))),
    "broadcast": (ROWS, lambda x: tf.broadcast_to(tf.reshape(x, (3, 1, 8)), (3, 2, 8))),
    "prelu": (IMAGES, layers.PReLU(alpha_initializer="random_normal", shared_axes=(1, 2))),
    "shape": ((2, 4, 6), lambda x: tf.reshape(x, (tf.shape(x)[0], tf.shape(x)[1] * 2, 3))),
}


def float_cases() -> None:
    """One network for each operator or group of operators, by TensorFlow's converter and interpreter."""
    cases = {}
    for name, (shape, function) in FLOAT_CASES.items():
        cases[name] = run(name, shape, converter_of(shape, function).convert())
    converter = converter_of(IMAGES, FLOAT_CASES["conv_same"][1])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    cases["float16_weights"] = run("float16_weights", IMAGES, converter.convert())
    save("float_operators", cases, max(int(np.prod(shape)) for shape, _ in FLOAT_CASES.values()))


def converter_of(shape: tuple[int, ...], function: Callable[[Any], Any]) -> Any:
    """TensorFlow's converter for a function of one tensor."""
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete])


def run(name: str, shape: tuple[int, ...], data: bytes) -> tuple[bytes, np.ndarray]:
    """A file, and what TensorFlow's interpreter computes."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(model_content=data, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], input_of(shape))
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    print(name, len(data), y.shape, *sorted({detail["op_name"] for detail in interpreter._get_ops_details()}))
    return data, y


def input_of(shape: tuple[int, ...]) -> np.ndarray:
    """The input of this shape: the first of NUMBERS."""
    return NUMBERS[: np.prod(shape)].reshape(shape)


def save(name: str, cases: dict[str, tuple[bytes, np.ndarray]], largest: int) -> None:
    """Writes cases to one file, which tests.support.tflite_cases reads; files and results are joined to save space."""
    files, results = [np.frombuffer(file, np.uint8) for file, _ in cases.values()], [y for _, y in cases.values()]
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        names=np.array(list(cases)),
        numbers=NUMBERS[:largest],
        files=np.concatenate(files),
        file_sizes=[len(file) for file in files],
        results=np.concatenate([y.astype(np.float32).reshape(-1) for y in results]),
        shapes=np.array([(*y.shape, *[0] * (4 - y.ndim)) for y in results]),
    )


def binary(filters: int, kernel: int = 3, **options: Any) -> Any:
    """A binary convolution."""
    options = {"padding": "same", "pad_values": 1, **options}
    return larq.layers.QuantConv2D(filters, kernel, use_bias=False, **SIGN, **options)


def residual(channels: int) -> Any:
    """A block of QuickNet."""

    def apply(x: Any) -> Any:
        return x + layers.BatchNormalization()(binary(channels, activation="relu")(x))

    return apply


def quicknet(x: Any) -> Any:
    """A small QuickNet, with a max pooling on bits and dense layers."""
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(layers.ReLU()(x))
    x = residual(8)(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(layers.MaxPool2D(3, strides=1, padding="same")(x))
    x = residual(36)(layers.BatchNormalization()(layers.Conv2D(36, 1)(x)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return layers.Softmax()(layers.Dense(10)(x))


def chain(x: Any) -> Any:
    """Layers that pass packed bits on: thresholds, a pooling of bits, an activation inside thresholds."""
    x = layers.BatchNormalization()(binary(33, activation="relu")(x))
    x = layers.BatchNormalization()(binary(32, strides=2)(x))
    x = layers.MaxPool2D(3, strides=2, padding="same")(x)
    return layers.BatchNormalization()(binary(8, 2)(x))


LARQ_CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "quicknet": ((16, 18, 3), quicknet),
    "chain": ((9, 10, 40), chain),
    "zero_padding": ((7, 6, 32), lambda x: layers.BatchNormalization()(binary(16, pad_values=0)(x))),
    "strides_and_dilation": (
        (9, 9, 32),
        lambda x: binary(8, 3, dilation_rate=2)(binary(32, 3, strides=2, padding="valid")(x)),
    ),
    "dense": (
        (3, 3, 32),
        lambda x: larq.layers.QuantDense(5, **SIGN)(layers.Flatten()(x)),
    ),
    "booleans": ((5, 5, 32), lambda x: tf.where(larq.quantizers.SteSign()(x) > 0, x, -2 * x)),
}


def larq_cases() -> None:
    """Networks with binary layers, by Larq's converter and interpreter."""
    cases = {}
    for name, (shape, function) in LARQ_CASES.items():
        inputs = tf.keras.Input(shape, batch_size=1)
        model = tf.keras.Model(inputs, function(inputs))
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                randomise(layer)
        data = lce.convert_keras_model(model)
        x = input_of((1, *shape))
        y = np.asarray(lce.tflite.python.interpreter.Interpreter(data).predict(x))
        print(name, len(data), y.shape, np.abs(y - model.predict(x, verbose=0)).max())
        cases[name] = data, y
    save("larq", cases, max(int(np.prod(shape)) for shape, _ in LARQ_CASES.values()))


def randomise(norm: Any) -> None:
    """Statistics as after training; a quarter of the scales negative."""
    gamma, beta, mean, variance = (weights.shape for weights in norm.get_weights())
    scales = RNG.uniform(0.5, 1.5, gamma) * RNG.choice([1, 1, 1, -1], gamma)
    norm.set_weights([scales, RNG.normal(0, 0.3, beta), RNG.normal(0, 1, mean), RNG.uniform(0.5, 4, variance)])


if __name__ == "__main__":
    tf.keras.utils.set_random_seed(0)
    float_cases()
    larq_cases()
