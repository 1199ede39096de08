/* Times a model on several numbers of threads: network_scaling INPUT SECONDS THREADS... prints one line of JSON.

   Compiled with -DMODEL=NAME -DHEADER='"NAME.h"'. INPUT has all inputs, in order. The generated source of the model
   calls scaling_step(i) before its i-th kernel, and once after the last one (network_scaling.py inserts that). There is a
   context for each number of threads, and bursts of runs in turns, so that noise affects all of them equally. */

#define _POSIX_C_SOURCE 200809L
#include "model_run.h"

#define MOST_STEPS 1024
#define MOST_NUMBERS 16
#define MOST_RUNS 20000
#define BURST 0.02

static double began[MOST_STEPS];
static int steps;

void scaling_step(int step)
{
    began[step] = seconds();
    steps = step;
}

static int ascending(const void *a, const void *b)
{
    float first = *(const float *)a, second = *(const float *)b;
    return (first > second) - (first < second);
}

static void print(float *times, int count)
{
    qsort(times, (size_t)count, sizeof *times, ascending);
    printf("[%.9f, %.9f]", (double)times[0], (double)times[count / 2]);
}

int main(int count, char **arguments)
{
    static void *contexts[MOST_NUMBERS];
    static float *times[MOST_NUMBERS]; /* [steps + 1][MOST_RUNS]; the last row is the whole run */
    static int runs[MOST_NUMBERS];
    sbnn_options options = {0};
    size_t bytes;
    int numbers = count - 3, each, step;
    double end;
    FILE *file = numbers > 0 && numbers <= MOST_NUMBERS ? fopen(arguments[1], "rb") : NULL;
    if (file == NULL || !make_tensors(file))
        return 2;
    fclose(file);
    for (each = 0; each < numbers; each++) {
        options.threads = (size_t)atoi(arguments[3 + each]);
        bytes = F(_context_bytes)(&options);
        contexts[each] = malloc(bytes);
        if (F(_init)(contexts[each], bytes, &options) != SBNN_OK || F(_run)(contexts[each], inputs, outputs) != SBNN_OK) {
            fprintf(stderr, "%s\n", F(_last_error)(contexts[each]));
            return 1;
        }
        times[each] = malloc((size_t)(steps + 1) * MOST_RUNS * sizeof(float));
    }
    end = seconds() + atof(arguments[2]);
    do {
        for (each = 0; each < numbers; each++) {
            double burst_end = seconds() + BURST;
            F(_run)(contexts[each], inputs, outputs);
            do {
                int run = runs[each] < MOST_RUNS ? runs[each]++ : rand() % MOST_RUNS;
                double begin = seconds();
                F(_run)(contexts[each], inputs, outputs);
                times[each][steps * MOST_RUNS + run] = (float)(seconds() - begin);
                for (step = 0; step < steps; step++)
                    times[each][step * MOST_RUNS + run] = (float)(began[step + 1] - began[step]);
            } while (seconds() < burst_end);
        }
    } while (seconds() < end);
    printf("[");
    for (each = 0; each < numbers; each++) {
        printf("%s[", each > 0 ? ", " : "");
        for (step = 0; step <= steps; step++) {
            printf("%s", step > 0 ? ", " : "");
            print(times[each] + step * MOST_RUNS, runs[each]);
        }
        printf("]");
        F(_close)(contexts[each]);
    }
    printf("]\n");
    return 0;
}
