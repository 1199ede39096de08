/* Measures a model on the machine where it runs, which needs neither Python nor TVM nor shared libraries:

       bench_program SECONDS THREADS

   It prints one result a line, `name value`; sbnn_tvm/profiling/board.py reads them. It is compiled with
   -DMODEL_NAME=NAME -include NAME.h, and linked with the static library of the model. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JOIN_NAMES(a, b) a##b
#define JOIN(a, b) JOIN_NAMES(a, b)
#define MODEL(function) JOIN(MODEL_NAME, function)

#define MOST_SAMPLES 100000
#define SAMPLE_SECONDS 50e-6 /* of one sample: many times what reading the clock takes */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int fail(const char *reason)
{
    fprintf(stderr, "%s\n", reason);
    return 1;
}

static void *aligned(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (memory == NULL)
        exit(fail("the memory does not suffice"));
    return memory;
}

/* Floats between -1 and 1, and integers of 0 and 1, which are indices of whatever a model looks up. */
static void fill(const sbnn_tensor *tensor, unsigned char *data)
{
    static uint32_t state = 1;
    size_t count = 1, index;
    for (index = 0; index < tensor->dimensions; index++)
        count *= (size_t)tensor->shape[index];
    memset(data, 0, tensor->bytes);
    for (index = 0; index < count; index++) {
        uint32_t random = (state = state * 1664525u + 1013904223u) >> 8;
        double real = random / 8388608.0 - 1;
        if (tensor->type == SBNN_FLOAT32)
            ((float *)(void *)data)[index] = (float)real;
        else if (tensor->type == SBNN_FLOAT64)
            ((double *)(void *)data)[index] = real;
        else if (tensor->type == SBNN_FLOAT16)
            ((uint16_t *)(void *)data)[index] = (uint16_t)(0x3800 | (random & 0x83ff));
        else
            data[index * (tensor->bytes / count)] = random >> 23;
    }
}

/* The first line of a file that begins with `key`, from its value on; whether there is one. */
static int print_line(const char *path, const char *key)
{
    char line[256];
    FILE *file = fopen(path, "r");
    int found = 0;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0) {
            const char *value = line + strlen(key) + strspn(line + strlen(key), "\t :");
            printf(" %.*s", (int)strcspn(value, "\n"), value);
            found = 1;
        }
    if (file != NULL)
        fclose(file);
    return found;
}

static int ascending(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

int main(int argc, char **argv)
{
    sbnn_options options = {0};
    size_t input_count, output_count, bytes, index;
    const sbnn_tensor *inputs = MODEL(_inputs)(&input_count), *outputs = MODEL(_outputs)(&output_count);
    sbnn_input *in = aligned(input_count * sizeof *in);
    sbnn_output *out = aligned(output_count * sizeof *out);
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 1, begin, end, first, *samples;
    long repeats, run, count = 0;
    void *context;

    options.threads = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    for (index = 0; index < input_count; index++) {
        unsigned char *data = aligned(inputs[index].bytes);
        fill(&inputs[index], data);
        in[index] = (sbnn_input){data, inputs[index].bytes};
    }
    for (index = 0; index < output_count; index++)
        out[index] = (sbnn_output){aligned(outputs[index].bytes), outputs[index].bytes};

    begin = now();
    bytes = MODEL(_context_bytes)(&options);
    if (bytes == 0)
        return fail("the number of threads is not allowed");
    context = aligned(bytes);
    if (MODEL(_init)(context, bytes, &options) != SBNN_OK)
        return fail(MODEL(_last_error)(context));
    printf("init_seconds %.9f\n", now() - begin);
    begin = now();
    if (MODEL(_run)(context, in, out) != SBNN_OK)
        return fail(MODEL(_last_error)(context));
    first = now() - begin;
    printf("first_run_seconds %.9f\ncontext_bytes %zu\npeak", first, bytes);
    print_line("/proc/self/status", "VmHWM"); /* not getrusage's, which begins with that of the shell */

    begin = now(); /* the second run has warm caches */
    MODEL(_run)(context, in, out);
    repeats = 1 + (long)(SAMPLE_SECONDS / (now() - begin + 1e-9));
    samples = aligned(MOST_SAMPLES * sizeof *samples);
    end = now() + seconds;
    do {
        begin = now();
        for (run = 0; run < repeats; run++)
            MODEL(_run)(context, in, out);
        samples[count++] = (now() - begin) / (double)repeats;
    } while ((now() < end || count < 3) && count < MOST_SAMPLES);
    MODEL(_close)(context);

    qsort(samples, (size_t)count, sizeof *samples, ascending);
    printf("\nminimum_seconds %.9f\nmedian_seconds %.9f\nruns %ld\nboard", samples[0], samples[count / 2],
           count * repeats);
    print_line("/proc/device-tree/model", "");
    printf("\ncpu");
    if (!print_line("/proc/cpuinfo", "model name") && !print_line("/proc/cpuinfo", "CPU part"))
        print_line("/proc/cpuinfo", "uarch");
    printf("\n");
    return 0;
}
