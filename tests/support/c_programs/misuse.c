/* Calls the model `first` (x: float32 of 9216 bytes, b: int64 of 24 bytes; z, y, k) in every wrong way: each gives a
   code and a sentence, and nothing else happens. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "first.h"
#include "small.h"

static int failures;

static void expect(int line, int code, int wanted, const char *text, const char *part)
{
    if (code == wanted && (part == NULL || strstr(text, part) != NULL))
        return;
    printf("line %d: code %d instead of %d: %s\n", line, code, wanted, text);
    failures++;
}

#define EXPECT(call, wanted, memory, part)                                      \
    do {                                                                        \
        int code_ = (call);                                                     \
        expect(__LINE__, code_, wanted, first_last_error(memory), part);        \
    } while (0)

static _Alignas(64) unsigned char memory[FIRST_CONTEXT_BYTES], other[SMALL_CONTEXT_BYTES], copy[FIRST_CONTEXT_BYTES];
static _Alignas(64) float x[2304], z[2304], y[2304], q[12], large[2][2304];
static _Alignas(64) int64_t b[3] = {1, -2, 3}, k[3];

int main(void)
{
    sbnn_input inputs[2] = {{x, sizeof x}, {b, sizeof b}};
    sbnn_output outputs[3] = {{z, sizeof z}, {y, sizeof y}, {k, sizeof k}};
    sbnn_input wrong_inputs[2];
    sbnn_output wrong[3];
    sbnn_options options = {0};
    size_t bytes, count, index;
    unsigned char *garbage;

    /* The context. */
    EXPECT(first_init(NULL, sizeof memory, NULL), SBNN_ERROR_NULL, NULL, "NULL");
    EXPECT(first_run(NULL, inputs, outputs), SBNN_ERROR_NULL, NULL, "NULL");
    EXPECT(first_run(memory, inputs, outputs), SBNN_ERROR_CONTEXT, memory, "call init first");
    for (bytes = 0; bytes < sizeof memory; bytes += bytes < 1000 ? 1 : 97) {
        unsigned char *little = malloc(bytes + 1); /* the sanitizer finds what is written beyond it */
        int code = first_init(little, bytes, NULL);
        if (code != SBNN_ERROR_MEMORY)
            EXPECT(code, SBNN_ERROR_MEMORY, memory, NULL);
        if (bytes > 400)
            EXPECT(code, SBNN_ERROR_MEMORY, little, "bytes of memory, but needs");
        if (bytes > 400)
            EXPECT(first_run(little, inputs, outputs), SBNN_ERROR_CONTEXT, little, NULL);
        free(little);
    }
    options.threads = 257;
    EXPECT(first_init(memory, sizeof memory, &options), SBNN_ERROR_OPTIONS, memory, "at most 256");
    EXPECT((int)first_context_bytes(&options), 0, memory, NULL);
    options.threads = SIZE_MAX;
    EXPECT(first_init(memory, sizeof memory, &options), SBNN_ERROR_OPTIONS, memory, NULL);
    options.threads = 2;
    EXPECT(first_init(memory, sizeof memory, &options), SBNN_ERROR_MEMORY, memory, NULL);
    garbage = malloc(4096);
    for (index = 0; index < 4096; index++)
        garbage[index] = (unsigned char)(index * 167 + 13);
    EXPECT(first_run(garbage, inputs, outputs), SBNN_ERROR_CONTEXT, garbage, "call init first");
    first_close(garbage);
    first_close(NULL);
    free(garbage);
    EXPECT(small_init(other, sizeof other, NULL), SBNN_OK, memory, NULL);
    EXPECT(first_run(other, inputs, outputs), SBNN_ERROR_CONTEXT, other, "no context of this model");
    first_close(other);
    EXPECT(first_init(memory, sizeof memory, NULL), SBNN_OK, memory, "no error");
    memcpy(copy, memory, sizeof memory);
    EXPECT(first_run(copy, inputs, outputs), SBNN_ERROR_CONTEXT, copy, NULL);

    /* Inputs and outputs. */
    EXPECT(first_run(memory, NULL, outputs), SBNN_ERROR_NULL, memory, "array of inputs");
    EXPECT(first_run(memory, inputs, NULL), SBNN_ERROR_NULL, memory, "array of outputs");
    for (index = 0; index < 2; index++) {
        memcpy(wrong_inputs, inputs, sizeof inputs);
        wrong_inputs[index].data = NULL;
        EXPECT(first_run(memory, wrong_inputs, outputs), SBNN_ERROR_NULL, memory, index ? "input 1 'b' is" : "input 0 'x' is");
        memcpy(wrong_inputs, inputs, sizeof inputs);
        wrong_inputs[index].bytes++;
        EXPECT(first_run(memory, wrong_inputs, outputs), SBNN_ERROR_SIZE, memory,
               index ? "input 1 'b' has 25 bytes, but the model declares 24"
                     : "input 0 'x' has 9217 bytes, but the model declares 9216");
    }
    for (index = 0; index < 3; index++) {
        memcpy(wrong, outputs, sizeof outputs);
        wrong[index].data = NULL;
        EXPECT(first_run(memory, inputs, wrong), SBNN_ERROR_NULL, memory, "output");
        memcpy(wrong, outputs, sizeof outputs);
        wrong[index].bytes = 0;
        EXPECT(first_run(memory, inputs, wrong), SBNN_ERROR_SIZE, memory, " has 0 bytes, but");
    }
    memcpy(wrong, outputs, sizeof outputs);
    wrong[1].data = (char *)x + 8;
    EXPECT(first_run(memory, inputs, wrong), SBNN_ERROR_OVERLAP, memory, "output 1 'y' overlaps");
    wrong[1].data = memory + 512;
    EXPECT(first_run(memory, inputs, wrong), SBNN_ERROR_OVERLAP, memory, "overlaps the context");
    wrong[1].data = z;
    EXPECT(first_run(memory, inputs, wrong), SBNN_ERROR_OVERLAP, memory, "output 1 'y' overlaps output 'z'");
    wrong[0].data = large[0]; /* beside each other is fine */
    wrong[1].data = large[1];
    EXPECT(first_run(memory, inputs, wrong), SBNN_OK, memory, "no error");

    /* After all this the context works, and says so. */
    EXPECT(first_run(memory, inputs, outputs), SBNN_OK, memory, "no error");
    EXPECT(memcmp(k, b, sizeof b), 0, memory, NULL);
    first_close(memory);
    first_close(memory);
    EXPECT(first_run(memory, inputs, outputs), SBNN_ERROR_CONTEXT, memory, NULL);

    /* Descriptions. */
    EXPECT(strcmp(first_inputs(&count)[1].name, "b"), 0, memory, NULL);
    EXPECT((int)count, 2, memory, NULL);
    EXPECT(first_inputs(NULL)[1].type, SBNN_INT64, memory, NULL);
    EXPECT((int)first_outputs(NULL)[0].shape[3], 12, memory, NULL);
    EXPECT(strncmp(first_version(), "first (sbnn_tvm ", 16), 0, memory, NULL);
    {
        sbnn_input in = {x, 320};
        sbnn_output out = {q, sizeof q};
        EXPECT(small_run(other, &in, &out), SBNN_OK, memory, NULL);
        small_close(other);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
