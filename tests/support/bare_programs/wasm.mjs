// Runs a WebAssembly program that imports the functions of semihosting.h: node wasm.mjs PROGRAM

import { readFileSync, writeSync } from 'node:fs'

const env = {
  host_write(data, bytes) {
    const view = new Uint8Array(program.exports.memory.buffer, data, bytes)
    for (let done = 0; done < bytes;) done += writeSync(1, view, done)
  },
  host_exit: process.exit,
}
const program = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(process.argv[2])), { env })
process.exit(program.exports.main())
