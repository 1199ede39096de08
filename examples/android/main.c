/* Runs the model on standard input, for adb shell: sbnn_example [RUNS] < input > output. With RUNS it also prints the
   fastest run to standard error. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "runner.h"

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

int main(int count, char **arguments)
{
    const long runs = count > 1 ? strtol(arguments[1], NULL, 10) : 1;
    runner *model = runner_new(1);
    void *input = malloc(runner_input_bytes()), *output = malloc(runner_output_bytes());
    double fastest = 1e18;
    if (model == NULL || input == NULL || output == NULL) {
        fputs("no memory, or this CPU cannot run the model\n", stderr);
        return 1;
    }
    if (fread(input, 1, runner_input_bytes(), stdin) != runner_input_bytes()) {
        fprintf(stderr, "the input is shorter than %zu bytes\n", runner_input_bytes());
        return 1;
    }
    for (long run = 0; run < (runs < 1 ? 1 : runs); run++) {
        const double start = microseconds();
        const char *error = runner_run(model, input, output);
        const double taken = microseconds() - start;
        if (error != NULL) {
            fprintf(stderr, "%s\n", error);
            return 1;
        }
        fastest = taken < fastest ? taken : fastest;
    }
    if (count > 1)
        fprintf(stderr, "%.1f us\n", fastest);
    if (fwrite(output, 1, runner_output_bytes(), stdout) != runner_output_bytes())
        return 1;
    runner_free(model);
    free(input);
    free(output);
    return 0;
}
