// Popcounts as usual on AVX2: two byte shuffles look up the counts of both halves of every byte, counts are added as
// bytes, and vpsadbw adds the bytes of a word at the end. 256 bits take 8 vector instructions: xor, shift, 2 and,
// 2 shuffle, 2 add.
//
// counts[p][n] = popcount(x[p] ^ w[n])
// for x [pixels][words], w [blocks][words][CHANNELS], counts [pixels][blocks][CHANNELS].
#include <immintrin.h>
#include <stdint.h>

#define VECTORS 8
#define CHANNELS (4 * VECTORS)
#define STEPS 31 // a byte can hold the counts of 31 bytes

void popcounts(const uint64_t *x, const uint64_t *w, uint64_t *counts, long pixels, long blocks, long words) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  for (long block = 0; block < blocks; block++)
    for (long pixel = 0; pixel < pixels; pixel++) {
      __m256i sums[VECTORS];
      for (int i = 0; i < VECTORS; i++) sums[i] = zero;
      for (long first = 0; first < words; first += STEPS) {
        long last = first + STEPS < words ? first + STEPS : words;
        __m256i bytes[VECTORS];
        for (int i = 0; i < VECTORS; i++) bytes[i] = zero;
        for (long word = first; word < last; word++) {
          const __m256i *weights = (const __m256i *)(w + (block * words + word) * CHANNELS);
          __m256i input = _mm256_set1_epi64x(x[pixel * words + word]);
          for (int i = 0; i < VECTORS; i++) {
            __m256i differ = _mm256_xor_si256(input, _mm256_loadu_si256(weights + i));
            __m256i lower = _mm256_shuffle_epi8(table, _mm256_and_si256(differ, low));
            __m256i upper = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(differ, 4), low));
            bytes[i] = _mm256_add_epi8(bytes[i], _mm256_add_epi8(lower, upper));
          }
        }
        for (int i = 0; i < VECTORS; i++) sums[i] = _mm256_add_epi64(sums[i], _mm256_sad_epu8(bytes[i], zero));
      }
      for (int i = 0; i < VECTORS; i++)
        _mm256_storeu_si256((__m256i *)(counts + (pixel * blocks + block) * CHANNELS) + i, sums[i]);
    }
}
