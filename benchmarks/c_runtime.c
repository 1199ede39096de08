/* Times a model as a C program uses it: c_runtime INPUT THREADS prints one line of JSON. INPUT has all inputs, in order.
   Compiled with -DMODEL=NAME -DHEADER='"NAME.h"'. A burst of runs for each line that it reads; it ends with its input. */

#define _POSIX_C_SOURCE 200809L
#include <string.h>

#include "model_run.h"

/* Peak memory of this program; getrusage would count what the process had before it began. */
static long peak_kib(void)
{
    char line[256];
    long peak = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmHWM: %ld", &peak) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return peak;
}

int main(int count, char **arguments)
{
    sbnn_options options = {0};
    size_t bytes;
    double begin, initialised, first;
    char line[16];
    void *context;
    FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
    if (file == NULL || !make_tensors(file))
        return 2;
    fclose(file);
    options.threads = (size_t)atoi(arguments[2]);
    begin = seconds();
    bytes = F(_context_bytes)(&options);
    context = malloc(bytes);
    if (F(_init)(context, bytes, &options) != SBNN_OK) {
        fprintf(stderr, "%s\n", F(_last_error)(context));
        return 1;
    }
    initialised = seconds();
    if (F(_run)(context, inputs, outputs) != SBNN_OK) {
        fprintf(stderr, "%s\n", F(_last_error)(context));
        return 1;
    }
    first = seconds();
    printf("{\"init\": %.9f, \"first\": %.9f, \"context\": %zu, \"peak_kib\": %ld}\n", initialised - begin,
           first - initialised, bytes, peak_kib());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        double end = seconds() + 0.02, now;
        F(_run)(context, inputs, outputs);
        printf("[");
        do {
            begin = seconds();
            F(_run)(context, inputs, outputs);
            now = seconds();
            printf("%.9f, ", now - begin);
        } while (now < end);
        printf("%.9f]\n", now - begin);
        fflush(stdout);
    }
    F(_close)(context);
    free(context);
    return 0;
}
