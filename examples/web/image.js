/* From a drawing to the input of the model: as the digits of the data set were made (UCI, "Optical recognition of
   handwritten digits"). A digit fills a bitmap of 32x32; each of the 8x8 inputs is the number of its 16 pixels that are
   ink, from 0 to 16. The model takes these numbers divided by 8, less 1. */

const BITMAP = 32
const SIZE = 8
const BLOCK = BITMAP / SIZE

/* ink: one number for each pixel of the drawing, row by row; above 0.5 is ink. Null if there is none. */
export function inputOf(ink, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1]
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[y * width + x] > 0.5) {
        left = Math.min(left, x)
        right = Math.max(right, x)
        top = Math.min(top, y)
        bottom = Math.max(bottom, y)
      }
    }
  }
  if (right < 0) return null
  const side = Math.max(right - left, bottom - top) + 1
  const [middleX, middleY] = [(left + right + 1) / 2, (top + bottom + 1) / 2]
  const counts = new Float32Array(SIZE * SIZE)
  for (let row = 0; row < BITMAP; row++) {
    for (let column = 0; column < BITMAP; column++) {
      const x = Math.floor(middleX + ((column + 0.5) / BITMAP - 0.5) * side)
      const y = Math.floor(middleY + ((row + 0.5) / BITMAP - 0.5) * side)
      const inside = x >= 0 && x < width && y >= 0 && y < height
      if (inside && ink[y * width + x] > 0.5) counts[Math.floor(row / BLOCK) * SIZE + Math.floor(column / BLOCK)]++
    }
  }
  return counts.map(count => count / 8 - 1)
}

/* Probabilities from the outputs of the model. */
export function softmax(scores) {
  const largest = Math.max(...scores)
  const powers = Array.from(scores, score => Math.exp(score - largest))
  const sum = powers.reduce((total, power) => total + power, 0)
  return powers.map(power => power / sum)
}
