/* What the C programs of the benchmarks share: names of the model's functions, the clock, and the tensors of a run.
   Compiled with -DMODEL=NAME -DHEADER='"NAME.h"'; a program that includes it defines _POSIX_C_SOURCE first. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define F(name) JOIN(MODEL, name)

static sbnn_input inputs[64];
static sbnn_output outputs[64];

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Reads all inputs from a file, in order, and allocates the outputs; 0 if the file lacks something. */
static int make_tensors(FILE *file)
{
    size_t number, index;
    const sbnn_tensor *tensors = F(_inputs)(&number);
    for (index = 0; index < number; index++) {
        void *data = aligned_alloc(64, (tensors[index].bytes + 63) / 64 * 64);
        if (fread(data, 1, tensors[index].bytes, file) != tensors[index].bytes)
            return 0;
        inputs[index].data = data;
        inputs[index].bytes = tensors[index].bytes;
    }
    tensors = F(_outputs)(&number);
    for (index = 0; index < number; index++) {
        outputs[index].data = aligned_alloc(64, (tensors[index].bytes + 63) / 64 * 64);
        outputs[index].bytes = tensors[index].bytes;
    }
    return 1;
}
