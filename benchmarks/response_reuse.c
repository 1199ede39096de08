// The additions of response reuse, alone. A layer whose kernels come from a codebook has the responses of its patterns
// ready. Each kernel adds the responses that its indices select, 64 pixels at a time, in bytes, which are widened before
// they overflow.
//
// sums[b][o] = sum over i of responses[b][i][index[o][i]], for responses [blocks][inputs][patterns][PIXELS] of -9 to 9.
#include <stdint.h>

typedef int8_t bytes __attribute__((vector_size(64)));
typedef int16_t words __attribute__((vector_size(128)));

#define VECTORS 4
#define CHANNELS 14 // the most responses of a 3x3 kernel whose sum fits a byte

void additions(const bytes *responses, const uint8_t *index, words *sums, long blocks, long inputs, long outputs,
               long patterns) {
  for (long block = 0; block < blocks; block++)
    for (long first = 0; first < inputs; first += CHANNELS) { // so few that their responses stay in the cache
      long last = first + CHANNELS < inputs ? first + CHANNELS : inputs;
      for (long o = 0; o < outputs; o++) {
        bytes total[VECTORS] = {0};
        for (long i = first; i < last; i++) {
          const bytes *response = responses + ((block * inputs + i) * patterns + index[o * inputs + i]) * VECTORS;
          for (int v = 0; v < VECTORS; v++) total[v] += response[v];
        }
        words *sum = sums + (block * outputs + o) * VECTORS;
        for (int v = 0; v < VECTORS; v++) {
          words wide = __builtin_convertvector(total[v], words);
          sum[v] = first ? sum[v] + wide : wide;
        }
      }
    }
}
