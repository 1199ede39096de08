/* The page: draw a digit, or drop an image of one. The model runs at every stroke. */

import { load } from './model/digits.mjs'
import { inputOf, softmax } from './image.js'

const canvas = document.querySelector('canvas')
const pen = canvas.getContext('2d', { willReadFrequently: true })
const said = document.querySelector('#said')
const bars = document.querySelector('#bars')

const model = await load().catch(error => {
  said.textContent = `${error.message} - is the model in the folder model? See the README.`
  throw error
})
const [input] = model.inputs
const [output] = model.outputs
if (input.shape.join() !== '1,1,28,28' || output.shape.join() !== '1,10') {
  said.textContent = `This page is for digits of 28x28 pixels, but the model takes ${input.shape.join('x')}.`
  throw new Error(said.textContent)
}

for (let digit = 0; digit < 10; digit++) bars.insertAdjacentHTML('beforeend', `<li>${digit} <meter max="1"></meter></li>`)

function clear() {
  pen.fillStyle = 'white'
  pen.fillRect(0, 0, canvas.width, canvas.height)
  recognise()
}

function recognise() {
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height)
  const ink = Float32Array.from({ length: data.length / 4 }, (_, i) => 1 - (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 765)
  const values = inputOf(ink, canvas.width, canvas.height)
  const meters = bars.querySelectorAll('meter')
  if (values === null) {
    meters.forEach(meter => { meter.value = 0 })
    said.textContent = 'Draw a digit, or drop an image of one.'
    return
  }
  const start = performance.now()
  const scores = model.run({ [input.name]: values })[output.name]
  const time = performance.now() - start
  const probabilities = softmax(scores)
  meters.forEach((meter, digit) => { meter.value = probabilities[digit] })
  const best = probabilities.indexOf(Math.max(...probabilities))
  said.textContent = `This is a ${best} (${Math.round(100 * probabilities[best])} %), in ${time.toFixed(2)} ms.`
}

let last = null
canvas.addEventListener('pointerdown', event => {
  canvas.setPointerCapture(event.pointerId)
  last = [event.offsetX, event.offsetY]
})
canvas.addEventListener('pointermove', event => {
  if (last === null) return
  pen.lineWidth = canvas.width / 10
  pen.lineCap = 'round'
  pen.strokeStyle = 'black'
  pen.beginPath()
  pen.moveTo(...last)
  last = [event.offsetX, event.offsetY]
  pen.lineTo(...last)
  pen.stroke()
  recognise()
})
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { last = null })

canvas.addEventListener('dragover', event => event.preventDefault())
canvas.addEventListener('drop', async event => {
  event.preventDefault()
  const [file] = event.dataTransfer.files
  if (!file?.type.startsWith('image/')) return
  const image = await createImageBitmap(file)
  const scale = Math.min(canvas.width / image.width, canvas.height / image.height)
  clear()
  pen.drawImage(image, 0, 0, image.width * scale, image.height * scale)
  recognise()
})

document.querySelector('button').addEventListener('click', clear)
clear()
