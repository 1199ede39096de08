// Runs a program in a WebAssembly module in Node.js: node host.mjs PROGRAM.wasm. wasm.c calls these functions.

import { readFileSync, readSync, writeSync } from 'node:fs'

const bytes = (at, count) => new Uint8Array(instance.exports.memory.buffer, at, count)

const host = {
  read(at, count) {
    let done = 0
    while (done < count) {
      let got
      try {
        got = readSync(0, bytes(at, count), done, count - done)
      } catch (error) {
        if (error.code === 'EAGAIN') continue
        if (error.code === 'EOF') break
        throw error
      }
      if (got === 0) break
      done += got
    }
    return done
  },
  write(at, count) {
    for (let done = 0; done < count;) done += writeSync(1, bytes(at, count), done)
  },
  fail(at) {
    const memory = new Uint8Array(instance.exports.memory.buffer)
    throw new Error(new TextDecoder().decode(memory.subarray(at, memory.indexOf(0, at))))
  }
}

const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), { host })
process.exitCode = instance.exports.main()
