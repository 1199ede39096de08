"""A model as a WebAssembly module: what it needs, what its ES module does in Node.js, and its types."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.deploy.library_parts import library_parts
from sbnn_tvm.errors import LibraryError
from tests.support.paths import ROOT
from tests.support.small_models import small_model

from .conftest import two_outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with two inputs and three outputs, and of one for images of 28x28 pixels."""
    folder = tmp_path_factory.mktemp("wasm")
    sbnn_tvm.compile(two_outputs(), target="wasm", name="two").export(folder / "two.wasm")
    digits = small_model(
        "p = Greater(x, t)\ns = Where(p, hi, lo)\nf = Flatten(s)\ny = MatMul(f, w)",
        {"x": (1, 1, 28, 28)},
        {"t": 0.0, "hi": 1.0, "lo": -1.0, "w": np.random.default_rng(3).choice([-1.0, 1.0], (784, 10))},
    )
    sbnn_tvm.compile(digits, target="wasm", name="digits").export(folder / "digits.wasm")
    return folder


def test_parts(folder: Path) -> None:
    parts = library_parts(folder / "two.wasm")
    assert parts is not None
    assert min(parts.code, parts.constants) > 0
    assert parts.code + parts.constants < parts.file
    assert str(parts).endswith("KiB constants")  # there is no record


def node(folder: Path, script: str) -> object:
    """What a script prints, as JSON; skips the test without Node.js."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is not installed (Debian: nodejs)")
    (folder / "script.mjs").write_text("import { load } from './two.mjs'\n" + script)
    done = subprocess.run([program, "script.mjs"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_module_needs_nothing(folder: Path) -> None:
    script = """
    import { readFileSync } from 'node:fs'
    const module = new WebAssembly.Module(readFileSync('two.wasm'))
    const exported = WebAssembly.Module.exports(module).map(({ name }) => name)
    console.log(JSON.stringify([WebAssembly.Module.imports(module), exported.sort()]))
    """
    functions = ("build", "close", "context_bytes", "init", "inputs", "last_error", "outputs", "run", "version")
    assert node(folder, script) == [[], sorted(["__heap_base", "memory", *(f"two_{each}" for each in functions)])]


def test_every_way_to_load(folder: Path) -> None:
    script = """
    import { readFileSync } from 'node:fs'
    const bytes = readFileSync('two.wasm')
    const url = new URL('two.wasm', import.meta.url)
    const response = new Response(bytes, { headers: { 'content-type': 'application/wasm' } })
    const first = await load()
    const models = [first]
    for (const source of [bytes, bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), url, url.href,
      'two.wasm', response, first.module, `data:application/wasm;base64,${bytes.toString('base64')}`])
      models.push(await load(source))
    const x = Float32Array.from({ length: 16 * 12 * 12 }, (_, i) => Math.sin(i))
    const results = models.map((model, i) => model.run({ x, b: BigInt64Array.of(1n, 2n, BigInt(i)) }))
    // Results are copies, and instances have memory of their own.
    console.log(JSON.stringify([models.length, new Set(results.map(({ y }) => y.join())).size,
      results.map(({ k }) => Number(k[2])), first.version, first.inputs, first.outputs]))
    """
    tensors = {"x": [1, 16, 12, 12], "z": [1, 16, 12, 12], "y": [1, 16, 12, 12], "b": [3], "k": [3]}

    def described(*names: str) -> list[dict[str, object]]:
        kind = {"b": "int64", "k": "int64"}
        return [{"name": n, "type": kind.get(n, "float32"), "shape": tensors[n]} for n in names]

    found = node(folder, script)
    assert isinstance(found, list)
    assert found[:3] == [9, 1, list(range(9))]
    assert found[3].startswith("two (sbnn_tvm ")
    assert found[4:] == [described("x", "b"), described("z", "y", "k")]


def test_wrong_inputs_give_a_sentence(folder: Path) -> None:
    script = """
    const model = await load()
    const x = new Float32Array(2304)
    const b = new BigInt64Array(3)
    const said = []
    const other = new Int32Array(3)
    for (const inputs of [{ x }, { x, b, c: 1 }, { x: [1, 2], b }, { x: x.subarray(1), b }, { x, b: other }, null])
      try { model.run(inputs) } catch (error) { said.push(`${error.name}: ${error.message}`) }
    for (const source of ['no.wasm', new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])])
      try { await load(source) } catch (error) { said.push(error.message) }
    console.log(JSON.stringify(said))
    """
    b = "input 'b' is a BigInt64Array of 3 values (3), not"
    x = "input 'x' is a Float32Array of 2304 values (1 x 16 x 12 x 12), not"
    assert node(folder, script) == [
        f"TypeError: {b} undefined",
        "TypeError: the model has no input 'c', but x, b",
        f"TypeError: {x} Array of 2",
        f"TypeError: {x} Float32Array of 2303",
        f"TypeError: {b} Int32Array of 3",
        "TypeError: run takes an object with an array for each input: x, b",
        "ENOENT: no such file or directory, open 'no.wasm'",
        "this WebAssembly module is no model of sbnn_tvm",
    ]


def test_types(folder: Path) -> None:
    types = (folder / "two.d.mts").read_text()
    assert "  /** float32, 1 x 16 x 12 x 12 */\n  x: Float32Array\n  /** int64, 3 */\n  b: BigInt64Array\n" in types
    assert "@" not in types.replace("@param", "") and len((folder / "two.mjs").read_bytes()) < 6000


def test_drawings_of_the_example(folder: Path) -> None:
    for name in ("image.js", "page.js"):
        shutil.copyfile(ROOT / "examples" / "web" / name, folder / f"{Path(name).stem}.mjs")
    script = """
    import { load as digits } from './digits.mjs'
    import { inputOf, softmax } from './image.mjs'
    const ink = new Float32Array(40 * 20)
    for (let y = 0; y < 40; y++) for (let x = 2; x < 10; x++) ink[y * 20 + x] = 1 // a bar, a fifth as wide as high
    const x = inputOf(ink, 20, 40)
    const { y } = (await digits()).run({ x })
    const sum = softmax(y).reduce((a, b) => a + b)
    const nothing = inputOf(ink.fill(0), 20, 40)
    console.log(JSON.stringify([Array.from(x), Array.from(y), Math.round(sum * 1e6), nothing]))
    """
    pixels, scores, total, nothing = node(folder, script)  # type: ignore[misc]
    bar = np.full((28, 28), -1.0)
    bar[5:25, 13:17] = 1  # 20 pixels high, and in the middle
    np.testing.assert_array_equal(np.reshape(pixels, (28, 28)), bar)
    weights = np.random.default_rng(3).choice([-1.0, 1.0], (784, 10))
    np.testing.assert_array_equal(scores, bar.ravel() @ weights)
    assert total == 1_000_000 and nothing is None


def test_a_drawing_becomes_an_image_of_mnist(folder: Path) -> None:
    """An image of the data set, drawn four times as large, gives the image."""
    shutil.copyfile(ROOT / "examples" / "web" / "image.js", folder / "image.mjs")
    images = sbnn_tvm.zoo.load("mnist-dense").images.reshape(10, 28, 28)
    script = """
    import { inputOf } from './image.mjs'
    const drawings = %s
    console.log(JSON.stringify(drawings.map(ink => Array.from(inputOf(Float32Array.from(ink), 112, 112)))))
    """
    drawings = (images + 1) / 2
    found = node(folder, script % drawings.repeat(4, 1).repeat(4, 2).reshape(10, -1).round(4).tolist())
    np.testing.assert_allclose(np.reshape(found, (10, 28, 28)), images, atol=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.so", "model.a"])
def test_other_forms_are_refused(name: str, tmp_path: Path) -> None:
    module = sbnn_tvm.compile(two_outputs(), target="wasm")
    with pytest.raises(LibraryError, match=r"\.wasm"):
        module.export(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_functions_of_mathematics_are_linked(tmp_path: Path) -> None:
    model = small_model("y = Sin(x)\nz = Pow(y, x)", {"x": (1, 5)}, {}, ["y", "z"])
    module = sbnn_tvm.compile(model, target="wasm", name="two")
    module.export(tmp_path / "two.wasm")
    script = """
    const { y } = (await load()).run({ x: Float32Array.of(0, 1, 2, 3, 4) })
    console.log(JSON.stringify(Array.from(y)))
    """
    np.testing.assert_allclose(node(tmp_path, script), np.sin(np.arange(5)), rtol=1e-6)  # type: ignore[arg-type]
