// Runs a model in Node.js: node node.mjs MODEL.mjs. It reads and writes what main.c.in does.

import { readSync, writeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const ARRAYS = { bool: Uint8Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  float16: globalThis.Float16Array ?? Uint16Array, float32: Float32Array, float64: Float64Array }

// Whether all of the bytes were there to read.
function read(bytes) {
  for (let done = 0; done < bytes.length;) {
    try {
      const got = readSync(0, bytes, done, bytes.length - done)
      if (got === 0) return false
      done += got
    } catch (error) {
      if (error.code === 'EOF') return false
      if (error.code !== 'EAGAIN') throw error
    }
  }
  return true
}

function write(bytes) {
  for (let done = 0; done < bytes.length;) done += writeSync(1, bytes, done)
}

const { load } = await import(pathToFileURL(process.argv[2]))
const model = await load()
const again = new Uint8Array(1)
while (read(again)) {
  if (again[0] === 0) {
    write(again)
    continue
  }
  const inputs = {}
  for (const { name, type, shape } of model.inputs) {
    const array = new ARRAYS[type](shape.reduce((size, extent) => size * extent, 1))
    if (!read(new Uint8Array(array.buffer))) throw new Error('the input ends early')
    inputs[name] = array
  }
  const outputs = model.run(inputs)
  for (const { name } of model.outputs) {
    const array = outputs[name]
    write(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
  }
}
