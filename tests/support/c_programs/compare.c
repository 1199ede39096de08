/* Runs all models of the program on inputs from files, and compares the outputs with files, byte by byte: with one to
   three threads, memory of two patterns and any alignment, guard bytes around all of it, several runs a context, and
   in two threads at the same time. compare FOLDER reads FOLDER/NAME.in and FOLDER/NAME.out, the tensors in order. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sbnn.h"
#include "models.h"

#define GUARD 128
#define MOST 64

static const char *folder;

struct guarded {
    unsigned char *raw;
    unsigned char *data;
    size_t bytes;
};

/* Memory with a pattern, guard bytes on both sides, and an address `shift` bytes after a multiple of 64. */
static struct guarded make(size_t bytes, size_t shift, unsigned char pattern)
{
    struct guarded made;
    made.raw = malloc(bytes + 2 * GUARD + 128);
    made.data = made.raw + GUARD;
    made.data += (64 - (uintptr_t)made.data % 64) % 64 + shift;
    made.bytes = bytes;
    memset(made.raw, 0xC3, bytes + 2 * GUARD + 128);
    memset(made.data, pattern, bytes);
    return made;
}

static int intact(const struct guarded *memory)
{
    const unsigned char *end = memory->raw + memory->bytes + 2 * GUARD + 128, *at;
    for (at = memory->raw; at < end; at++)
        if ((at < memory->data || at >= memory->data + memory->bytes) && *at != 0xC3)
            return 0;
    return 1;
}

static void load(const char *name, const char *suffix, unsigned char *to, size_t bytes)
{
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
    file = fopen(path, "rb");
    if (file == NULL || fread(to, 1, bytes, file) != bytes) {
        printf("%s: cannot read\n", path);
        exit(2);
    }
    fclose(file);
}

static int check(const struct model *model, size_t threads, size_t shift, unsigned char pattern)
{
    size_t input_count, output_count, index, total, run;
    const sbnn_tensor *inputs = model->inputs(&input_count), *outputs = model->outputs(&output_count);
    struct guarded in[MOST], out[MOST], context, all, wanted;
    sbnn_input given[MOST];
    sbnn_output taken[MOST];
    sbnn_options options = {threads};
    size_t bytes = model->context_bytes(&options);
    int failures = 0, code;
    if (threads == 1 && (bytes != model->one_thread || bytes != model->context_bytes(NULL))) {
        printf("%s: another size of a context in the header\n", model->name);
        failures++;
    }
    for (index = 0, total = 0; index < input_count; index++)
        total += inputs[index].bytes;
    all = make(total, 0, 0);
    load(model->name, "in", all.data, total);
    for (index = 0, total = 0; index < input_count; total += inputs[index++].bytes) {
        in[index] = make(inputs[index].bytes, shift, 0);
        memcpy(in[index].data, all.data + total, inputs[index].bytes);
        given[index].data = in[index].data;
        given[index].bytes = inputs[index].bytes;
    }
    for (index = 0, total = 0; index < output_count; total += outputs[index++].bytes) {
        out[index] = make(outputs[index].bytes, shift, pattern);
        taken[index].data = out[index].data;
        taken[index].bytes = outputs[index].bytes;
    }
    wanted = make(total, 0, 0);
    load(model->name, "out", wanted.data, total);
    context = make(bytes, shift, pattern);
    code = model->init(context.data, bytes, &options);
    for (run = 0; run < 2 && code == SBNN_OK; run++) {
        code = model->run(context.data, given, taken);
        for (index = 0, total = 0; index < output_count && code == SBNN_OK; total += outputs[index++].bytes) {
            if (memcmp(out[index].data, wanted.data + total, outputs[index].bytes) != 0) {
                printf("%s: output %s differs: threads %zu, shift %zu, pattern %d, run %zu\n", model->name,
                       outputs[index].name, threads, shift, pattern, run);
                failures++;
            }
            memset(out[index].data, pattern, outputs[index].bytes);
        }
    }
    if (code != SBNN_OK) {
        printf("%s: code %d: %s\n", model->name, code, model->last_error(context.data));
        failures++;
    }
    model->close(context.data);
    for (index = 0, total = 0; index < input_count; total += inputs[index++].bytes) {
        if (!intact(&in[index]) || memcmp(in[index].data, all.data + total, inputs[index].bytes) != 0) {
            printf("%s: input %zu was written\n", model->name, index);
            failures++;
        }
        free(in[index].raw);
    }
    for (index = 0; index < output_count; index++) {
        if (!intact(&out[index])) {
            printf("%s: bytes beside output %zu were written\n", model->name, index);
            failures++;
        }
        free(out[index].raw);
    }
    if (!intact(&context)) {
        printf("%s: bytes beside the context were written, with %zu threads\n", model->name, threads);
        failures++;
    }
    free(context.raw);
    free(all.raw);
    free(wanted.raw);
    return failures;
}

static void *check_all(void *argument)
{
    size_t threads = *(const size_t *)argument;
    const struct model *model;
    intptr_t failures = 0;
    for (model = models; model->name != NULL; model++)
        failures += check(model, threads, 0, 0x7F);
    return (void *)failures;
}

int main(int count, char **arguments)
{
    static const size_t threads[] = {1, 2, 3};
    const struct model *model;
    pthread_t others[2];
    intptr_t failures = 0;
    size_t index;
    if (count != 2)
        return 2;
    folder = arguments[1];
    for (model = models; model->name != NULL; model++) {
        failures += check(model, 1, 0, 0xFF) + check(model, 1, 20, 0x00);
        failures += check(model, 2, 4, 0xFF) + check(model, 3, 0, 0x55);
    }
    for (index = 0; index < 2; index++)
        pthread_create(&others[index], NULL, check_all, (void *)&threads[index]);
    for (index = 0; index < 2; index++) {
        void *result;
        pthread_join(others[index], &result);
        failures += (intptr_t)result;
    }
    printf("%ld failures\n", (long)failures);
    return failures != 0;
}
