/* From a drawing to the input of the model, as the images of MNIST were made: a digit is scaled to fit 20x20 pixels, with
   grey pixels at its edges, and its centre of mass is in the middle of pixel (14, 14) of 28x28. The model takes -1 for
   background and 1 for ink. */

const SIZE = 28
const BOX = 20
const CENTRE = 14.5
const SAMPLES = 4 // per pixel, in each direction
const INK = 0.1

/* ink: one number for each pixel of the drawing, row by row, from 0 to 1. Null if there is none above INK. */
export function inputOf(ink, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1]
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[y * width + x] > INK) {
        left = Math.min(left, x)
        right = Math.max(right, x)
        top = Math.min(top, y)
        bottom = Math.max(bottom, y)
      }
    }
  }
  if (right < 0) return null
  const at = (x, y) => (x >= left && x <= right && y >= top && y <= bottom ? ink[y * width + x] : 0)
  const scale = (Math.max(right - left, bottom - top) + 1) / BOX // pixels of the drawing for one of the input
  let [mass, massX, massY] = [0, 0, 0]
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      mass += at(x, y)
      massX += at(x, y) * (x + 0.5)
      massY += at(x, y) * (y + 0.5)
    }
  }
  // Whole pixels, as in MNIST: from the corner of the digit to where it is in the input.
  const column = Math.round(CENTRE - (massX / mass - left) / scale)
  const row = Math.round(CENTRE - (massY / mass - top) / scale)
  return Float32Array.from({ length: SIZE * SIZE }, (_, i) => {
    let sum = 0
    for (let n = 0; n < SAMPLES * SAMPLES; n++) {
      const x = (i % SIZE) - column + ((n % SAMPLES) + 0.5) / SAMPLES
      const y = Math.floor(i / SIZE) - row + (Math.floor(n / SAMPLES) + 0.5) / SAMPLES
      sum += at(Math.floor(left + x * scale), Math.floor(top + y * scale))
    }
    return (2 * sum) / (SAMPLES * SAMPLES) - 1
  })
}

/* Probabilities from the outputs of the model. */
export function softmax(scores) {
  const largest = Math.max(...scores)
  const powers = Array.from(scores, score => Math.exp(score - largest))
  const sum = powers.reduce((total, power) => total + power, 0)
  return powers.map(power => power / sum)
}
