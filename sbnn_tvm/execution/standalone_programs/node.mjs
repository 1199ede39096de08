// Runs a model in Node.js: node node.mjs MODEL.mjs. It reads and writes what main.c.in does.

import { readFileSync, writeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const ARRAYS = { bool: Uint8Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  float16: globalThis.Float16Array ?? Uint16Array, float32: Float32Array, float64: Float64Array }

const { load } = await import(pathToFileURL(process.argv[2]))
const model = await load()
const data = readFileSync(0)
for (let at = 0; at < data.length;) {
  at += 1 // a byte before each run
  const inputs = {}
  for (const { name, type, shape } of model.inputs) {
    const array = ARRAYS[type]
    const bytes = shape.reduce((size, extent) => size * extent, array.BYTES_PER_ELEMENT)
    inputs[name] = new array(data.buffer.slice(data.byteOffset + at, data.byteOffset + at + bytes))
    at += bytes
  }
  const outputs = model.run(inputs)
  for (const { name } of model.outputs) {
    const bytes = new Uint8Array(outputs[name].buffer)
    for (let done = 0; done < bytes.length;) done += writeSync(1, bytes, done)
  }
}
