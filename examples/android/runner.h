/* A model with one input and one output, and the memory that it needs. */

#ifndef RUNNER_H
#define RUNNER_H

#include <stddef.h>

typedef struct runner runner;

/* Make a runner that uses this many threads. NULL if there is no memory, or the CPU cannot run the model. */
runner *runner_new(size_t threads);

/* Bytes of the input and of the output. */
size_t runner_input_bytes(void);
size_t runner_output_bytes(void);

/* Compute the output. NULL if all went well, otherwise a sentence. One thread at a time may use a runner. */
const char *runner_run(runner *runner, const void *input, void *output);

void runner_free(runner *runner);

#endif
